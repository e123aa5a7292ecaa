"""`vald-node induce`: a finding put into a film, where it was asked for, and marked as made."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from dicom_node.errors import InputError
from pipeline.training.files import FullDiskError
from tests.admin import commands
from tests.disk import full_disk
from tests.peers import films
from tests.results import sources

_SIDE = 160
_PROMPT = "right lower lobe opacity"


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.png"
    grey = (films.chest_like(_SIDE) * 255).round().astype(np.uint8)
    Pillow.fromarray(grey).save(path)
    return path


def left_quarter() -> np.ndarray:
    """A mask: white on the left, black else."""
    mask = np.zeros((_SIDE, _SIDE), np.uint8)
    mask[:, :40] = 255
    return mask


def induced(film: Path, model: Path, out: Path, *more: object) -> dict[str, Any]:
    done = commands.vald(
        "induce", film, "--prompt", _PROMPT, "--model", model, "--out", out, "--json", *more
    )
    assert done.exit_code == 0, done.output
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_it_writes_the_film_the_change_and_a_comparison(
    film: Path, tiny_model: Path, tmp_path: Path
) -> None:
    said = induced(film, tiny_model, tmp_path / "out")
    assert said["prompt"] == "Frontal chest radiograph. Right lower zone opacity."
    change = np.load(said["paths"]["change.npy"])
    with Pillow.open(said["paths"]["induced.png"]) as picture:
        made = np.asarray(picture, np.float32) / 255
        assert "Synthetic" in picture.info["Description"]
        assert "not for diagnosis" in picture.info["Warning"]
    with Pillow.open(film) as picture:
        before = np.asarray(picture, np.float32) / 255
    assert change.shape == (_SIDE, _SIDE)
    assert np.abs(change).max() > 0
    assert np.abs(made - before - change).max() < 0.01
    assert Path(said["paths"]["comparison.png"]).is_file()


def test_with_a_region_it_changes_there_most(film: Path, tiny_model: Path, tmp_path: Path) -> None:
    said = induced(film, tiny_model, tmp_path, "--region", "0,0,40,160")
    change = np.abs(np.load(said["paths"]["change.npy"]))
    assert change[:, :30].mean() > 5 * change[:, 90:].mean()


def test_a_mask_is_the_same_as_its_region(film: Path, tiny_model: Path, tmp_path: Path) -> None:
    Pillow.fromarray(left_quarter()).save(tmp_path / "mask.png")
    by_mask = induced(film, tiny_model, tmp_path / "a", "--mask", tmp_path / "mask.png")
    by_region = induced(film, tiny_model, tmp_path / "b", "--region", "0,0,40,160")
    first, second = (np.load(said["paths"]["change.npy"]) for said in (by_mask, by_region))
    assert np.array_equal(first, second)


def test_a_film_that_lies_on_its_side_is_written_as_it_was_stored(
    tiny_model: Path, tmp_path: Path
) -> None:
    lying = sources.write(sources.source(orientation=("F", "L")), tmp_path / "lying.dcm")
    said = induced(lying, tiny_model, tmp_path / "out")
    with Pillow.open(said["paths"]["induced.png"]) as picture:
        assert picture.size == (400, 300)
    assert np.load(said["paths"]["change.npy"]).shape == (300, 400)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--region", "1,2,3"), "four whole numbers"),
        (("--region", "50,0,10,10"), "x0 < x1"),
        (("--region", "0,0,500,10"), "x0 < x1"),
        (("--mask", "absent.png"), "not a readable mask"),
        (("--mask", "m.png", "--region", "0,0,1,1"), "not both"),
        (("--prompt", " "), "--prompt is empty"),
    ],
)
def test_a_place_that_cannot_be_is_refused(
    film: Path, tiny_model: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = commands.vald(
        "induce", film, "--prompt", _PROMPT, "--model", tiny_model, "--out", tmp_path, *arguments
    )
    assert done.exit_code == 1
    assert said in str(done.exception)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("right base consolidation and a nodule", "2 findings: consolidation, nodule; ask for one"),
        ("RUL and lingula opacity", "2 zones: Left mid zone, Right upper zone; ask for one"),
    ],
)
def test_two_things_at_once_are_refused(
    film: Path, tiny_model: Path, tmp_path: Path, prompt: str, said: str
) -> None:
    done = commands.vald(
        "induce", film, "--prompt", prompt, "--model", tiny_model, "--out", tmp_path / "out"
    )
    assert isinstance(done.exception, InputError)
    assert said in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("prompt", "left_out"),
    [
        ("Right and left lower lobe opacity", "Right"),
        ("a faint opacity in the left base", "faint"),
        ("haze at the left base", ""),
        ("Frontal chest radiograph. Left lower zone opacity.", ""),
    ],
)
def test_what_the_model_is_not_told_of_the_prompt_is_said(
    film: Path, tiny_model: Path, tmp_path: Path, prompt: str, left_out: str
) -> None:
    done = commands.vald(
        "induce", film, "--prompt", prompt, "--model", tiny_model, "--out", tmp_path, "--json"
    )
    told = "warning: the model is asked 'Frontal chest radiograph. Left lower zone opacity.': of "
    expected = f"{told}--prompt it does not know, and is not told, {left_out}\n" if left_out else ""
    assert done.stderr == expected
    assert json.loads(done.stdout)["file"] == str(film)


@pytest.mark.parametrize("prompt", ["an enlarged heart", "no opacity", "left lower lobe"])
def test_a_prompt_that_asks_for_no_known_finding_is_asked_as_it_stands_and_said_to_be(
    film: Path, tiny_model: Path, tmp_path: Path, prompt: str
) -> None:
    done = commands.vald(
        "induce", film, "--prompt", prompt, "--model", tiny_model, "--out", tmp_path, "--json"
    )
    assert done.stderr.startswith("warning: --prompt asks for no finding of prompts.yaml (opacity,")
    assert json.loads(done.stdout)["prompt"] == prompt


def test_a_mask_that_lets_nothing_change_is_refused(
    film: Path, tiny_model: Path, tmp_path: Path
) -> None:
    mask, out = tmp_path / "black.png", tmp_path / "out"
    with Pillow.open(film) as picture:
        Pillow.new("L", picture.size).save(mask)
    asked = ("--prompt", "opacity", "--mask", mask, "--model", tiny_model, "--out", out)
    done = commands.vald("induce", film, *asked)
    assert isinstance(done.exception, InputError)
    assert "the mask is black" in str(done.exception)
    assert not out.exists()


def see_through(white: np.ndarray) -> np.ndarray:
    return np.dstack([white] * 3 + [np.where(white, 255, 0).astype(np.uint8)])


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (see_through, "parts of the picture are see-through: save it without transparency"),
        (lambda white: white // 255, "is 0.4% of white: .* multiply a mask of 0 and 1 by 255"),
        (lambda white: (white // 255).astype(np.uint16), "is 0.0% of white: "),
    ],
)
def test_a_mask_that_says_otherwise_than_by_white_where_it_may_change_is_refused(
    film: Path,
    tiny_model: Path,
    tmp_path: Path,
    write: Callable[[np.ndarray], np.ndarray],
    said: str,
) -> None:
    mask, out = tmp_path / "mask.png", tmp_path / "out"
    Pillow.fromarray(write(left_quarter())).save(mask)
    asked = ("--prompt", _PROMPT, "--mask", mask, "--model", tiny_model, "--out", out)
    done = commands.vald("induce", film, *asked)
    assert isinstance(done.exception, InputError)
    assert re.match(f"{mask}: .*{said}", str(done.exception))
    assert not out.exists()


def test_a_mask_of_sixteen_bits_is_read_by_its_bits(
    film: Path, tiny_model: Path, tmp_path: Path
) -> None:
    white = left_quarter()
    greys = {"eight.png": white + (white == 0), "sixteen.png": white * np.uint16(257) + 257}
    greys["sixteen.png"][white > 0] = 65535
    changes = []
    for name, plane in greys.items():
        Pillow.fromarray(plane).save(tmp_path / name)
        said = induced(film, tiny_model, tmp_path / "out", "--mask", tmp_path / name)
        changes.append(np.load(said["paths"]["change.npy"]))
    assert np.allclose(changes[0], changes[1], atol=1e-6)


def test_where_next_to_nothing_changed_it_is_said(
    film: Path, tiny_model: Path, tmp_path: Path
) -> None:
    asked = ("--prompt", _PROMPT, "--model", tiny_model, "--out", tmp_path, "--json")
    assert commands.vald("induce", film, *asked).stderr == ""
    done = commands.vald("induce", film, *asked, "--region", "0,0,1,1")
    assert done.stderr.startswith("warning: next to nothing changed: at most 0.")
    assert json.loads(done.stdout)["mean_change"] < 1e-3


def test_a_prompt_that_is_no_utf_8_is_refused(film: Path, tiny_model: Path, tmp_path: Path) -> None:
    done = commands.vald(
        "induce", film, "--prompt", b"opacity \xff".decode(errors="surrogateescape"),
        "--model", tiny_model, "--out", tmp_path / "out",
    )  # fmt: skip
    assert isinstance(done.exception, InputError)
    assert "--prompt is no UTF-8" in str(done.exception)


def test_a_disk_that_is_full_is_told_of_with_what_could_not_be_written(
    film: Path, tiny_model: Path, tmp_path: Path
) -> None:
    with full_disk():
        done = commands.vald(
            "induce", film, "--prompt", _PROMPT, "--model", tiny_model, "--out", tmp_path
        )
    assert isinstance(done.exception, FullDiskError)
    assert str(done.exception).startswith(f"{tmp_path / 'induced.png'}: cannot be written: File ")


def test_a_picture_in_colour_is_named_and_what_to_give_instead(
    tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "red.png"
    Pillow.fromarray(np.full((_SIDE, _SIDE, 3), (200, 30, 30), np.uint8)).save(path)
    done = commands.vald(
        "induce", path, "--prompt", _PROMPT, "--model", tiny_model, "--out", tmp_path / "out"
    )
    assert str(done.exception).startswith(f"{path}: the picture is in colour, and a radiograph is ")
    assert "give the film's DICOM file, or export it again in greys" in str(done.exception)


def test_a_mask_of_another_size_is_refused(film: Path, tiny_model: Path, tmp_path: Path) -> None:
    Pillow.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "mask.png")
    done = commands.vald(
        "induce", film, "--prompt", _PROMPT, "--model", tiny_model, "--out", tmp_path,
        "--mask", tmp_path / "mask.png",
    )  # fmt: skip
    assert "8 x 8 pixels, the upright film 160 x 160" in str(done.exception)


def test_what_is_no_chest_gets_no_finding(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 300), np.uint8)
    Pillow.fromarray(noise).save(tmp_path / "noise.png")
    done = commands.vald(
        "induce", tmp_path / "noise.png", "--prompt", _PROMPT, "--out", tmp_path / "out"
    )
    assert done.exit_code == 1
    assert "not a chest" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_files_that_cannot_be_read_or_made_are_told_of(
    film: Path, tiny_model: Path, tmp_path: Path
) -> None:
    def said(image: Path, out: Path) -> str:
        done = commands.vald(
            "induce", image, "--prompt", _PROMPT, "--model", tiny_model, "--out", out
        )
        assert isinstance(done.exception, InputError)
        return str(done.exception)

    assert said(tmp_path / "absent.png", tmp_path / "out").startswith(f"{tmp_path / 'absent.png'}")
    assert "no folder can be made there" in said(film, film)
