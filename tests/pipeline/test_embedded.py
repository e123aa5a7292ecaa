"""The embedded model is what its card says, on real films that no training stage saw."""

from pathlib import Path

import pytest

from pipeline import digest, weights
from pipeline.digest import EMBEDDED
from pipeline.evaluation.measure import Measurement, Selection
from pipeline.types import Mode
from pipeline.weights import LoadedModel

_MOST_BYTES, _MOST_BYTES_A_FILE = 48_000_000, 16_000_000
_LEAST_PSNR_DB = 31.0
_ADULT_SOURCES = ("covid19-radiography-db", "nih-chestxray14", "tbx11k")


@pytest.fixture(scope="module")
def embedded() -> LoadedModel:
    return weights.load(EMBEDDED, weights.choose_device("cpu"))


def measurement(model: LoadedModel, data: Path, limit: int) -> Measurement:
    films = Selection(data=data, part="dev", limit=limit)
    return Measurement(model, Mode.CALIBRATED, films, lambda some, _: some)


def test_it_is_small_and_holds_no_pickle() -> None:
    files = [path for path in EMBEDDED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < _MOST_BYTES
    assert max(path.stat().st_size for path in files) < _MOST_BYTES_A_FILE
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md"}


def test_its_card_goes_with_it() -> None:
    card = (EMBEDDED / "MODEL_CARD.md").read_text(encoding="utf-8")
    for word in ("not for diagnosis", "licence", "PSNR", "Limits", "box-supervised"):
        assert word in card


def test_its_files_are_those_that_its_digests_list() -> None:
    assert len(digest.model_digest(EMBEDDED)) == 64


@pytest.mark.data
def test_it_gives_back_films_it_has_never_seen(embedded: LoadedModel, shared_data: Path) -> None:
    found = measurement(embedded, shared_data, limit=12).reconstruction()
    for source in _ADULT_SOURCES:
        assert found[source]["mean"] >= _LEAST_PSNR_DB, source


@pytest.mark.data
def test_its_map_points_at_this_films_lesion_more_than_another_films_map_does(
    embedded: LoadedModel, shared_data: Path
) -> None:
    found = dict(measurement(embedded, shared_data, limit=0).localisation())
    for group in ("rsna_opacity", "tbx_tuberculosis"):
        assert found[group].gain.low > 0, group
