"""`vald-node train`, `assemble`, `calibrate`: from a folder of films to a model that explains."""

import json
import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file, save_file

from dicom_node.admin import training
from dicom_node.errors import InputError
from pipeline import digest, settings, testing, weights
from pipeline.errors import DatasetError
from pipeline.explainer import Explainer
from pipeline.training import bench, locks, pools
from pipeline.training.bench import Bench
from pipeline.training.locks import InUseError
from pipeline.training.session import CheckpointError
from pipeline.types import Mode
from pipeline.weights import LESION_GATE, LUNG_SEGMENTER
from tests.admin import commands, data_folder
from tests.pipeline import chests

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(900)]

_PARTS = (
    "segmenter", "autoencoder", "language-model", "view", "diffusion", "gate", "whole-lung",
    "classifier", "rival",
)  # fmt: skip
_MINUTES = 0.01
_AGAIN = "run the command again"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films of each split, boxed ones with lung outlines, reports."""
    folder = tmp_path_factory.mktemp("data")
    data_folder.manifest(folder, ["train"] * 40 + ["val"] * 4 + ["calibration"] * 20)
    data_folder.localised(folder, [("tbx11k", "train")] * 4, outlined=True)
    data_folder.reports(folder)
    return folder


@pytest.fixture(scope="module")
def work(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder in which every part was trained for a moment, then put together.

    The pools are of the smallest size that has all kinds, and the model takes few steps.
    """
    folder = tmp_path_factory.mktemp("work")
    places = ("--data", data, "--work", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_SMALLEST_POOL", 16)
        for part in _PARTS:
            train_to_its_end(part, *places, "--minutes", _MINUTES)
    succeed("assemble", "--version", "1", *places)
    made = settings.read(folder / "model")
    quick = replace(made, steps=1, passes=1, whole_lung_passes=1, paper_steps=2)
    settings.write(folder / "model", quick)
    digest.write_digests(folder / "model")
    succeed("calibrate", *places)
    return folder


def test_a_localised_film_is_called_by_its_box_and_without_one_normal(tmp_path: Path) -> None:
    data_folder.manifest(tmp_path, ["train"] * 2)
    data_folder.localised(tmp_path, [("jsrt", "train"), ("tbx11k", "train"), ("jsrt", "test")])
    made = Bench(data=tmp_path, work=tmp_path / "work", device="cpu").material
    assert [(row.file, row.label) for row in made.rows[2:]] == [
        ("l0.png", "Normal"),
        ("l1.png", "Lung_Opacity"),
    ]


def succeed(*arguments: object) -> str:
    """The command ends well; what it says."""
    done = commands.vald(*arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def train_to_its_end(*arguments: object) -> None:
    """A part has learnt, in as many calls as it needs."""
    while _AGAIN in succeed("train", *arguments, "--device", "cpu"):
        pass


def test_a_model_of_ones_own_films_explains_a_film(work: Path, tmp_path: Path) -> None:
    film = tmp_path / "film.png"
    film.write_bytes(data_folder.png(data_folder.chest(7, sick=True)))
    config = commands.config(tmp_path, work / "model")
    done = commands.vald("attribute", film, "--config", config, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    with Pillow.open(next((tmp_path / "out").rglob("*counterfactual*.png"))) as picture:
        assert picture.size == (data_folder.SIDE, data_folder.SIDE)


@pytest.mark.parametrize(
    "part", ["segmenter", "autoencoder", "diffusion", "lesion-gate", "whole-lung", "rival"]
)
def test_a_run_leaves_pictures_of_what_it_makes(work: Path, part: str) -> None:
    with Pillow.open(work / part / "samples.png") as picture:
        assert len(set(np.asarray(picture).ravel().tolist())) > 100


def test_a_u_net_of_the_plain_form_is_a_model_that_inverts_films_and_has_no_gate(
    data: Path, work: Path, tmp_path: Path
) -> None:
    own = tmp_path / "work"
    for part in _PARTS[:4]:
        shutil.copytree(work / part, own / part)
    for of_another in ("lesion-gate", "whole-lung"):  # of the U-Net in pairs that was there before
        shutil.copytree(work / of_another, own / of_another)
    places = ("--data", data, "--work", own)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_SMALLEST_POOL", 16)
        train_to_its_end("diffusion", *places, "--minutes", _MINUTES, "--form", "plain")
        with pytest.raises(DatasetError, match="plain form, which has no gate"):
            succeed("train", "gate", *places, "--minutes", _MINUTES, "--device", "cpu")
        with pytest.raises(CheckpointError, match="form"):  # it is no run of pairs that goes on
            succeed("train", "diffusion", *places, "--minutes", _MINUTES, "--device", "cpu")
    with Pillow.open(own / "diffusion" / "samples.png") as picture:
        assert len(set(np.asarray(picture).ravel().tolist())) > 100
    succeed("assemble", "--version", "1", *places)
    index = json.loads((own / "model" / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "StableDiffusionPipeline"
    model = weights.load(own / "model", torch.device("cpu"))
    assert not model.denoiser.paired
    assert (model.lesion_gate, model.whole_lung) == (None, None)
    plane = chests.varied(np.random.default_rng(7))
    made = Explainer(model).evidence(plane, Mode.CALIBRATED, seed=0)
    assert made.second is None
    assert np.ptp(made.maps) > 0


def test_a_calibration_notes_healthy_and_sick_films_by_number(work: Path) -> None:
    text = (work / "calibration" / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    # 20 films of calibration, the two sick ones of the four of val, and the 20 in paper's mode.
    assert [line["kind"] for line in lines] == ["healthy"] * 20 + ["sick"] * 2 + ["healthy"] * 20
    assert lines[7].keys() == {"step", "mode", "kind", "peak", "reading"}
    assert not (work / "calibration" / "maps").exists()
    with Pillow.open(work / "calibration" / "peaks.png") as picture:
        assert picture.size == (700, 320)


def test_an_autoencoder_that_keeps_too_little_is_told_and_a_u_net_warned_of_it(
    data: Path, work: Path
) -> None:
    places = ("--data", data, "--work", work, "--minutes", _MINUTES, "--device", "cpu")
    done = commands.vald("train", "autoencoder", *places)  # its time is spent: it is measured only
    assert "PSNR of 4 films of val: mean " in done.stdout
    found = json.loads((work / "autoencoder" / "fidelity.json").read_text(encoding="utf-8"))
    assert found["films"] == 4
    assert found["psnr_db"] < 30  # of a moment's training
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_SMALLEST_POOL", 16)
        again = commands.vald("train", "diffusion", *places)
        assert _AGAIN not in again.stdout
    assert again.exit_code == 0, again.output
    for said in (done.stderr, again.stderr):
        assert f"its PSNR is {found['psnr_db']:.1f} dB, below 30" in said


def test_a_run_that_has_spent_its_time_goes_on_from_its_last_step(data: Path, work: Path) -> None:
    state = work / "view" / "state.json"
    before = json.loads(state.read_text(encoding="utf-8"))
    done = commands.vald(
        "train", "view", "--data", data, "--work", work, "--minutes", 0.05, "--device", "cpu"
    )
    assert done.exit_code == 0, done.output
    after = json.loads(state.read_text(encoding="utf-8"))
    assert after["step"] > before["step"] > 0
    assert after["spent_s"] >= 0.05 * 60 > before["spent_s"]


def test_a_step_that_lacks_the_one_before_says_which(data: Path, tmp_path: Path) -> None:
    done = commands.vald("train", "diffusion", "--data", data, "--work", tmp_path, "--minutes", 1)
    assert isinstance(done.exception, DatasetError)
    assert "train the segmenter, the autoencoder, the language-model first" in str(done.exception)
    assert not list(tmp_path.iterdir())


def copy_of(data: Path, folder: Path) -> Path:
    """A data folder to damage."""
    shutil.copytree(data, folder / "data")
    return folder / "data"


def refusal(part: str, data: Path, work: Path, *more: object) -> str:
    """What `train` says of what it cannot use; nothing has been learnt by then."""
    done = commands.vald("train", part, "--data", data, "--work", work, "--device", "cpu", *more)
    assert isinstance(done.exception, (DatasetError, InputError)), done.output
    assert not work.is_dir() or not list(work.rglob("state.*"))
    return str(done.exception)


def test_a_film_that_is_not_there_is_missed_before_anything_is_learnt(
    data: Path, tmp_path: Path
) -> None:
    damaged = copy_of(data, tmp_path)
    (damaged / "cxr256" / "43.png").unlink()  # of val: read last
    for part in ("autoencoder", "view"):
        assert "film missing: " in refusal(part, damaged, tmp_path / "work")


def test_a_split_without_films_is_missed_before_anything_is_learnt(tmp_path: Path) -> None:
    data_folder.manifest(tmp_path, ["train"] * 2)
    said = refusal("autoencoder", tmp_path, tmp_path / "work")
    assert said.endswith("no film of split val")
    rows = (tmp_path / "cxr256" / "manifest.csv").read_text().replace("train", "val")
    (tmp_path / "cxr256" / "manifest.csv").write_text(rows)
    for part in ("autoencoder", "view"):
        assert refusal(part, tmp_path, tmp_path / "work").endswith("no film of split train")


def test_a_manifest_and_its_films_are_enough_to_begin(tmp_path: Path) -> None:
    data_folder.manifest(tmp_path, ["train"] * 2 + ["val"])
    places = ("--data", tmp_path, "--work", tmp_path / "work", "--device", "cpu")
    done = commands.vald("train", "view", *places, "--minutes", 1e-6)
    assert done.exit_code == 0, done.output
    said = refusal("segmenter", tmp_path, tmp_path / "other")
    assert "no outline of lungs, in lungs.tar or lungs/" in said


def test_boxed_films_and_outlines_may_lie_in_folders(data: Path, tmp_path: Path) -> None:
    loose = copy_of(data, tmp_path)
    for name in ("images", "lungs"):
        path = loose / "localised" / f"{name}.tar"
        with tarfile.open(path) as archive:
            archive.extractall(loose / "localised" / name, filter="data")
        path.unlink()
    one, other = (Bench(data=d, work=tmp_path, device="cpu") for d in (data, loose))
    assert np.array_equal(one.material.films, other.material.films)
    for a, b in zip(one.outlined(), other.outlined(), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("part", ["diffusion", "gate", "whole-lung", "classifier", "rival"])
def test_each_part_names_what_must_be_trained_before_it(
    data: Path, tmp_path: Path, part: str
) -> None:
    assert "train the segmenter" in refusal(part, data, tmp_path / "work")


def test_assembling_what_is_not_there_asks_nobody_else_for_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = commands.vald("assemble", "--data", data, "--work", ".", "--version", "1")
    assert isinstance(done.exception, DatasetError)
    assert "the view, the diffusion first" in str(done.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    ["--lora 4", "--text-encoder", "--from embedded --lora 4", "--from embedded --form plain"],
)
def test_options_of_fine_tuning_are_refused_where_nothing_is_tuned(
    data: Path, tmp_path: Path, options: str
) -> None:
    part = "whole-lung" if "--from" in options else "diffusion"
    command = ["train", part, "--data", data, "--work", tmp_path, *options.split()]
    assert commands.vald(*command).exit_code == 2


@pytest.mark.parametrize("minutes", ["0", "-3", "nan", "inf", "-inf"])
def test_no_time_is_no_training(data: Path, tmp_path: Path, minutes: str) -> None:
    assert "give a time above 0" in refusal("view", data, tmp_path / "work", "--minutes", minutes)


@pytest.mark.parametrize("channels", [0, -8, 3, 256])
def test_latents_that_cannot_be_averages_of_the_last_stage_are_refused(
    data: Path, tmp_path: Path, channels: int
) -> None:
    said = refusal("autoencoder", data, tmp_path / "work", "--channels", channels)
    assert said == f"--channels {channels}: give 1, 2, 4, 8, 16 or another divisor of 128"


def test_channels_are_the_autoencoders_and_what_follows_takes_its(
    data: Path, tmp_path: Path
) -> None:
    places = ("--data", data, "--work", tmp_path, "--device", "cpu", "--minutes", 1e-6)
    assert commands.vald("train", "diffusion", *places, "--channels", 4).exit_code == 2
    succeed("train", "autoencoder", *places, "--channels", 4)
    assert Bench(data=data, work=tmp_path, device="cpu").latents.mean.shape == (4,)
    done = commands.vald("train", "autoencoder", *places)
    assert isinstance(done.exception, CheckpointError), done.output
    assert "begun with other channels" in str(done.exception)


@pytest.mark.parametrize("seed", [-5, 2**32])
def test_a_seed_that_is_none_is_refused(data: Path, tmp_path: Path, seed: int) -> None:
    assert "--seed" in refusal("language-model", data, tmp_path / "work", "--seed", seed)


def test_a_work_folder_that_is_a_file_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "work").touch()
    for work in (tmp_path / "work", tmp_path / "work" / "below"):
        assert "no folder can be made there" in refusal("view", data, work)
    assert "no such folder" in refusal("view", tmp_path / "none", tmp_path / "new")


def test_a_step_that_another_process_is_at_is_refused(data: Path, tmp_path: Path) -> None:
    places = ("--data", data, "--work", tmp_path)
    with locks.held(tmp_path / "lesion-gate"), locks.held(tmp_path / "model"):
        for command in (("train", "gate"), ("calibrate",)):
            done = commands.vald(*command, *places, "--device", "cpu")
            assert isinstance(done.exception, InUseError), done.output
    assert [found.name for found in tmp_path.iterdir() if found.is_dir()] == []


def test_lungs_are_sought_anew_by_another_segmenter(data: Path, work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "segmenter", tmp_path / "segmenter")
    before = Bench(data=data, work=tmp_path, device="cpu").material.lungs
    path = tmp_path / "segmenter" / LUNG_SEGMENTER
    tensors = load_file(path)
    save_file({**tensors, "head.bias": torch.full_like(tensors["head.bias"], -99)}, path)
    after = Bench(data=data, work=tmp_path, device="cpu").material.lungs
    assert not after.any()
    assert before.shape == after.shape
    kept = tmp_path / "lungs" / "0000.safetensors"
    kept.write_bytes(kept.read_bytes()[:-9])  # a disk that was full
    assert not Bench(data=data, work=tmp_path, device="cpu").material.lungs.any()


def test_a_model_is_assembled_whole_and_of_nothing_but_its_parts(
    data: Path, work: Path, tmp_path: Path
) -> None:
    for part in ("segmenter", "autoencoder", "language-model", "view", "diffusion"):
        (tmp_path / part).symlink_to(work / part)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "calibration.safetensors").write_bytes(b"of a model before")
    done = commands.vald("assemble", "--data", data, "--work", tmp_path, "--version", "2")
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "model" / "calibration.safetensors").exists()
    assert not (tmp_path / "model" / LESION_GATE).exists()
    made, ships = (settings.read(folder) for folder in (tmp_path / "model", digest.EMBEDDED))
    for name in ("steps", "draws", "passes", "whole_lung_passes", "blur_px"):
        assert getattr(made, name) == getattr(ships, name), name
    assert not list(tmp_path.glob("*.part"))


def parts_of(work: Path, folder: Path, *, but: str = "") -> Path:
    """A work folder with what was trained in another, `but` one part as a copy to change."""
    for part in ("segmenter", "autoencoder", "language-model", "view", "diffusion", "whole-lung"):
        if part != but:
            (folder / part).symlink_to(work / part)
    if but:
        shutil.copytree(work / but, folder / but)
    return folder


def retrain(network: Path) -> None:
    """A finished network's weights are others."""
    tensors = load_file(network)
    first = min(tensors)
    save_file({**tensors, first: tensors[first] + 1}, network, metadata={"format": "pt"})


def test_a_run_is_refused_other_films_and_leaves_the_first_ones_as_they_were(
    data: Path, work: Path, tmp_path: Path
) -> None:
    other = copy_of(data, tmp_path)
    (other / "cxr256" / "0.png").write_bytes(data_folder.png(data_folder.chest(99, sick=False)))
    before = (work / "view" / "state.safetensors").read_bytes()
    places = ("--data", other, "--work", work, "--device", "cpu", "--minutes", 1)
    for part in ("view", "autoencoder", "rival"):
        done = commands.vald("train", part, *places)
        assert isinstance(done.exception, CheckpointError), part
        assert "begun with other films" in str(done.exception)
    assert (work / "view" / "state.safetensors").read_bytes() == before


def test_a_u_net_neither_goes_on_nor_ships_beside_an_autoencoder_it_never_saw(
    data: Path, work: Path, tmp_path: Path
) -> None:
    folder = parts_of(work, tmp_path, but="autoencoder")
    retrain(folder / "autoencoder" / "final" / "diffusion_pytorch_model.safetensors")
    pool = (work / "diffusion" / "pool" / "0000.safetensors").read_bytes()
    places = ("--data", data, "--work", folder)
    done = commands.vald("train", "diffusion", *places, "--minutes", 1, "--device", "cpu")
    assert isinstance(done.exception, CheckpointError)
    assert "begun with other autoencoder" in str(done.exception)
    assert (work / "diffusion" / "pool" / "0000.safetensors").read_bytes() == pool
    for command in (("assemble", "--version", "2"), ("train", "gate"), ("train", "whole-lung")):
        done = commands.vald(*command, *places)
        assert isinstance(done.exception, DatasetError), command
        assert "its diffusion was trained with other autoencoder" in str(done.exception)
    assert not (folder / "model").exists()


def test_an_adapter_of_another_u_net_is_not_put_beside_it(
    data: Path, work: Path, tmp_path: Path
) -> None:
    folder = parts_of(work, tmp_path, but="diffusion")
    retrain(folder / "diffusion" / "final" / "diffusion_pytorch_model.safetensors")
    done = commands.vald("assemble", "--version", "2", "--data", data, "--work", folder)
    assert isinstance(done.exception, DatasetError)
    assert "its whole-lung was trained with other diffusion" in str(done.exception)


def test_parts_that_say_nothing_of_their_origin_are_put_together_as_before(
    data: Path, work: Path, tmp_path: Path
) -> None:
    folder = parts_of(work, tmp_path, but="diffusion")
    retrain(folder / "diffusion" / "final" / "diffusion_pytorch_model.safetensors")
    (folder / "diffusion" / "final" / "origin.json").unlink()
    (folder / "whole-lung").unlink()
    done = commands.vald("assemble", "--version", "2", "--data", data, "--work", folder)
    assert done.exit_code == 0, done.output


def test_a_fine_tuning_does_not_go_on_from_another_base(
    data: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_SMALLEST_POOL", 16)
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "segmenter").symlink_to(work / "segmenter")
    places = ("--data", data, "--work", folder, "--minutes", 1e-6)
    for name in ("one", "other"):
        testing.write_stable_diffusion_like(tmp_path / name)
    train_to_its_end("diffusion", "--from", tmp_path / "one", *places)
    assert settings.read(folder / "fine-tuned").name == "one"
    with Pillow.open(folder / "fine-tuning" / "samples.png") as picture:
        assert picture.size == (3 * 64, 3 * 64)  # films, counterparts, what is so; of 3 films
    retrain(next((tmp_path / "other" / "unet").glob("*.safetensors")))
    for changed in (("--from", tmp_path / "other"), ("--from", tmp_path / "one", "--lora", 2)):
        done = commands.vald("train", "diffusion", *changed, *places)
        assert isinstance(done.exception, CheckpointError), done.output
    assert "begun with other plan" in str(done.exception)
    assert settings.read(folder / "fine-tuned").name == "one"


def test_progress_in_a_pipe_is_lines_with_share_rate_and_what_is_left() -> None:
    now, told = [0.0], list[str]()
    tell = training.Lines("gate", write=told.append, clock=lambda: now[0])
    said = ((0, 0.25), (5, 0.26), (100, 0.5), (101, 0.51), (500, 1.0))
    for now[0], fraction in said:
        tell(fraction, f"step {now[0]:.0f}, 30 images/s")
    # A quarter was done before, a quarter more in 100 s: the half that is left takes 200 s.
    assert told == [
        "gate: 25%, step 0, 30 images/s",
        "gate: 50%, step 100, 30 images/s, 0:03:20 left",
        "gate: 100%, step 500, 30 images/s",
    ]


def test_what_is_made_before_a_run_has_a_pace_of_its_own() -> None:
    now, told = [0.0], list[str]()
    tell = training.Lines("diffusion", write=told.append, clock=lambda: now[0])
    for now[0], fraction in ((0, 0.0), (60, 0.5), (119, 0.98), (130, 0.0), (150, 0.1)):
        tell(fraction, "so far")
    # Half took 60 s, so does the other; of what follows a tenth took 20 s, nine take 180.
    assert told[1] == "diffusion: 50%, so far, 0:01:00 left"
    assert told[-1] == "diffusion: 10%, so far, 0:03:00 left"


def untrained(work: Path, folder: Path, part: str) -> Path:
    """A work folder in which all but one part, and what was made for it, is there."""
    for found in work.iterdir():
        if found.name not in (part, "model", "judges", "calibration"):
            (folder / found.name).symlink_to(found)
    return folder


@pytest.mark.parametrize("part", ["diffusion", "gate", "rival"])
def test_minutes_are_those_of_the_pool_too_and_each_call_comes_further(
    data: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(training, "_SMALLEST_POOL", 16)
    monkeypatch.setattr(pools, "PART", 8)
    run = {"gate": "lesion-gate"}.get(part, part)
    folder = untrained(work, tmp_path, run)
    command = ("train", part, "--data", data, "--work", folder, "--device", "cpu")
    assert Bench(data=data, work=work, device="cpu").material.lungs.any()  # another may have asked
    first = succeed(*command, "--minutes", 1e-4)
    assert re.fullmatch(
        r"the minutes are spent, and what was made is kept: [78] of 1[26] pairs, .* left; "
        r"run the command again to go on\n",
        first,
    )
    assert not list((folder / run).rglob("state.*"))
    assert _AGAIN in succeed(*command, "--minutes", 1e-4)
    assert [path.name for path in sorted((folder / run).rglob("*.safetensors"))] == [
        "0000.safetensors", "0001.safetensors",
    ]  # fmt: skip
    third = commands.vald(*command, "--minutes", 1e-4)
    assert third.exit_code == 0, third.output
    assert _AGAIN not in third.stdout
    assert list((folder / run).rglob("state.json"))
    assert "pool is made" not in third.stderr


def test_lungs_are_part_of_the_minutes(
    data: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "segmenter").symlink_to(work / "segmenter")
    monkeypatch.setattr(bench, "_LUNGS", 30)  # there are 44 films
    succeed("train", "view", "--data", data, "--work", tmp_path, "--minutes", 1e-6)
    assert not (tmp_path / "lungs").exists()  # it learns from films alone
    shutil.rmtree(tmp_path / "view")
    command = ("train", "classifier", "--data", data, "--work", tmp_path, "--device", "cpu")
    first = commands.vald(*command, "--minutes", 1e-6)
    assert "kept: 30 of 44 films' lungs, " in first.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"segmenter", "lungs"}
    assert _AGAIN in commands.vald(*command, "--minutes", 1e-6).stdout
    done = commands.vald(*command, "--minutes", 1e-6)
    assert done.stderr.splitlines()[-1] == "classifier: 100%, step 1, done"
    made = Bench(data=data, work=tmp_path, device="cpu").material.lungs
    monkeypatch.undo()
    assert np.array_equal(made, Bench(data=data, work=work, device="cpu").material.lungs)


def test_a_calibration_whose_minutes_are_spent_changes_no_model_and_goes_on(
    data: Path, work: Path, tmp_path: Path
) -> None:
    folder = untrained(work, tmp_path, "probe")
    shutil.copytree(work / "model", folder / "model")
    before = digest.file_digests(folder / "model")
    command = ("calibrate", "--data", data, "--work", folder, "--device", "cpu")
    for count in (1, 2):
        said = succeed(*command, "--minutes", 1e-6)
        assert f"kept: {count} of 40 films for the probe, " in said
        assert _AGAIN in said
        assert len(list((folder / "probe").iterdir())) == count
    assert digest.file_digests(folder / "model") == before


def test_a_run_that_nobody_watches_writes_lines(data: Path, tmp_path: Path) -> None:
    places = ("--data", data, "--work", tmp_path, "--device", "cpu")
    done = commands.vald("train", "view", *places, "--minutes", 1e-6)
    assert done.stderr.splitlines()[-1] == "view: 100%, step 1, done"
