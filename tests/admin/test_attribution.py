"""`vald-node attribute`: what it writes and says of pictures and DICOM files."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from dicom_node.admin.films import FilmReader
from dicom_node.errors import InputError
from dicom_node.results import canvas, wording
from pipeline.types import Status
from tests.admin import commands
from tests.peers import films
from tests.results import sources

_ROWS, _COLS = 200, 150


def grey() -> np.ndarray:
    """[rows, cols] uint8, a chest of sorts."""
    return (films.chest_like(_ROWS)[:, :_COLS] * 255).round().astype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One call over all kinds of files, and what came of each by the file's name."""

    exit_code: int
    out: Path
    said: dict[str, dict[str, Any]]

    def map_of(self, name: str) -> np.ndarray:
        plane: np.ndarray = np.load(self.said[name]["paths"]["map"])
        return plane


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Run:
    folder = tmp_path_factory.mktemp("films")
    config = commands.config(folder, tiny_model)
    files = list(write_files(folder))
    out = folder / "out"
    done = commands.vald("attribute", *files, "--out", out, "--config", config, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == [str(file) for file in files]
    return Run(
        exit_code=done.exit_code, out=out, said={Path(line["file"]).name: line for line in lines}
    )


def write_files(folder: Path) -> Iterator[Path]:
    """Those that cannot be analysed come between those that can."""
    pictures = {
        "eight-bits.png": grey(),
        "colour.jpg": np.dstack([grey(), grey() // 2, grey() // 4]),
        "tiny.png": grey()[:64, :64],
        "sixteen-bits.png": grey().astype(np.uint16) * 257,
        "constant.png": np.full((_ROWS, _COLS), 9, np.uint8),
        "grey.jpeg": np.dstack([grey()] * 3),
    }
    for name, plane in pictures.items():
        Pillow.fromarray(plane).save(folder / name)
        yield folder / name
    (folder / "text.png").write_text("no picture")
    yield folder / "text.png"
    yield folder / "absent.png"
    yield films.written(films.dx(), folder).rename(folder / "film.dcm")
    # Columns run to the patient's feet: the upright film has 400 rows, the stored one 300.
    yield sources.write(sources.source(orientation=("F", "L")), folder / "lying.dcm")


PICTURES = ("eight-bits.png", "sixteen-bits.png", "grey.jpeg")
DICOM = ("film.dcm", "lying.dcm")
REFUSED = {
    "colour.jpg": "the picture is in colour, and a radiograph is grey: give the film's DICOM file",
    "tiny.png": "too small: 64 x 64 pixels, at least 128 a side",
    "constant.png": "constant image: every pixel has the same value",
    "text.png": "not a readable picture",
    "absent.png": "No such file or directory",
}


def test_the_exit_status_is_1_where_one_file_could_not_be_analysed(run: Run) -> None:
    assert run.exit_code == 1
    assert {name for name, answer in run.said.items() if "error" in answer} == REFUSED.keys()


@pytest.mark.parametrize(("name", "why"), REFUSED.items())
def test_a_file_that_cannot_be_analysed_says_why_and_leaves_nothing(
    run: Run, name: str, why: str
) -> None:
    assert why in run.said[name]["error"]
    assert run.said[name].keys() == {"file", "error"}
    assert not (run.out / Path(name).stem).exists()


@pytest.mark.parametrize("name", [*PICTURES, *DICOM])
def test_json_says_score_status_regions_and_where_each_file_is(run: Run, name: str) -> None:
    said = run.said[name]
    assert 0 <= said["score"] <= 1
    assert said["status"] in ("VALID", "LOW_CONFIDENCE", "WITHHELD")
    assert (said["mode"], said["seed"], said["model"]) == ("calibrated", 3, "tiny")
    for region in said["regions"]:
        assert region["outline"][0] == region["outline"][-1]
    objects = {"sc": "sc.dcm", "sr": "sr.dcm"} if name in DICOM else {}
    names = {"counterfactual": "counterfactual.png", "overlay": "overlay.png", "map": "map.npy"}
    folder = run.out / Path(name).stem
    assert said["paths"] == {k: str(folder / v) for k, v in {**names, **objects}.items()}
    assert {path.name for path in folder.iterdir()} == {*names.values(), *objects.values()}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *((name, (_ROWS, _COLS)) for name in PICTURES),
        ("film.dcm", (1024, 1024)),
        ("lying.dcm", (sources.ROWS, sources.COLUMNS)),
    ],
)
def test_map_and_counterpart_have_the_rows_and_columns_of_the_file(
    run: Run, name: str, shape: tuple[int, int]
) -> None:
    plane = run.map_of(name)
    assert plane.shape == shape
    assert plane.dtype == np.float32
    assert plane.min() >= 0
    with Pillow.open(run.said[name]["paths"]["counterfactual"]) as counterpart:
        assert (counterpart.mode, counterpart.size) == ("L", shape[::-1])


def test_sixteen_bits_give_the_map_of_the_same_greys_in_eight(run: Run) -> None:
    # v * 257 / 65535 is v / 255.
    eight, sixteen = run.map_of("eight-bits.png"), run.map_of("sixteen-bits.png")
    assert np.allclose(eight, sixteen, atol=1e-4)


@pytest.mark.parametrize("name", ["overlay", "counterfactual"])
def test_pictures_say_of_themselves_that_a_model_made_them(run: Run, name: str) -> None:
    said = run.said["eight-bits.png"]
    with Pillow.open(said["paths"][name]) as picture:
        assert picture.info["Warning"] == wording.RESEARCH_WORDS
        assert f"Status {said['status']}" in picture.info["Description"]
        assert said["model_digest"][:12] in picture.info["Description"]


def test_an_overlay_is_a_colour_picture(run: Run) -> None:
    for name in (*PICTURES, *DICOM):
        with Pillow.open(run.said[name]["paths"]["overlay"]) as overlay:
            assert overlay.mode == "RGB"


@pytest.mark.parametrize("name", DICOM)
def test_the_objects_belong_to_the_films_study_and_refer_to_it(run: Run, name: str) -> None:
    paths, source = run.said[name]["paths"], pydicom.dcmread(run.said[name]["file"])
    capture, report = pydicom.dcmread(paths["sc"]), pydicom.dcmread(paths["sr"])
    for made, modality in ((capture, "OT"), (report, "SR")):
        assert made.StudyInstanceUID == source.StudyInstanceUID
        assert made.PatientID == source.PatientID
        assert made.Modality == modality
    study = report.CurrentRequestedProcedureEvidenceSequence[0]
    referred = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert referred.ReferencedSOPInstanceUID == source.SOPInstanceUID


def attributed(folder: Path, model: Path, files: list[Path], *options: str) -> Any:
    config = commands.config(folder, model)
    return commands.vald("attribute", *files, "--out", folder / "out", "-c", config, *options)


def picture(path: Path, plane: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    Pillow.fromarray(plane).save(path)
    return path


def test_where_all_could_be_analysed_the_exit_status_is_0_and_a_line_tells(
    tmp_path: Path, tiny_model: Path
) -> None:
    file = picture(tmp_path / "a.png", grey())
    done = attributed(tmp_path, tiny_model, [file], "--seed", "5", "--mode", "paper")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{file}: ")
    assert "score 0." in done.stdout or "score 1." in done.stdout


def test_two_films_of_one_name_do_not_overwrite_each_other_unsaid(
    tmp_path: Path, tiny_model: Path
) -> None:
    first = picture(tmp_path / "monday" / "film.png", grey())
    second = picture(tmp_path / "friday" / "film.png", grey()[::-1])
    done = attributed(tmp_path, tiny_model, [first, second], "--json")
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    maps = [answer["paths"]["map"] for answer in said if "paths" in answer]
    assert len(set(maps)) == 2 or done.exit_code == 1


def test_a_text_in_a_picture_that_swells_does_not_stop_the_other_files(
    tmp_path: Path, tiny_model: Path
) -> None:
    text, swollen = PngInfo(), tmp_path / "swollen.png"
    text.add_text("Comment", "x" * (2 << 20), zip=True)
    Pillow.fromarray(grey()).save(swollen, pnginfo=text)
    other = picture(tmp_path / "other.png", grey())
    done = attributed(tmp_path, tiny_model, [swollen, other], "--json")
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [answer["file"] for answer in said] == [str(swollen), str(other)]
    assert "error" not in said[1]


def not_a_film(folder: Path, name: str) -> Path:
    plane = grey()
    if name == "see-through.png":
        alpha = np.full_like(plane, 255)
        alpha[:50] = 0
        return picture(folder / name, np.dstack([plane, alpha]))
    if name == "twelve-bits.png":
        return picture(folder / name, plane.astype(np.uint16) * 16)  # 4080 of 65535 at most
    if name == "six-bits.png":
        return picture(folder / name, plane // 4)
    if name == "six-bits-and-a-mark.png":
        dark = plane // 4
        dark[5:25, 5:15] = 255
        return picture(folder / name, dark)
    if name == "dithered.png":
        Pillow.fromarray(plane).convert("1").save(folder / name)
    if name == "cut.png":
        whole = picture(folder / "whole.png", plane).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    return folder / name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("see-through.png", "save it without transparency"),
        ("twelve-bits.png", "it holds fewer bits than it says; stretch it"),
        ("six-bits.png", r"8-bit .* but for 1 % of it, are \d\d of 255: .* stretch it"),
        ("six-bits-and-a-mark.png", r"8-bit .* but for 1 % of it, are \d\d of 255: .* stretch it"),
        ("dithered.png", "a radiograph has greys"),
        ("cut.png", "not a readable picture: "),
    ],
)
def test_a_picture_whose_greys_are_not_the_films_is_refused(
    tmp_path: Path, name: str, said: str
) -> None:
    with FilmReader() as reader, pytest.raises(InputError, match=said):
        reader.read(not_a_film(tmp_path, name))


def test_a_dark_film_is_taken(tmp_path: Path) -> None:
    # As the darkest films of the public sources, but one that has a quarter of their light.
    dark = (grey() * (85 / np.percentile(grey(), 99))).round().astype(np.uint8)
    with FilmReader() as reader:
        film = reader.read(picture(tmp_path / "dark.png", dark)).radiograph
    assert film.pixels.max() == dark.max() / np.float32(255)


def test_transparency_that_hides_nothing_is_taken(tmp_path: Path) -> None:
    opaque = picture(tmp_path / "a.png", np.dstack([grey(), np.full_like(grey(), 255)]))
    with FilmReader() as reader:
        assert np.allclose(reader.read(opaque).radiograph.pixels, grey() / 255, atol=1e-3)


def test_an_unusable_model_ends_the_command_before_any_film(tmp_path: Path) -> None:
    file = picture(tmp_path / "a.png", grey())
    done = attributed(tmp_path, tmp_path / "nowhere", [file])
    assert done.exit_code == 1
    assert "no diffusers folder" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_of_what_is_withheld_neither_number_nor_counterpart_is_given(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 300), np.uint8)
    Pillow.fromarray(noise).save(tmp_path / "noise.png")
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "counterfactual.png").write_bytes(b"of another time")
    done = commands.vald("attribute", tmp_path / "noise.png", "--out", tmp_path, "--json")
    said = json.loads(done.stdout)
    assert said["status"] == "WITHHELD"
    assert said["paths"].keys() == {"overlay", "map"}
    assert {path.name for path in (tmp_path / "noise").iterdir()} == {"overlay.png", "map.npy"}
    with Pillow.open(said["paths"]["overlay"]) as shown:
        film, words = np.split(np.asarray(shown).astype(int), [1024])
        assert "Status WITHHELD; not a chest: " in shown.info["Description"]
    assert np.ptp(film, axis=-1).max() == 0  # no colour: the film alone
    assert (np.abs(words - canvas.STATUS[Status.WITHHELD]).max(-1) < 8).any()
    assert "does not look like an upright frontal chest" in said["reasons"][0]
    assert not {"score", "uncertainty", "probability", "conformal_p", "regions"} & set(said)
    line = commands.vald("attribute", tmp_path / "noise.png", "--out", tmp_path).stdout
    assert "WITHHELD, not a chest" in line
    assert "score" not in line
