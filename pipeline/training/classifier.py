"""Trains the independent classifier: it sees no paste, box or edit that the edit is taught by.

Class is largely source in public data: a network that tells sources apart seems to tell sick from
well. So real labels are learnt only within sources that have both, in equal shares; the border is
blacked out at random; and half of the lessons are pairs of a normal film and the same film with an
absorbing lesion (training.absorption), where nothing but the lesion differs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from pipeline import anatomy
from pipeline.classifier import SOURCES, Classifier
from pipeline.training import absorption, augment
from pipeline.training.augment import Plane
from pipeline.training.dataset import FilmRow
from pipeline.training.pairs import Material
from pipeline.training.session import Progress, Recipe, Session

_RECORD_EVERY = 50
_PAIRS = 0.5  # share of lessons that are pairs
_WIDEST_BORDER = 0.1  # of the side
_LARGEST_BLUR_PX = 1.5
_UNKNOWN = -100  # functional.cross_entropy's own word for "no label"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A film 0 .. 1, whether it is abnormal, and its source's place in SOURCES."""

    film: Plane
    abnormal: bool
    source: int


def train(material: Material, recipe: Recipe, folder: Path, progress: Progress) -> Classifier:
    """Train on the material's films and return the averaged weights."""
    torch.manual_seed(recipe.seed)
    model = Classifier().to(recipe.device)
    session = Session(model=model, recipe=recipe, folder=folder, progress=progress)
    lessons = Lessons(material, np.random.default_rng((recipe.seed, session.step)))
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

    def __init__(self, material: Material, rng: np.random.Generator) -> None:
        self._material, self._rng = material, rng
        self._strata = _strata(material.rows)
        self._normals = [
            place
            for place, row in enumerate(material.rows)
            if row.label == "Normal" and anatomy.usable(material.lungs[place] > 0)
        ]

    def take(self, size: int) -> list[Lesson]:
        """A batch of `size`; pairs lie side by side."""
        found: list[Lesson] = []
        while len(found) < size:
            found += self._pair() if self._rng.random() < _PAIRS else [self._real() for _ in "ab"]
        return found[:size]

    def _real(self) -> Lesson:
        classes = self._strata[self._rng.integers(len(self._strata))]
        places = classes[self._rng.integers(len(classes))]
        return self._lesson(places[self._rng.integers(len(places))])

    def _pair(self) -> list[Lesson]:
        place = self._normals[self._rng.integers(len(self._normals))]
        film = self._material.films[place].astype(np.float32) / 255
        share = float(np.exp(self._rng.uniform(np.log(0.01), np.log(0.35))))
        known = absorption.lesion(self._rng, film, self._material.lungs[place] > 0, share)
        state = self._rng.bit_generator.state
        normal = self._lesson(place)
        self._rng.bit_generator.state = state  # both are seen under the same light
        return [normal, replace(normal, film=_seen(self._rng, known.film), abnormal=True)]

    def _lesson(self, place: int) -> Lesson:
        row = self._material.rows[place]
        film = self._material.films[place].astype(np.float32) / 255
        source = SOURCES.index(row.source) if row.source in SOURCES else _UNKNOWN
        return Lesson(film=_seen(self._rng, film), abnormal=row.label != "Normal", source=source)


def _loss(model: Classifier, lessons: Sequence[Lesson], device: str) -> torch.Tensor:
    x = torch.from_numpy(np.stack([lesson.film for lesson in lessons]))[:, None] * 2 - 1
    with torch.autocast(x.device.type, torch.bfloat16):
        features = model.features(x.to(device))
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


def _seen(rng: np.random.Generator, film: Plane) -> Plane:
    """A random view of a film 0 .. 1, its border blacked out by a random width."""
    (plane,) = augment.view(rng, [film], augment.BOLD)
    plane = augment.sharpness(rng, plane, _LARGEST_BLUR_PX)
    plane = augment.contrast(rng, plane, augment.BOLD)
    top, bottom, left, right = rng.integers(0, int(_WIDEST_BORDER * len(plane)) + 1, 4)
    inside = np.zeros_like(plane)
    rows, cols = slice(top, len(plane) - bottom), slice(left, len(plane) - right)
    inside[rows, cols] = plane[rows, cols]
    return inside
