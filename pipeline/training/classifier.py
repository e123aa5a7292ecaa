"""Trains the independent classifier: it sees no paste, box or edit that the edit is taught by.

Class is largely source in public data: a network that tells sources apart seems to tell sick from
well. So real labels are learnt only within sources that have both, in equal shares; the border is
blacked out at random; and half of the lessons are pairs of a normal film and the same film with an
absorbing lesion (training.absorption), where nothing but the lesion differs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from pipeline import anatomy
from pipeline.classifier import SIDE, SOURCES, Classifier
from pipeline.errors import DatasetError
from pipeline.training import absorption, augment
from pipeline.training.augment import Plane
from pipeline.training.dataset import FilmRow
from pipeline.training.pairs import Material
from pipeline.training.pictures import Films
from pipeline.training.session import Progress, Recipe, Session, autocast

_RECORD_EVERY = 50
_PAIRS = 0.5  # share of lessons that are pairs
_PAIRS_PER_MINUTE, _MOST_PAIRS = 300, 4000  # made before the clock runs
_SMALLEST, _LARGEST = 0.02, 0.4  # share of the lungs that a lesion covers
_WIDEST_BORDER = 0.1  # of the side
_LARGEST_BLUR_PX = 0.8
_UNKNOWN = -100  # functional.cross_entropy's own word for "no label"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A film 0 .. 1, whether it is abnormal, and its source's place in SOURCES."""

    film: Plane
    abnormal: bool
    source: int


def train(material: Material, recipe: Recipe, folder: Path, progress: Progress) -> Classifier:
    """Train on the material's films and return the averaged weights.

    Raises:
        DatasetError: no source has films of both labels.
    """
    torch.manual_seed(recipe.seed)
    model = Classifier().to(recipe.device)
    session = Session(model=model, recipe=recipe, folder=folder, progress=progress)
    pairs = min(_MOST_PAIRS, max(recipe.batch, int(recipe.minutes * _PAIRS_PER_MINUTE)))
    lessons = Lessons(material, np.random.default_rng(session.seed), pairs)
    for step in session.steps():
        loss = _loss(model, lessons.take(recipe.batch), recipe.device)
        session.learn(loss)
        if step % _RECORD_EVERY == 0:
            session.record({"loss": float(loss.detach())})
    session.ema_into(model)
    model.eval()
    return model


class Lessons:
    """Draws batches: real films in equal shares, and pairs without and with a lesion."""

    def __init__(self, material: Material, rng: np.random.Generator, pairs: int) -> None:
        self._rng, self._rows = rng, material.rows
        self._films = _halved(material.films)
        self._strata = _strata(material.rows)
        if not self._strata:
            raise DatasetError("no source of train has both normal films and films with findings")
        self._pairs = _pairs(material, pairs)

    def take(self, size: int) -> list[Lesson]:
        """A batch of `size`; pairs lie side by side."""
        found: list[Lesson] = []
        while len(found) < size:
            paired = len(self._pairs) and self._rng.random() < _PAIRS
            found += self._pair() if paired else [self._real(), self._real()]
        return found[:size]

    def _real(self) -> Lesson:
        classes = self._strata[self._rng.integers(len(self._strata))]
        places = classes[self._rng.integers(len(classes))]
        place = places[self._rng.integers(len(places))]
        row = self._rows[place]
        return Lesson(
            film=_seen(self._rng, self._films[place]),
            abnormal=row.label != "Normal",
            source=SOURCES.index(row.source) if row.source in SOURCES else _UNKNOWN,
        )

    def _pair(self) -> list[Lesson]:
        normal, sick = self._pairs[self._rng.integers(len(self._pairs))]
        state = self._rng.bit_generator.state
        well = Lesson(film=_seen(self._rng, normal), abnormal=False, source=_UNKNOWN)
        self._rng.bit_generator.state = state  # both are seen in the same view and light
        return [well, Lesson(film=_seen(self._rng, sick), abnormal=True, source=_UNKNOWN)]


def _pairs(material: Material, count: int) -> Films:
    """[n, 2, SIDE, SIDE] uint8: normal films without and with an absorbing lesion."""
    rng = np.random.default_rng(0)
    normals = [
        place
        for place, row in enumerate(material.rows)
        if row.label == "Normal" and anatomy.usable(material.lungs[place] > 0)
    ]
    found = np.zeros((count if normals else 0, 2, SIDE, SIDE), np.uint8)
    for index in range(len(found)):
        place = normals[rng.integers(len(normals))]
        film = material.films[place].astype(np.float32) / 255
        share = float(np.exp(rng.uniform(np.log(_SMALLEST), np.log(_LARGEST))))
        known = absorption.lesion(rng, film, material.lungs[place] > 0, share)
        both = np.stack([known.normal, known.film]) * 255
        found[index] = _halved(both.round().astype(np.uint8))
    return found


def _halved(films: Films) -> Films:
    """[n, 2 SIDE, 2 SIDE] -> [n, SIDE, SIDE], block means."""
    blocks = films.reshape(len(films), SIDE, 2, SIDE, 2)
    return np.asarray(blocks.mean((2, 4), dtype=np.float32).round(), np.uint8)


def _loss(model: Classifier, lessons: Sequence[Lesson], device: str) -> torch.Tensor:
    films = torch.from_numpy(np.stack([lesson.film for lesson in lessons]))
    x = films[:, None].to(device) * 2 - 1
    with autocast(device):
        features = model.features(x)
    features = features.float()
    truth = torch.tensor([float(lesson.abnormal) for lesson in lessons], device=device)
    sources = torch.tensor([lesson.source for lesson in lessons], device=device)
    abnormal = functional.binary_cross_entropy_with_logits(model.abnormal(features)[:, 0], truth)
    # The source head reads what is there and teaches the features nothing.
    known = functional.cross_entropy(model.source(features.detach()), sources)
    return abnormal + (known if bool((sources != _UNKNOWN).any()) else 0.0)


def _strata(rows: Sequence[FilmRow]) -> list[list[list[int]]]:
    """For each source with both classes, the places of its normal and of its abnormal films."""
    found: dict[str, dict[bool, list[int]]] = {}
    for place, row in enumerate(rows):
        found.setdefault(row.source, {}).setdefault(row.label == "Normal", []).append(place)
    return [list(classes.values()) for classes in found.values() if len(classes) == 2]


def _seen(rng: np.random.Generator, film: Films) -> Plane:
    """A random view of a film, 0 .. 1, its border blacked out by a random width."""
    unit = np.asarray(film / 255, np.float32)
    (plane,) = augment.view(rng, [unit], augment.BOLD)
    plane = augment.sharpness(rng, plane, _LARGEST_BLUR_PX)
    plane = augment.contrast(rng, plane, augment.BOLD)
    top, bottom, left, right = rng.integers(0, int(_WIDEST_BORDER * len(plane)) + 1, 4)
    inside = np.zeros_like(plane)
    rows, cols = slice(top, len(plane) - bottom), slice(left, len(plane) - right)
    inside[rows, cols] = plane[rows, cols]
    return inside
