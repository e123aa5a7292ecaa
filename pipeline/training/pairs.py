"""Pairs of films: a normal one and the same with a lesion, and others of which less is known."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline import anatomy, framing, prompts
from pipeline.errors import DatasetError
from pipeline.prompts import Finding
from pipeline.training import augment, kept, lesions
from pipeline.training.augment import Jitter, Plane
from pipeline.training.dataset import BOXED, Box, FilmRow
from pipeline.training.lesions import Donor
from pipeline.training.pictures import Films

_LARGEST_BLUR_PX = 0.8
FRAMED = 0.5
"""The share of films seen as an explanation's second draw sees them, in the lungs' frame."""
KINDS = ("pasted", "boxed", "healthy", "abnormal", "labelled", "diffuse", "estimated")
_AVERAGED = 8  # normal films, for what a sick one's lungs should be like
_CHILDREN = 0.3  # of diffuse disease: fewer than their films are
_MADE_OF: Mapping[str, Finding] = {
    "COVID": "pneumonia",
    "Viral_Pneumonia": "pneumonia",
    "Bacterial_Pneumonia": "pneumonia",
    "Other_Pneumonia": "pneumonia",
    "Lung_Opacity": "opacity",
    "Tuberculosis": "tuberculosis",
}
# Whose sick and whose normal films come from other hospitals: a label there teaches the hospital.
_CONFOUNDED = frozenset({"covid19-radiography-db", "actualmed-covid", "figure1-covid"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Films with their lungs (both uint8 [n, GRID, GRID]) and what is known of each."""

    films: Films
    lungs: Films
    rows: Sequence[FilmRow]
    boxes: Sequence[tuple[Box, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many of each kind a pool holds."""

    pasted: int = 12000
    boxed: int = 2400
    healthy: int = 2000
    abnormal: int = 2000
    labelled: int = 4000
    diffuse: int = 0
    estimated: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One member of the pool, as films: what is seen, what is aimed at, and where they differ.

    Of a labelled film nobody knows where: its mask is its lungs. Of a film with diffuse disease,
    and of a real one whose aim is an estimate, it is blank: where it differs from its aim is to be
    seen from the two.
    """

    kind: str
    source: Plane
    aim: Plane
    mask: Plane
    words: str
    view: str

    @property
    def is_sick(self) -> bool:
        """Whether its words name a finding."""
        return self.words not in prompts.load().normal_prompts(self.view)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lot:
    """Places of films to draw from, each with its chance."""

    films: Sequence[int]
    chances: npt.NDArray[np.float64]


class PairMaker:
    """Makes samples from material, the same ones for the same seed, part and counts."""

    def __init__(self, material: Material, seed: int, framed: float = FRAMED) -> None:
        self._material, self._seed, self._share_framed = material, seed, framed
        self._rng = np.random.default_rng(seed)
        rows = material.rows
        fit = [anatomy.usable(mask > 0) for mask in material.lungs]
        adult = [ok and not row.paediatric for ok, row in zip(fit, rows, strict=True)]
        index = range(len(rows))
        self._normals = self._lot([i for i in index if adult[i] and rows[i].label == "Normal"])
        self._boxed = self._lot([i for i in index if fit[i] and material.boxes[i]])
        self._donors = self._lot(
            [i for i in index if fit[i] and rows[i].label in _MADE_OF and not material.boxes[i]]
        )
        self._labelled_lots = self._lots_by_label([i for i in index if fit[i]])
        self._ages = self._lots_by_age([i for i in index if fit[i] and not material.boxes[i]])

    def allowed(self, counts: Counts) -> Counts:
        """Of these the kinds that the films allow."""
        lacking = {
            "boxed": not self._boxed.films,
            "abnormal": not self._donors.films,
            "labelled": not self._labelled_lots,  # no source has films of both labels
            "diffuse": not self._ages,
            "estimated": not self._ages,
        }
        return replace(counts, **{kind: 0 for kind, lacks in lacking.items() if lacks})

    def samples(self, counts: Counts, part: int = 0) -> Iterator[Sample]:
        """All samples of all kinds that the films allow; every part is drawn by itself.

        Raises:
            DatasetError: no healthy lungs to paste into are seen.
        """
        self._rng = np.random.default_rng((self._seed, part))
        makers = {
            "pasted": self._pasted,
            "boxed": self._boxed_film,
            "healthy": self._healthy,
            "abnormal": self._abnormal,
            "labelled": self._labelled,
            "diffuse": self._diffuse,
            "estimated": self._estimated,
        }
        self._demand_normals(counts)
        allowed = self.allowed(counts)
        for kind, make in makers.items():
            for _ in range(getattr(allowed, kind)):
                yield make()

    @property
    def origin(self) -> dict[str, str]:
        """What decides the samples beside their counts and the words."""
        material = self._material
        said = [(r.label, r.source, r.view, r.paediatric) for r in material.rows]
        return {
            "films": kept.digest_of(material.films, repr(said), repr(material.boxes)),
            "lungs": kept.digest_of(material.lungs),
            "seed": f"{self._seed} {self._share_framed}",
        }

    def _demand_normals(self, counts: Counts) -> None:
        if not self._normals.films and (counts.pasted or counts.healthy or counts.diffuse):
            raise DatasetError(
                "no Normal adult film of train in which both lungs are seen, and pairs are made of "
                "such films: look at the labels, and whether the segmenter was trained for long "
                "enough"
            )

    def _pasted(self) -> Sample:
        film, lungs, view = self._normal()
        paste = self._one_paste(film, lungs)
        mask, pasted = paste.mask, paste.film
        if self._rng.random() < 0.3:  # sick lungs often have more than one
            second = self._one_paste(pasted, lungs)
            pasted, mask = second.film, np.maximum(mask, second.mask)
        words = prompts.load().induced_prompt(paste.zone, paste.finding, view)
        return Sample(kind="pasted", source=pasted, aim=film, mask=mask, words=words, view=view)

    def _one_paste(self, film: Plane, lungs: npt.NDArray[np.bool_]) -> lesions.Paste:
        chance = self._rng.random()
        if chance < 0.35 or not (self._donors.films or self._boxed.films):
            return lesions.opacity(self._rng, film, lungs)
        if chance < 0.45:
            return lesions.nodule(self._rng, film, lungs)
        if self._donors.films and (chance < 0.75 or not self._boxed.films):
            return lesions.borrowed(self._rng, film, lungs, self._donor(self._donors))
        return lesions.transplanted(self._rng, film, lungs, self._donor(self._boxed))

    def _boxed_film(self) -> Sample:
        index = self._pick(self._boxed)
        # Few films are boxed: varied more than others, else the gate learns them by heart.
        film, _, mask = self._seen(index, self._box_mask(index), augment.BOLD)
        finding = BOXED[self._material.boxes[index][0].finding][1]
        words = prompts.load().labelled_prompt(finding, self._view(index))
        return Sample(
            kind="boxed", source=film, aim=film, mask=mask, words=words, view=self._view(index)
        )

    def _healthy(self) -> Sample:
        film, lungs, view = self._normal()
        if self._rng.random() < 0.7:
            film = lesions.seam(self._rng, film, lungs, self._donor(self._normals))
        words = prompts.load().normal_prompts(view)[0]
        blank = np.zeros_like(film)
        return Sample(kind="healthy", source=film, aim=film, mask=blank, words=words, view=view)

    def _abnormal(self) -> Sample:
        index = self._pick(self._donors)
        film, _, blank = self._seen(index, np.zeros_like(self._plane(index)))
        words, view = self._said_of(index), self._view(index)
        return Sample(kind="abnormal", source=film, aim=film, mask=blank, words=words, view=view)

    def _labelled(self) -> Sample:
        lot = self._labelled_lots[int(self._rng.integers(len(self._labelled_lots)))]
        index = self._pick(lot)
        film, lungs, _ = self._seen(index, np.zeros_like(self._plane(index)), augment.BOLD)
        mask = lungs.astype(np.float32)
        words, view = self._said_of(index), self._view(index)
        return Sample(kind="labelled", source=film, aim=film, mask=mask, words=words, view=view)

    def _diffuse(self) -> Sample:
        well, sick = self._age()
        film, lungs, view = self._normal(well)
        index = self._pick(sick)
        hazy = lesions.diffuse(self._rng, film, lungs, self._donor_of(index))
        words = prompts.load().labelled_prompt(_MADE_OF[self._material.rows[index].label], view)
        blank = np.zeros_like(film)
        return Sample(kind="diffuse", source=hazy, aim=film, mask=blank, words=words, view=view)

    def _estimated(self) -> Sample:
        well, sick = self._age()
        index, film, lungs = self._usable(sick)
        alike = self._from_where(index, well)
        normals = [self._donor(alike) for _ in range(_AVERAGED)]
        aim = lesions.estimated(self._rng, film, lungs, normals)
        words, view = self._said_of(index), self._view(index)
        blank = np.zeros_like(film)
        return Sample(kind="estimated", source=film, aim=aim, mask=blank, words=words, view=view)

    def _age(self) -> tuple[_Lot, _Lot]:
        return self._ages[len(self._ages) - 1 if self._rng.random() < _CHILDREN else 0]

    def _from_where(self, index: int, well: _Lot) -> _Lot:
        """The normal films of a film's own source, where it has enough of them."""
        rows = self._material.rows
        own = [i for i in well.films if rows[i].source == rows[index].source]
        return self._lot(own) if len(own) >= _AVERAGED else well

    def _normal(self, among: _Lot | None = None) -> tuple[Plane, npt.NDArray[np.bool_], str]:
        index, film, lungs = self._usable(among or self._normals)
        return film, lungs, self._view(index)

    def _usable(self, among: _Lot) -> tuple[int, Plane, npt.NDArray[np.bool_]]:
        """A film of which enough of both lungs is still seen, and which it is."""
        while True:
            index = self._pick(among)
            film, lungs, _ = self._seen(index, np.zeros_like(self._plane(index)))
            if anatomy.usable(lungs):
                return index, film, lungs

    def _seen(
        self, index: int, mask: Plane, jitter: Jitter = augment.MILD
    ) -> tuple[Plane, npt.NDArray[np.bool_], Plane]:
        lungs = self._material.lungs[index].astype(np.float32) / 255
        planes = [self._plane(index), lungs, mask]
        film, lungs, mask = self._framed(augment.view(self._rng, planes, jitter))
        film = augment.sharpness(self._rng, film, _LARGEST_BLUR_PX)
        return augment.contrast(self._rng, film, jitter), lungs > 0.5, mask

    def _framed(self, planes: Sequence[Plane]) -> Sequence[Plane]:
        """Film, lungs and mask as they are, or in the frame around the lungs."""
        if self._rng.random() >= self._share_framed:
            return planes
        frame = framing.around(planes[1] > 0.5)
        return [frame.see(plane) for plane in planes]

    def _donor(self, among: _Lot) -> Donor:
        return self._donor_of(self._pick(among))

    def _donor_of(self, index: int) -> Donor:
        boxes = self._material.boxes[index]
        box = boxes[int(self._rng.integers(len(boxes)))] if boxes else None
        return Donor(
            film=self._plane(index),
            lungs=self._material.lungs[index] > 0,
            box=_pixels(box, self._material.films.shape[-1]) if box else None,
            finding=BOXED[box.finding][1] if box else None,
        )

    def _box_mask(self, index: int) -> Plane:
        mask = np.zeros_like(self._plane(index))
        for box in self._material.boxes[index]:
            row0, col0, row1, col1 = _pixels(box, mask.shape[-1])
            mask[row0:row1, col0:col1] = 1
        return mask

    def _plane(self, index: int) -> Plane:
        return np.asarray(self._material.films[index] / 255, np.float32)

    def _said_of(self, index: int) -> str:
        """A film's label as a sentence."""
        label, view = self._material.rows[index].label, self._view(index)
        if label == "Normal":
            return prompts.load().normal_prompts(view)[0]
        return prompts.load().labelled_prompt(_MADE_OF[label], view)

    def _view(self, index: int) -> str:
        return self._material.rows[index].view

    def _lot(self, films: Sequence[int]) -> _Lot:
        """Films to draw from; a source is met as the root of its films: the small are heard too."""
        sources = [self._material.rows[i].source for i in films]
        counts = Counter(sources)
        weights = np.array([counts[source] ** -0.5 for source in sources])
        return _Lot(films=films, chances=weights / max(weights.sum(), 1e-9))

    def _lots_by_age(self, films: Sequence[int]) -> list[tuple[_Lot, _Lot]]:
        """Normal and sick films of adults, then of children; an age that lacks either is left out.

        Here hospitals may differ: what is taught is the difference, not which of them has it.
        """
        rows, found = self._material.rows, []
        for paediatric in (False, True):
            own = [i for i in films if rows[i].paediatric == paediatric]
            well = [i for i in own if rows[i].label == "Normal"]
            sick = [i for i in own if rows[i].label in _MADE_OF]
            if well and sick:
                found.append((self._lot(well), self._lot(sick)))
        return found

    def _lots_by_label(self, films: Sequence[int]) -> list[_Lot]:
        """Sick and normal films, as often as each other, of sources that have both."""
        rows = self._material.rows
        sick = [i for i in films if rows[i].label in _MADE_OF]
        well = [i for i in films if rows[i].label == "Normal"]
        both = {rows[i].source for i in sick} & {rows[i].source for i in well} - _CONFOUNDED
        return [
            self._lot([i for i in group if rows[i].source in both])
            for group in (sick, well)
            if both
        ]

    def _pick(self, lot: _Lot) -> int:
        return int(self._rng.choice(lot.films, p=lot.chances))


def _pixels(box: Box, side: int) -> tuple[int, int, int, int]:
    """row0, col0, row1, col1, inside the square and at least one pixel wide."""
    row0, col0 = int(box.y0 * side), int(box.x0 * side)
    row0, col0 = min(max(row0, 0), side - 1), min(max(col0, 0), side - 1)
    row1 = min(max(round(box.y1 * side), row0 + 1), side)
    col1 = min(max(round(box.x1 * side), col0 + 1), side)
    return row0, col0, row1, col1
