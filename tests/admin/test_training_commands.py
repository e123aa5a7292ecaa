"""`vald-node train`, `assemble`, `calibrate`: from a folder of films to a model that explains."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image as Pillow

from tests.admin import commands, data_folder

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(900)]

_PARTS = (
    "segmenter", "autoencoder", "language-model", "view", "diffusion", "gate", "classifier",
    "rival",
)  # fmt: skip
_MINUTES = 0.02


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films of each split, boxed ones with lung outlines, reports."""
    folder = tmp_path_factory.mktemp("data")
    data_folder.manifest(folder, ["train"] * 24 + ["val"] * 8 + ["calibration"] * 20)
    data_folder.localised(folder, [("tbx11k", "train")] * 4, outlined=True)
    data_folder.reports(folder)
    return folder


@pytest.fixture(scope="module")
def work(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder in which every part was trained for a second, then put together."""
    folder = tmp_path_factory.mktemp("work")
    places = ("--data", data, "--work", folder)
    for part in _PARTS:
        done = commands.vald("train", part, *places, "--minutes", _MINUTES, "--device", "cpu")
        assert done.exit_code == 0, f"{part}: {done.output}"
    for command in (("assemble", "--version", "1"), ("calibrate",)):
        done = commands.vald(*command, *places)
        assert done.exit_code == 0, done.output
    return folder


def test_a_model_of_ones_own_films_explains_a_film(work: Path, tmp_path: Path) -> None:
    film = tmp_path / "film.png"
    film.write_bytes(data_folder.png(data_folder.chest(7, sick=True)))
    config = commands.config(tmp_path, work / "model")
    done = commands.vald("attribute", film, "--config", config, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    with Pillow.open(next((tmp_path / "out").rglob("*counterfactual*.png"))) as picture:
        assert picture.size == (data_folder.SIDE, data_folder.SIDE)


@pytest.mark.parametrize("part", ["autoencoder", "diffusion", "lesion-gate"])
def test_a_run_leaves_pictures_of_what_it_makes(work: Path, part: str) -> None:
    with Pillow.open(work / part / "samples.png") as picture:
        assert len(set(picture.getdata())) > 100


def test_a_run_that_has_spent_its_time_goes_on_from_its_last_step(data: Path, work: Path) -> None:
    state = work / "view" / "state.json"
    before = json.loads(state.read_text(encoding="utf-8"))
    done = commands.vald(
        "train", "view", "--data", data, "--work", work, "--minutes", 0.06, "--device", "cpu"
    )
    assert done.exit_code == 0, done.output
    after = json.loads(state.read_text(encoding="utf-8"))
    assert after["step"] > before["step"] > 0
    assert after["spent_s"] == pytest.approx(0.06 * 60, abs=2)


def test_a_step_that_lacks_the_one_before_says_which(data: Path, tmp_path: Path) -> None:
    done = commands.vald("train", "diffusion", "--data", data, "--work", tmp_path, "--minutes", 1)
    assert done.exit_code != 0
    assert re.search(r"train the autoencoder first", done.output.replace("\n", " "))
