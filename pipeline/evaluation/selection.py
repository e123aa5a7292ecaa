"""Which films an evaluation is of."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.errors import DatasetError
from pipeline.evaluation import localisation
from pipeline.evaluation.localisation import Truth
from pipeline.training import dataset, pictures
from pipeline.training.dataset import FilmRow, LocalisedRow
from pipeline.training.pictures import Films
from pipeline.types import Image

_SPLIT_OF = {"dev": "val", "test": "test"}

GROUPS: dict[str, Callable[[LocalisedRow], bool]] = {
    "RSNA opacity": lambda row: _has(row, "nih-chestxray14", "Lung_Opacity"),
    "TBX tuberculosis": lambda row: row.source == "tbx11k" and bool(row.boxes),
    "JSRT nodule": lambda row: row.source == "jsrt" and bool(row.boxes),
    "NIH mass or nodule": lambda row: row.source == "nih-chestxray14-mass-boxes",
    "COVID masks": lambda row: row.source == "ieee8023-covid-chestxray",
}
"""Localised films of public sources by what readers marked on them."""


def _has(row: LocalisedRow, source: str, finding: str) -> bool:
    return row.source == source and any(box.finding == finding for box in row.boxes)


@dataclass(frozen=True)
class Selection:
    """The films of one part, at most `limit` of each kind (0: all)."""

    data: Path
    part: str
    limit: int = 0

    @property
    def split(self) -> str:
        """The manifest's split that goes with the part: dev is chosen on, test reported on."""
        return _SPLIT_OF[self.part]

    @cached_property
    def manifest(self) -> list[FilmRow]:
        """All rows of the manifest."""
        return dataset.read_manifest(self.data / "cxr256" / "manifest.csv")

    @cached_property
    def localised(self) -> list[LocalisedRow]:
        """The localised rows of the part."""
        return self._localised(self.part)

    def _localised(self, part: str) -> list[LocalisedRow]:
        return [row for row in self._all_localised if row.part == part]

    @cached_property
    def _all_localised(self) -> list[LocalisedRow]:
        """The localised films; a data folder may have none."""
        if not self._folder.exists():
            return []
        rows = dataset.read_localised(self._folder)
        dataset.demand_apart(self.manifest, rows)
        return rows

    @property
    def _folder(self) -> Path:
        return self.data / "localised"

    @cached_property
    def _spoilt(self) -> dataset.Kin:
        """Whose films part dev has: what is chosen on it is not reported on them.

        The other way about there are none: the tables are refused (dataset.demand_apart).
        """
        chosen_by = self._localised("dev")
        return dataset.kin_of(chosen_by if self.part == "test" else ())

    @property
    def left_out(self) -> int:
        """How many films of the split are of a group, patient or file that part dev has."""
        return sum(
            row.split == self.split and bool(row.kin & self._spoilt) for row in self.manifest
        )

    def rows(self, belongs: Callable[[FilmRow], bool], split: str | None = None) -> list[FilmRow]:
        """Rows of the own split, at most `limit` of each source and label, or all of another.

        None that was left out. What an audit learns from is never limited: it would learn less.
        """
        spoilt = self._spoilt
        chosen: dict[tuple[str, str], list[FilmRow]] = {}
        for row in self.manifest:
            if row.split == (split or self.split) and not row.kin & spoilt and belongs(row):
                chosen.setdefault((row.source, row.label), []).append(row)
        most = self.limit if split is None else 0
        return [row for rows in chosen.values() for row in rows[: most or None]]

    def demand_films(self, splits: Collection[str]) -> None:
        """There are films to measure, and every film of these splits and localised one is there.

        Raises:
            DatasetError: there are none, one is not there, nor a mask of it, or one is in several
                splits; up to ten are named. Hours of edits come before some are read.
        """
        if not self.localised and not self.rows(lambda _: True):
            raise DatasetError(
                f"{self.data}: nothing to measure: no film of split {self.split} that the other "
                f"part does not spoil, and no localised one of part {self.part}"
            )
        listed = [(row.tar, row.file) for row in self.manifest if row.split in splits]
        pictures.demand_films(self.data / "cxr256", listed)
        masks = {box.mask for row in self.localised for box in row.boxes if box.mask}
        for kind, names in (("images", [row.file for row in self.localised]), ("masks", masks)):
            if names:
                place = pictures.place_of(self._folder, kind)
                pictures.demand_films(self._folder, [(place, name) for name in names])
        self._demand_no_copies(splits)

    def _demand_no_copies(self, splits: Collection[str]) -> None:
        """No file is learnt from in one split and judged by in another, whatever the tables say.

        Of one split alone, nothing is read; nor a localised film of part train that is not there,
        as nobody asks for it.
        """
        if len(set(splits)) < 2:
            return
        rows = [row for row in self.manifest if row.split in splits]
        place = pictures.place_of(self._folder, "images")
        there = set(pictures.names_in(self._folder, place))
        learnt = [row for row in self._all_localised if row.part == "train" and row.file in there]
        found = [
            *((f"cxr256/{row.tar}", row.file, row.split) for row in rows),
            *((f"localised/{place}", row.file, "train") for row in learnt),
            *((f"localised/{place}", row.file, self.split) for row in self.localised),
        ]
        pictures.demand_no_copies(
            self.data,
            [(where, file) for where, file, _ in found],
            [split for _, _, split in found],
        )

    @property
    def notes(self) -> list[str]:
        """What the tables do not tell, and what that means for what is measured."""
        tables: dict[str, Sequence[FilmRow | LocalisedRow]] = {
            "manifest.csv": self.manifest,
            "images.csv": self._all_localised,
        }
        return [
            f"{name} names no patient (column patient_id): leaks between splits cannot be seen, "
            f"and intervals are over {'groups' if any(row.group for row in rows) else 'films'}"
            for name, rows in tables.items()
            if rows and not any(row.patient for row in rows)
        ]

    @property
    def groups(self) -> dict[str, list[LocalisedRow]]:
        """The marked films by what readers marked, at most `limit` of each: those of GROUPS, and by
        its source each that is in none of them.
        """
        found = {
            name: [row for row in self.localised if belongs(row)]
            for name, belongs in GROUPS.items()
        }
        known = {row.file for rows in found.values() for row in rows}
        for row in self.localised:
            if row.boxes and row.file not in known:
                found.setdefault(f"others of {row.source}", []).append(row)
        return {name: rows[: self.limit or None] for name, rows in found.items() if rows}

    @property
    def jsrt_normals(self) -> list[LocalisedRow]:
        """JSRT's films without a nodule, at most `limit`; the manifest has none of them."""
        found = [row for row in self.localised if row.source == "jsrt" and not row.boxes]
        return found[: self.limit or None]

    def films(self, rows: Sequence[FilmRow]) -> list[Image]:
        """The rows' films on the model grid, 0 black .. 1 white."""
        members = [(row.tar, row.file) for row in rows]
        return unit(pictures.load_films(self.data / "cxr256", members))

    def localised_films(self, rows: Sequence[LocalisedRow]) -> list[Image]:
        """The localised rows' films on the model grid, 0 black .. 1 white."""
        return unit(pictures.load_localised(self._folder, rows))

    def truths(self, rows: Sequence[LocalisedRow], side: int) -> list[Truth]:
        """What readers marked on the rows' films, [side, side]: masks; boxes where none is.

        Raises:
            DatasetError: a mask is missing, cannot be decoded or is blank.
        """
        return [self._truth(row, side) for row in rows]

    def _truth(self, row: LocalisedRow, side: int) -> Truth:
        boxes = localisation.box_mask([box for box in row.boxes if not box.mask], side)
        names = sorted({box.mask for box in row.boxes if box.mask})
        place = pictures.place_of(self._folder, "masks")
        masks = pictures.load_masks(self._folder, [(place, name) for name in names])
        truth = np.any([boxes, *(localisation.outline(mask, side) for mask in masks)], axis=0)
        if names and not truth.any():
            raise DatasetError(
                f"{self._folder / place}: nothing is white on the masks of {row.file}"
            )
        return np.asarray(truth)


def unit(films: Films) -> list[Image]:
    """Films of 0 .. 255 as 0 .. 1."""
    return [film.astype(np.float32) / 255 for film in films]
