"""What is left of films behind the autoencoder: pixels, lesions, and what a classifier sees."""

from collections.abc import Mapping, Sequence
from typing import Any

from scipy import ndimage

from pipeline.anatomy import Mask
from pipeline.evaluation import fidelity, tables
from pipeline.evaluation.cases import Case, CaseMaker, Track
from pipeline.evaluation.seen import Seen, donors
from pipeline.evaluation.tables import Json, interval
from pipeline.training import contrast
from pipeline.training.fidelity import MOST_LESIONS, pasted
from pipeline.types import Image

_RING_PX = 10  # on the model grid
_LEAST_CONTRAST = 0.02  # of the grey range: below it a ratio says nothing


class Reconstruction:
    """Measures one model's autoencoder alone: no edit is made."""

    def __init__(self, maker: CaseMaker, track: Track[Any]) -> None:
        self._maker, self._track = maker, track

    def everything(self, seen: Sequence[Seen], cases: Mapping[str, Sequence[Case]]) -> Json:
        """Films by source, what is kept of marked lesions and of pasted ones, what a judge loses.

        Of a marked lesion nobody knows the film without it. So its `contrast_kept` is a ratio of
        means, lesion minus surroundings, and its `detail_kept` is of all that is fine within the
        mark, the film's noise too. Of pasted ones both are of the lesion alone.
        """
        back = [
            self._maker.reconstruction(film.pair.film)
            for film in self._track(seen, "reconstructions")
        ]
        both = [(film, again) for film, again in zip(seen, back, strict=True)]
        return {
            "sources": {
                source: _alike([(f.pair.film, y) for f, y in both if f.row.source == source])
                for source in sorted({film.row.source for film in seen})
            },
            **self._marked(cases),
            **self._pasted([film for film in seen if not film.row.paediatric]),
            "classifier_auroc": tables.aurocs(
                [film.normal for film in seen],
                {
                    "films": [self._maker.logit(film.pair.film) for film in seen],
                    "reconstructions": [self._maker.logit(y) for y in back],
                },
                [film.row.whose for film in seen],
            ),
        }

    def _marked(self, cases: Mapping[str, Sequence[Case]]) -> Json:
        found: Json = {"contrast_kept": {}, "detail_kept": {}}
        for name, group in cases.items():
            patients = [case.row.whose for case in group]
            both = [(c.evidence.plane, self._maker.reconstruction(c.evidence.plane)) for c in group]
            found["contrast_kept"][name] = interval(
                [_contrast_kept(*b, c.marked) for b, c in zip(both, group, strict=True)], patients
            )
            found["detail_kept"][name] = interval(
                [
                    contrast.slope(contrast.fine(film), contrast.fine(again), case.marked)
                    for (film, again), case in zip(both, group, strict=True)
                ],
                patients,
            )
        return found

    def _pasted(self, adult: Sequence[Seen]) -> Json:
        normals = donors(adult)
        some = normals[:: max(1, len(normals) // MOST_LESIONS)][:MOST_LESIONS]
        lesions = list(pasted([pair.film for pair in some], [pair.lungs for pair in some]))
        kept = [contrast.of_lesion(known, self._maker.reconstruction) for known in lesions]
        return {
            "pasted_lesions": len(kept),
            "pasted_contrast_kept": interval([lesion.contrast for lesion in kept]),
            "pasted_detail_kept": interval([lesion.detail for lesion in kept]),
        }


def _alike(both: Sequence[tuple[Image, Image]]) -> Json:
    return {
        "films": len(both),
        "psnr_db": interval([fidelity.psnr_db(x, y) for x, y in both]),
        "ssim": interval([fidelity.ssim(x, y) for x, y in both]),
        "ms_ssim": interval([fidelity.ms_ssim(x, y) for x, y in both]),
    }


def _contrast_kept(film: Image, again: Image, marked: Mask) -> float:
    """Lesion minus surroundings, behind the autoencoder as a share of before; NaN of none."""
    before, after = _contrast(film, marked), _contrast(again, marked)
    return float("nan") if abs(before) < _LEAST_CONTRAST else after / before


def _contrast(plane: Image, marked: Mask) -> float:
    """Mean inside minus mean of a ring around."""
    ring = ndimage.binary_dilation(marked, iterations=_RING_PX) & ~marked
    return float(plane[marked].mean() - plane[ring].mean())
