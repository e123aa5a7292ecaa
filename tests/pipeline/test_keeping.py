"""Edits that an evaluation keeps: read back as they were, and only if they are the same edits."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from pipeline import digest
from pipeline.evaluation.keeping import Keeper
from pipeline.evidence import Evidence
from pipeline.training.kept import origin_of_edits
from pipeline.types import Image, Mode

FILM: Image = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)


class Maker:
    """Makes an edit of its own each time, and counts."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> Evidence:
        self.made += 1
        planes = np.random.default_rng(self.made).random((2, 8, 8), np.float32)
        return Evidence(
            plane=FILM, lungs=FILM > 0.5, changes=-planes, local=planes, maps=planes, gate=planes,
            second=planes[0], free=None, first=planes[:1], still=None, traits=planes[0, 0],
        )  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder of which only names, contents and settings are asked."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    (folder / "unet.safetensors").write_bytes(b"weights")
    (folder / digest.CALIBRATION).write_bytes(b"reference")
    (folder / digest.SETTINGS).write_text('{"version": "1", "passes": 4}')
    return folder


def test_an_edit_is_made_once_and_read_back_bit_for_bit(tmp_path: Path, model: Path) -> None:
    make = Maker()
    made = Keeper(tmp_path / "kept", model).evidence(FILM, Mode.CALIBRATED, free=False, make=make)
    again = Keeper(tmp_path / "kept", model).evidence(FILM, Mode.CALIBRATED, free=False, make=make)
    assert make.made == 1
    for known in fields(Evidence):
        before, after = getattr(made, known.name), getattr(again, known.name)
        if before is None:
            assert after is None, known.name
        else:
            assert after.dtype == before.dtype
            np.testing.assert_array_equal(after, before, err_msg=known.name)


def test_another_film_mode_or_question_is_another_edit(tmp_path: Path, model: Path) -> None:
    make, keeper = Maker(), Keeper(tmp_path / "kept", model)
    for film, mode, free in (
        (FILM, Mode.CALIBRATED, False),
        (1 - FILM, Mode.CALIBRATED, False),
        (FILM, Mode.PAPER, False),
        (FILM, Mode.CALIBRATED, True),
    ):
        keeper.evidence(film, mode, free=free, make=make)
    assert make.made == 4


def test_an_edit_that_cannot_be_read_is_made_again(tmp_path: Path, model: Path) -> None:
    make, keeper = Maker(), Keeper(tmp_path / "kept", model)
    keeper.evidence(FILM, Mode.CALIBRATED, free=False, make=make)
    (kept,) = (tmp_path / "kept").rglob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:100])
    for _ in range(2):
        keeper.evidence(FILM, Mode.CALIBRATED, free=False, make=make)
    assert make.made == 2


def test_a_calibration_changes_no_edit_and_weights_and_passes_do(model: Path) -> None:
    before = origin_of_edits(model)
    (model / digest.CALIBRATION).write_bytes(b"another")
    reading, limits = {"threshold": 0.3, "scale_max": 0.9}, {"effect": 0.7}
    words = "Film. Normal."
    said = {
        "version": "2", "passes": 4, "words": words, "calibrated": reading, "limits": limits,
    }  # fmt: skip
    (model / digest.SETTINGS).write_text(json.dumps(said))
    assert origin_of_edits(model) == before
    other = shutil.copytree(model, model.with_name("other"))
    (other / digest.SETTINGS).write_text(json.dumps({**said, "passes": 3}))
    assert origin_of_edits(other) != before
    (model / "unet.safetensors").write_bytes(b"other weights")
    assert origin_of_edits(model) != before
