"""The second gate: what it says of a film, what an edit makes of it, and how it is taught."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline import digest, lesion_gate, testing, weights
from pipeline.explainer import Explainer
from pipeline.framing import around
from pipeline.lesion_gate import LesionGate
from pipeline.segmenter import SIDE, Segmenter
from pipeline.training import lesion_gate as training
from pipeline.training.pairs import Sample
from pipeline.training.session import Recipe, Session
from pipeline.types import Image, Mode, Target
from tests.pipeline import chests

pytestmark = pytest.mark.usefixtures("one_thread")


def always(logit: float) -> Segmenter:
    """A network that says the same of every pixel."""
    network = lesion_gate.build().eval()
    network.head.load_state_dict(
        {"weight": torch.zeros_like(network.head.weight), "bias": torch.tensor([logit])}
    )
    return network


def test_what_it_says_lies_in_the_frame_around_the_lungs_and_nowhere_else() -> None:
    # The frame is a window of size * 224 px about its middle; a logit of ln 3 is 3 : 1, 0.75.
    plane, lungs = chests.flat(), chests.lungs()
    said = LesionGate(always(float(np.log(3)))).probability(plane, lungs)
    frame, half = around(lungs), around(lungs).size * (plane.shape[0] - 1) / 2
    rows, cols = np.indices(plane.shape)
    inside = np.maximum(abs(rows - frame.row), abs(cols - frame.col)) < half - 1
    outside = np.maximum(abs(rows - frame.row), abs(cols - frame.col)) > half + 1
    assert frame.size < 1
    assert outside.any()
    assert said[inside] == pytest.approx(0.75, abs=1e-5)
    assert said[outside].max() == 0


def test_a_mirrored_film_is_told_the_mirrored_thing() -> None:
    torch.manual_seed(0)
    network = lesion_gate.build().eval()
    x = torch.rand(1, 1, SIDE, SIDE) * 2 - 1
    with torch.inference_mode():
        said, mirrored = (lesion_gate.both_ways(network, film) for film in (x, x.flip(-1)))
    assert not torch.allclose(said, said.flip(-1), atol=1e-4)
    assert torch.allclose(mirrored.flip(-1), said, atol=1e-5)


def maps(folder: Path, logit: float | None, target: Target | None = None) -> Image:
    """The maps of a tiny model whose second gate says the same of every pixel, or that has none."""
    if not folder.exists():
        testing.write_tiny_model(folder)
    if logit is not None:
        save_file(always(logit).state_dict(), folder / weights.LESION_GATE)
        digest.write_digests(folder)
    plane = np.random.default_rng(0).random((testing.TINY_GRID,) * 2, np.float32)
    explainer = Explainer(weights.load(folder, torch.device("cpu")))
    return explainer.evidence(plane, Mode.CALIBRATED, seed=0, target=target).maps


def test_no_place_is_attributed_where_the_second_gate_is_shut(tmp_path: Path) -> None:
    assert maps(tmp_path / "model", None).max() > 0.01
    assert maps(tmp_path / "model", -200.0).max() < 1e-6


def test_what_is_asked_for_in_words_passes_the_second_gate_by(tmp_path: Path) -> None:
    asked = Target(prompt="PA chest radiograph. Left lower zone nodule.")
    without, shut = (maps(tmp_path / "model", logit, asked) for logit in (None, -200.0))
    assert np.array_equal(shut, without)


def sample(kind: str, *, sick: bool, col: int = 0) -> Sample:
    """A chest with a bright square in its right or left lung; a labelled one's mask is lungs."""
    film, square = chests.flat(), np.zeros_like(chests.flat())
    if sick:
        square[60:120, col : col + 40] = 1
    mask = chests.lungs().astype(np.float32) if kind == "labelled" else square
    finding = "Left mid zone opacity" if sick else "Normal"
    return Sample(
        kind=kind,
        source=np.where(square > 0, np.float32(chests.TISSUE), film),
        aim=film,
        mask=mask,
        words=f"PA chest radiograph. {finding}.",
        view="PA",
    )


def lessons(*samples: Sample) -> list[training.Taught]:
    return training.lessons(training.small(samples))


def test_a_sick_film_of_which_only_the_label_is_known_says_not_where() -> None:
    (taught,) = lessons(*(sample("labelled", sick=flag, col=40) for flag in (True, False)))
    assert taught.sick.tolist() == [1.0, 0.0]
    assert taught.lesion.max() == 0
    assert taught.known.flatten(1).amax(1).tolist() == [0, 255]  # of a normal film: nowhere
    assert taught.lungs.flatten(1).amax(1).tolist() == [255, 255]


def test_pasted_films_say_where() -> None:
    (taught,) = lessons(sample("pasted", sick=True, col=40))
    assert taught.known.min() == 255
    # Rows 60 to 120 and columns 40 to 80 of 224 are rows 30 to 60 and columns 20 to 40 of 112.
    rows, cols = np.nonzero(taught.lesion[0].numpy())
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (30, 59, 20, 39)


def test_two_gates_teach_what_both_say_and_nothing_of_films_without_it() -> None:
    films = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
    one, other = torch.full((2, SIDE, SIDE), 0.1), torch.full((2, SIDE, SIDE), 0.1)
    one[0, :10, :10], other[0, :10, :10] = 0.9, 0.5  # both: a lesion of 100 pixels
    one[0, 20:30], other[0, 20:30] = 0.9, 0.05  # one alone: nobody knows
    taught = training.agreed(films, one, other)
    assert len(taught.film) == 1  # the second film has no lesion that both see
    assert int((taught.lesion > 0).sum()) == 100
    assert int((taught.known == 0).sum()) == 10 * SIDE
    assert bool((taught.lesion[0, :10, :10] == 255).all())


def test_a_gate_is_held_against_what_is_kept_of_the_u_nets_of_real_films_with_a_finding() -> None:
    pool = training.small([sample("pasted", sick=True), sample("abnormal", sick=True)])
    pool["mask"][1, :10, :10] = 128  # what the U-Net says of them: 0.5
    assert [taught.kind for taught in training.lessons(pool)] == ["pasted"]
    (taught,) = training.agreed_with(always(float(np.log(9))), pool)  # 9 : 1 is 0.9
    assert torch.equal(taught.film, pool["film"][1:])
    assert torch.equal(taught.lesion > 0, pool["mask"][1:] > 0)
    assert torch.equal(taught.known, taught.lesion)  # elsewhere one of them says so alone
    assert training.agreed_with(always(0.0), training.small([sample("pasted", sick=True)])) == []


def test_its_loss_falls_while_it_learns_where_a_bright_square_is(tmp_path: Path) -> None:
    pool = [sample("pasted", sick=True, col=col) for col in (40, 60, 130, 150)]
    draw = training.Draw(lessons(*pool), (0, 0))
    torch.manual_seed(0)
    model = lesion_gate.build()
    recipe = Recipe(minutes=1, batch=4, learning_rate=3e-3, warmup_steps=1)
    run = Session(model=model, recipe=recipe, folder=tmp_path, progress=lambda *_: None)
    found = []
    for _ in range(25):
        loss = training.losses(model, draw.batch(recipe.batch), "cpu")["lesion"]
        run.learn(loss)
        found.append(float(loss.detach()))
    assert np.mean(found[-3:]) < 0.7 * np.mean(found[:3])


def test_training_writes_its_metrics_and_goes_on_from_given_weights(tmp_path: Path) -> None:
    taught = lessons(sample("pasted", sick=True, col=40))
    recipe = Recipe(minutes=1e-9, batch=1, learning_rate=1e-3)
    first = training.train(taught, recipe, tmp_path / "first", lambda *_: None)
    assert json.loads((tmp_path / "first" / "metrics.jsonl").read_text())["step"] == 0
    still = replace(recipe, learning_rate=0.0, weight_decay=0.0)
    again = training.train(taught, still, tmp_path / "second", lambda *_: None, first)
    for name, value in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
