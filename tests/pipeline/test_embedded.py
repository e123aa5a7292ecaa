"""The embedded model is what its card says, on real films that no training stage saw."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import digest, prompts, sampling, weights
from pipeline.digest import EMBEDDED
from pipeline.errors import UnlikeTrainingError
from pipeline.evaluation import fidelity, localisation, statistics
from pipeline.evaluation.selection import Selection
from pipeline.evidence import attribution_map
from pipeline.explainer import Explainer
from pipeline.training.dataset import FilmRow
from pipeline.types import Mode, Radiograph
from pipeline.weights import LoadedModel

_MOST_BYTES, _MOST_BYTES_A_FILE = 48_000_000, 16_000_000
_FILMS = {"RSNA opacity": 28, "TBX tuberculosis": 14}
"""Of each group: all that RSNA has in dev; where maps gain more, fewer tell."""
_LEAST_PSNR_DB = {"covid19-radiography-db": 34.0, "nih-chestxray14": 34.0, "tbx11k": 31.0}
_ADULT_SOURCES = tuple(_LEAST_PSNR_DB)


@pytest.fixture(scope="module")
def embedded() -> LoadedModel:
    return weights.load(EMBEDDED, weights.choose_device("cpu"))


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


def test_its_thresholds_are_those_of_the_words_that_ship(embedded: LoadedModel) -> None:
    assert embedded.settings.words == prompts.load().normal_prompts()[0]
    assert embedded.uncalibrated == ""


@pytest.mark.parametrize("finding", ["opacity", "pneumonia", "pleural effusion", "pneumothorax"])
def test_what_is_denied_lies_nearer_to_normal_than_what_is_said(
    embedded: LoadedModel, finding: str
) -> None:
    """Also for findings that no template of the text encoder's training names."""
    said = ("Normal.", f"No {finding}.", f"{finding}.")
    states = embedded.text_encoder.encode([f"Frontal chest radiograph. {text}" for text in said])
    normal, denied, present = states.mean(1)
    nearness = [torch.cosine_similarity(normal, other, dim=0) for other in (denied, present)]
    assert nearness[0] > nearness[1] + 0.05


@pytest.mark.data
def test_it_gives_back_films_it_has_never_seen(embedded: LoadedModel, shared_data: Path) -> None:
    selection = Selection(data=shared_data, part="dev", limit=6)
    for source in _ADULT_SOURCES:
        films = selection.films([row for row in selection.rows(anything) if row.source == source])
        values = [fidelity.psnr_db(film, round_trip(embedded, film)) for film in films]
        assert np.mean(values) >= _LEAST_PSNR_DB[source], source


@pytest.mark.data
@pytest.mark.timeout(900)
@pytest.mark.parametrize("group", _FILMS)
def test_its_map_points_at_this_films_lesion_more_than_another_films_map_does(
    embedded: LoadedModel, shared_data: Path, group: str
) -> None:
    selection = Selection(data=shared_data, part="dev")
    rows, explainer = selection.groups[group][: _FILMS[group]], Explainer(embedded)
    threshold = embedded.settings.reading(Mode.CALIBRATED).threshold
    made = [
        explainer.evidence(film, Mode.CALIBRATED, 0) for film in selection.localised_films(rows)
    ]
    maps = [
        localisation.to_side(attribution_map(one, threshold, embedded.settings.blur_px), 128)
        for one in made
    ]
    truths = [localisation.box_mask(row.boxes, 128) for row in rows]
    groups = [row.group for row in rows]
    gain = localisation.precisions(maps, truths) - localisation.shuffled(maps, truths, groups)
    assert statistics.bootstrap(gain, seed=0, groups=groups).low > 0


def anything(_: FilmRow) -> bool:
    return True


def round_trip(model: LoadedModel, film: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(film)[None, None] * 2 - 1
    back: np.ndarray = model.autoencoder.decode(model.autoencoder.encode(x))[0, 0].numpy()
    return (back / 2 + 0.5).clip(0, 1)


def photograph(rng: np.random.Generator) -> np.ndarray:
    """Sky over a landscape with a few bright things in it."""
    rows, cols = np.indices((224, 224)) / 224
    plane = 0.9 - 0.4 * rows + 0.1 * np.sin(9 * cols)
    plane[rows > 0.6] = 0.3 + 0.2 * rng.random(int((rows > 0.6).sum()))
    plane[(rows > 0.3) & (rows < 0.7) & (np.abs(cols - 0.2) < 0.05)] = 0.1
    return np.asarray(plane.clip(0, 1), np.float32)


def hand(_: np.random.Generator) -> np.ndarray:
    """A palm and five fingers in black."""
    rows, cols = np.indices((224, 224)) / 224
    plane = np.zeros((224, 224), np.float32)
    plane[np.hypot((rows - 0.68) / 0.2, (cols - 0.5) / 0.2) < 1] = 0.7
    for col in (0.3, 0.4, 0.5, 0.6, 0.7):
        plane[(rows > 0.15) & (rows < 0.6) & (np.abs(cols - col) < 0.025)] = 0.8
    return plane


def noise(rng: np.random.Generator) -> np.ndarray:
    return rng.random((224, 224)).astype(np.float32)


@pytest.mark.parametrize("make", [photograph, hand, noise])
def test_what_is_no_chest_is_refused(
    embedded: LoadedModel, make: Callable[[np.random.Generator], np.ndarray]
) -> None:
    film = Radiograph(pixels=make(np.random.default_rng(0)))
    with pytest.raises(UnlikeTrainingError, match="not a chest"):
        Explainer(embedded).explain(film, Mode.CALIBRATED, seed=0)


@pytest.mark.parametrize("turn", [0, 1, 2], ids=["upright", "on its side", "upside down"])
def test_a_chest_is_taken_upright_only(embedded: LoadedModel, turn: int) -> None:
    chest = sampling.sample(embedded, 0, "Right upper zone consolidation").normal
    film = Radiograph(pixels=np.ascontiguousarray(np.rot90(chest, turn)))
    if turn == 0:
        assert Explainer(embedded).explain(film, Mode.CALIBRATED, seed=0).model.name
        return
    with pytest.raises(UnlikeTrainingError):
        Explainer(embedded).explain(film, Mode.CALIBRATED, seed=0)
