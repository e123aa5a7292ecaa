"""Training runs through kills, bad numbers and changed data: nothing is lost and nothing mixed."""

import contextlib
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image as Pillow
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.training import (
    files,
    kept,
    language_model,
    lesion_gate,
    plots,
    segmenter,
    session,
)
from pipeline.training.files import FullDiskError
from pipeline.training.session import CheckpointError, DivergedError, Recipe, Session, demand_origin
from tests.conftest import REPOSITORY
from tests.disk import full_disk
from tests.peers import tools

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(minutes=1, batch=1, learning_rate=0.1, warmup_steps=1, weight_decay=0)


def run_in(folder: Path, outputs: int = 1) -> Session:
    """A run of a line that begins at 0."""
    model = nn.Linear(1, outputs, bias=False)
    nn.init.zeros_(model.weight)
    return Session(model=model, recipe=RECIPE, folder=folder, progress=lambda *_: None)


def weight_of(run: Session) -> torch.Tensor:
    return next(run.model.parameters()).detach().clone()


def learn(run: Session) -> None:
    """One step towards 1."""
    run.learn((run.model(torch.ones(1)) - 1).square().sum())
    run.step += 1


def save_a_tensor(path: Path) -> None:
    save_file({"a": torch.zeros(99)}, path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_gradient_that_is_no_number_stops_the_run_before_a_weight_changes(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    learn(run)
    run.save()
    before, weight = contents(tmp_path), weight_of(run)
    out = run.model(torch.ones(1))
    loss: torch.Tensor = (out - out).sum().sqrt()  # the root of 0 is 0, and its slope infinite
    assert math.isfinite(float(loss.detach()))
    with pytest.raises(DivergedError, match=r"gradient is no number at step 1.*kept"):
        run.learn(loss)
    run.save()
    assert torch.equal(weight_of(run), weight)
    assert all(
        value.isfinite().all() for value in load_file(tmp_path / "state.safetensors").values()
    )
    assert contents(tmp_path) == before


def test_a_line_that_a_kill_has_cut_stops_neither_the_picture_nor_the_next_line(
    tmp_path: Path,
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    first = run_in(tmp_path)
    first.record({"loss": 0.5})
    first.save()
    metrics.write_text(metrics.read_text() + '{"step": 3, "lo')
    second = run_in(tmp_path)
    second.step = 7
    second.record({"loss": 0.25})
    second.save()
    assert json.loads((tmp_path / "state.json").read_text())["step"] == 7
    assert json.loads(metrics.read_text().splitlines()[-1])["loss"] == 0.25
    with Pillow.open(tmp_path / "loss.png") as picture:
        assert picture.size == (700, 320)


def test_what_was_noted_of_steps_that_a_kill_took_is_not_noted_twice(tmp_path: Path) -> None:
    def note(run: Session, *steps: int) -> None:
        for run.step in steps:
            run.record({"loss": 0.5})

    def noted() -> list[int]:
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["step"] for line in lines]

    note(run_in(tmp_path), 0, 10)  # and killed before its first checkpoint
    first = run_in(tmp_path)
    note(first, 0, 10)
    first.step = 20
    first.save()
    note(first, 20, 30)
    second = run_in(tmp_path)
    assert noted() == [0, 10]
    note(second, 20)
    assert noted() == [0, 10, 20]


def test_a_short_run_has_checkpoints_after_each_quarter_of_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, saved = itertools.count(step=5.0), []
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    run = run_in(tmp_path)  # of one minute
    monkeypatch.setattr(Session, "save", lambda self: saved.append(self.step))
    list(run.steps())
    # Step n ends at 10 + 5 n s, where more than 15 s have gone since 5 s and since the one before.
    assert saved == [3, 7, 10]


@pytest.mark.parametrize("write", [lambda p: p.write_bytes(bytes(99)), save_a_tensor])
def test_a_disk_that_is_full_is_told_of_and_leaves_what_there_was(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"before")
    said = f"{path}: cannot be written: File too large; make room there"
    with full_disk(), pytest.raises(FullDiskError, match=said), files.whole(path) as scratch:
        write(scratch)
    assert contents(tmp_path) == {"a.bin": b"before"}


def test_an_array_is_written_or_it_is_told_that_there_is_no_space(tmp_path: Path) -> None:
    path, array = tmp_path / "map.npy", np.arange(99)
    with full_disk(), pytest.raises(FullDiskError, match=f"{path}: cannot be written: File too"):
        files.save_array(path, array)
    files.save_array(path, array)
    assert np.array_equal(np.load(path), array)


def test_a_folder_whose_copy_finds_no_space_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "weights").write_bytes(bytes(99))
    model = tmp_path / "model"
    said = f"{model}: cannot be written: File too"
    with (
        full_disk(),
        pytest.raises(FullDiskError, match=said),
        files.whole_folder(model) as scratch,
    ):
        shutil.copytree(tmp_path / "base", scratch, dirs_exist_ok=True)
    assert [found.name for found in tmp_path.iterdir()] == ["base"]


def test_a_run_whose_disk_is_full_keeps_its_checkpoint(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    learn(run)
    run.save()
    learn(run)
    with full_disk():
        with pytest.raises(FullDiskError, match=f"{tmp_path / 'metrics.jsonl'}: cannot be"):
            run.record({"loss": 0.5})
        with pytest.raises(FullDiskError, match=f"{tmp_path / 'state.safetensors'}: cannot be"):
            run.save()
    assert run_in(tmp_path).step == 1


def test_moments_of_weights_that_do_not_learn_any_more_are_not_given_to_others(
    tmp_path: Path,
) -> None:
    def run(*, first_learns: bool) -> Session:
        model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        model[0].requires_grad_(first_learns)
        return Session(model=model, recipe=RECIPE, folder=tmp_path, progress=lambda *_: None)

    began = run(first_learns=True)
    learn(began)
    began.save()
    with pytest.raises(CheckpointError, match="it learnt other weights than the 2 that are to"):
        run(first_learns=False)


def test_both_axes_of_the_peaks_say_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []

    def keep(self: Figure, path: Path, **_: object) -> None:
        drawn.append(self)
        path.touch()

    monkeypatch.setattr(Figure, "savefig", keep)
    plots.peaks([0.1, 0.2], [0.5], 0.2, tmp_path / "peaks.png")
    (axes,) = drawn[0].axes
    said = ("maximum of a film's map", "density of films")
    assert (axes.get_xlabel(), axes.get_ylabel()) == said


def test_a_picture_that_cannot_be_drawn_costs_no_checkpoint(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    run.record({"loss": 0.5})
    (tmp_path / "loss.png").mkdir()
    run.step = 9
    run.save()
    assert json.loads((tmp_path / "state.json").read_text())["step"] == 9


def cut(folder: Path) -> None:
    path = folder / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def of_another_network(folder: Path) -> None:
    run_in(folder / "other", outputs=2).save()
    (folder / "other" / "state.safetensors").replace(folder / "state.safetensors")


def without_average(folder: Path) -> None:
    tensors = load_file(folder / "state.safetensors")
    save_file({k: v for k, v in tensors.items() if "ema" not in k}, folder / "state.safetensors")


def time_of(said: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "state.json").write_text(said)
        tensors = load_file(folder / "state.safetensors")
        save_file(tensors, folder / "state.safetensors")  # as runs wrote it before

    return write


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        of_another_network,
        without_average,
        time_of('{"step": 1, "spent_s": NaN}'),
        time_of("{"),
        time_of("[]"),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_what_to_do(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    run = run_in(tmp_path)
    learn(run)
    run.save()
    damage(tmp_path)
    with pytest.raises(CheckpointError, match="begin anew"):
        run_in(tmp_path)


def test_a_run_whose_kill_left_no_state_json_goes_on_all_the_same(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    learn(run)
    run.save()
    (tmp_path / "state.json").unlink()
    again = run_in(tmp_path)
    assert again.step == 1
    assert torch.equal(weight_of(again), weight_of(run))


def test_what_was_made_before_a_run_is_taken_from_its_time_for_good(tmp_path: Path) -> None:
    began = replace(RECIPE, made_s=30.0)  # of a minute

    def session_of(recipe: Recipe) -> Session:
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        return Session(model=model, recipe=recipe, folder=tmp_path, progress=lambda *_: None)

    first = session_of(began)
    assert first.spent_s == 30
    learn(first)
    assert float(weight_of(first)) == pytest.approx(0.1, rel=1e-4)  # at the full rate, as at first
    first.spent_s += 15
    first.save()
    second = session_of(RECIPE)
    assert second.spent_s == 45
    # Adam's step is the rate itself while the gradient stays: half of what was left is over.
    before = float(weight_of(second))
    learn(second)
    assert float(weight_of(second)) - before == pytest.approx(0.1 * (0.01 + 0.99 / 2), rel=0.1)
    second.spent_s += 15
    second.save()
    assert list(session_of(RECIPE).steps()) == []
    third = session_of(replace(RECIPE, minutes=2, made_s=60.0))  # a larger pool
    assert third.spent_s == 120
    assert list(third.steps()) == []


def of(folder: Path, **origin: str) -> Session:
    """A run that was begun with, or goes on with, these."""
    recipe = replace(RECIPE, origin=origin)
    return Session(model=nn.Linear(1, 1), recipe=recipe, folder=folder, progress=lambda *_: None)


def test_a_run_does_not_go_on_with_what_it_was_not_begun_with(tmp_path: Path) -> None:
    of(tmp_path, films="a", seed="0").save()
    of(tmp_path, films="a", seed="0").save()
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=r"with other films; give another --work, or remove"):
        of(tmp_path, films="b", seed="0")
    with pytest.raises(CheckpointError, match="with other films, seed;"):
        of(tmp_path, films="b", seed="1")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("said", ["{", "[]"])
def test_of_a_damaged_checkpoint_nobody_can_say_with_what_it_was_begun(
    tmp_path: Path, said: str
) -> None:
    of(tmp_path, films="a").save()
    time_of(said)(tmp_path)
    with pytest.raises(CheckpointError, match="begin anew"):
        demand_origin(tmp_path, {"films": "a"})


def test_the_same_run_writes_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name in "12345678":
        torch.manual_seed(0)
        of(tmp_path / name, films="a", seed="0").save()
        written.append(contents(tmp_path / name))
    assert all(one == written[0] for one in written)


def test_a_run_of_before_goes_on_and_says_from_then_on_with_what(tmp_path: Path) -> None:
    of(tmp_path).save()
    of(tmp_path, films="b").save()
    with pytest.raises(CheckpointError, match="other films"):
        of(tmp_path, films="a")


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"before")

    def fail() -> None:
        with files.whole(path) as scratch:
            scratch.write_bytes(b"half")
            raise OSError

    with pytest.raises(OSError):
        fail()
    assert contents(tmp_path) == {"a.bin": b"before"}


def test_a_folder_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()

    def write(*, fail: bool) -> None:
        with files.whole_folder(path) as scratch:
            (scratch / "new").touch()
            if fail:
                raise OSError

    with pytest.raises(OSError):
        write(fail=True)
    assert [found.name for found in path.iterdir()] == ["old"]
    write(fail=False)
    assert [found.name for found in path.iterdir()] == ["new"]
    assert [found.name for found in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_a_kill_left_set_aside_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / "model"
    (tmp_path / "model.before").mkdir()
    (tmp_path / "model.before" / "old").touch()
    (tmp_path / "model.part").mkdir()
    files.put_back(path)
    assert [found.name for found in path.iterdir()] == ["old"]
    (tmp_path / "model.before").mkdir()  # the kill came a moment later: the new one is there
    with files.whole_folder(path) as scratch:
        (scratch / "new").touch()
    assert [found.name for found in path.iterdir()] == ["new"]
    assert [found.name for found in tmp_path.iterdir()] == ["model"]


def test_a_digest_is_of_contents_shapes_and_their_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"weights")
    one, other = np.zeros((2, 3)), np.zeros((3, 2))
    digests = [
        kept.digest_of(one, other),
        kept.digest_of(other, one),
        kept.digest_of(one, "weights"),
        kept.digest_of(one),
    ]
    assert len(set(digests)) == 4
    assert kept.digest_of(tmp_path / "a") == kept.digest_of("weights")


SENTENCES = ["The lungs are clear.", "There is an opacity.", "The lungs are clear again."] * 2


def test_a_tokenizer_does_not_change_under_the_weights_of_its_run(tmp_path: Path) -> None:
    language_model.keep_tokenizer(SENTENCES, tmp_path)
    other = [*SENTENCES, *["Cardiomegaly is unchanged."] * 2]
    language_model.keep_tokenizer(other, tmp_path)  # nothing has been learnt with it yet
    run_in(tmp_path).save()
    before = (tmp_path / "tokenizer" / "tokenizer.json").read_bytes()
    with pytest.raises(Exception, match="not those the run began with; move"):
        language_model.keep_tokenizer(SENTENCES, tmp_path)
    again = language_model.keep_tokenizer(other, tmp_path)
    assert "cardiomegaly" in again.get_vocab()
    assert (tmp_path / "tokenizer" / "tokenizer.json").read_bytes() == before


def test_bfloat16_is_used_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def computed_in() -> torch.dtype:
        with session.autocast("cpu"):
            return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype

    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(session, "_has_bfloat16", lambda _, has=has: has)
        assert computed_in() == dtype


def test_a_resumed_run_draws_no_lesson_and_no_noise_a_second_time(tmp_path: Path) -> None:
    first = run_in(tmp_path)
    drawn, noise = np.random.default_rng(first.seed).random(), torch.rand(1)
    learn(first)
    first.save()
    second = run_in(tmp_path)
    assert np.random.default_rng(second.seed).random() != drawn
    assert not torch.equal(torch.rand(1), noise)


_TWO = """
import json, sys
from pathlib import Path
import numpy as np
import torch
from torch import nn
from pipeline.training import kept, locks, ranks
from pipeline.training.budget import Budget, OutOfTimeError
from pipeline.training.session import Recipe, Session

folder = Path(sys.argv[1])
assert ranks.join("cpu") == "cpu"
recipe = Recipe(minutes=0.03, batch=1, learning_rate=0.01, warmup_steps=1)
model = nn.Linear(3, 1)
idle = nn.Parameter(torch.zeros(1))
model.register_parameter("idle", idle)  # only one process has something to teach it
with torch.no_grad():
    model.weight += ranks.number()  # as of another library's draw
run = Session(model=model, recipe=recipe, folder=folder / "run", progress=lambda *_: None)
rng, made = np.random.default_rng(run.seed), []
parts = kept.Parts(what="ones", sizes=[1, 1], origins=[{}, {}])

def make(number, tell):
    made.append(number)
    return {"made": torch.ones(1)}

spent = []
for minutes in (1e-9, 1):
    budget = Budget(minutes)
    try:
        kept.in_parts(kept.Shelf(folder=folder / "pool", budget=budget), parts, make)
        spent.append(budget.taken_from_learning_s())
    except OutOfTimeError:
        spent.append(None)
refused = ""
with locks.held(folder / "run"):
    try:
        locks.held(folder / "run").__enter__()
    except locks.InUseError as fault:
        refused = str(fault)
lesson = rng.random(3).tolist()
for step in run.steps():
    loss = model(torch.from_numpy(rng.random(3, np.float32))).square().sum()
    run.learn(loss + (idle.sum() if ranks.number() else 0))
said = {"lesson": lesson, "noise": torch.rand(1).item(), "step": run.step, "made": made,
        "spent": spent, "refused": refused, "weights": model.weight.tolist()}
(folder / f"rank{ranks.number()}.json").write_text(json.dumps(said))
"""


@pytest.mark.timeout(600)
def test_two_processes_learn_one_model_from_lessons_of_their_own(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(_TWO)
    places = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    shared = {**os.environ, **places, "MASTER_PORT": str(tools.free_port()), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, script, tmp_path],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    faults = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], faults
    one, other = (json.loads((tmp_path / f"rank{n}.json").read_text()) for n in range(2))
    assert one["step"] == other["step"] > 0
    assert one["weights"] == other["weights"]
    assert one["lesson"] != other["lesson"]
    assert one["noise"] != other["noise"]
    assert (one["made"], other["made"]) == ([0, 1], [])
    assert one["spent"] == other["spent"]  # the minutes of the first end all of them
    holder = f"another process ({processes[0].pid})"  # the first alone holds a folder for both
    assert holder in one["refused"]
    assert one["refused"] == other["refused"]
    assert one["spent"][0] is None
    assert one["spent"][1] > 0


class Away(nn.Module):
    """A network on a device that is not the CPU; it notes where what it is given lies."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, device="meta"))
        self.given: list[str] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.given.append(x.device.type)
        return torch.zeros(x.shape)


def test_lungs_are_sought_on_the_segmenters_device() -> None:
    model = Away()
    segmenter.lungs(model, np.zeros((1, 224, 224), np.uint8))  # type: ignore[arg-type]
    assert set(model.given) == {"meta"}


def test_a_gate_is_asked_on_its_device() -> None:
    model = Away()
    said = lesion_gate.told(model, torch.zeros(2, 112, 112, dtype=torch.uint8))  # type: ignore[arg-type]
    assert set(model.given) == {"meta"}
    assert said.device.type == "cpu"


def test_the_language_model_learns_on_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LearntError(Exception):
        """The first step was to be taken."""

    given: list[torch.Tensor] = []

    def masked_word_loss(*arguments: torch.Tensor) -> torch.Tensor:
        given.extend(arguments[3:])
        return torch.zeros((), device="meta")

    def meaning(_: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        given.extend((ids, mask))
        return torch.zeros(len(ids), 11, device="meta")  # six zones and five findings

    def stop(_: Session, loss: torch.Tensor) -> None:
        given.append(loss)
        raise LearntError

    monkeypatch.setattr(language_model, "autocast", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(language_model, "masked_word_loss", masked_word_loss)
    monkeypatch.setattr(language_model.Reader, "meaning", meaning)
    monkeypatch.setattr(Session, "learn", stop)
    tokenizer = language_model.train_tokenizer(SENTENCES)
    recipe = replace(RECIPE, batch=8, device="meta")
    with pytest.raises(LearntError):
        language_model.train(SENTENCES, tokenizer, recipe, tmp_path, lambda *_: None)
    assert [tensor.device.type for tensor in given] == ["meta"] * 5


def test_losses_are_drawn_of_the_lines_that_are_some(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('[1]\n{"loss": 1}\n{"step": 1, "loss": 0.5}\n{"st')
    plots.losses(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["loss.png", "metrics.jsonl"]
