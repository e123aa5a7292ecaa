"""Teaches a probe what speaks for a finding, within sources.

Class is largely source in public data (2009.09780): a score that tells hospitals apart seems to
tell sick from well. So only sources with both classes teach, each class of each weighing alike, and
every source's own middle is taken away first: that one source is brighter than another, or sicker,
teaches nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from pipeline.errors import DatasetError
from pipeline.probe import Probe
from pipeline.training.dataset import FilmRow

LEAST_OF_A_CLASS = 20  # fewer films of a source have no middle worth the name
_RIDGE = 3e-3  # sklearn's C, the inverse of the penalty
_MOST_STEPS = 500

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """Traits [films, d] with each film's source and whether it has a finding."""

    traits: Numbers
    sources: Sequence[str]
    sick: npt.NDArray[np.bool_]


def chosen(rows: Sequence[FilmRow], most: int, seed: int) -> list[FilmRow]:
    """Films to teach by: of each source with enough of both classes at most `most` of a class.

    Raises:
        DatasetError: no source has enough of both.
    """
    rng = np.random.default_rng(seed)
    kinds: dict[str, dict[bool, list[FilmRow]]] = {}
    for row in rows:
        kinds.setdefault(row.source, {True: [], False: []})[row.label != "Normal"].append(row)
    found = [
        classes[sick][place]
        for classes in kinds.values()
        if min(map(len, classes.values())) >= LEAST_OF_A_CLASS
        for sick in (False, True)
        for place in rng.permutation(len(classes[sick]))[: most or None]
    ]
    if not found:
        raise DatasetError(
            f"no source has {LEAST_OF_A_CLASS} films without and with a finding: no probe can be "
            "taught by them"
        )
    return found


def fit(taught: Taught) -> Probe:
    """Ridge-regularised logistic regression on traits in units of their SD."""
    traits = np.asarray(taught.traits, np.float64)
    sd = traits.std(0) + 1e-6
    places = np.asarray(taught.sources)
    within, weigh = traits / sd, np.zeros(len(traits))
    middles = []
    for source in np.unique(places):
        classes = [(places == source) & (taught.sick == kind) for kind in (False, True)]
        middle = np.mean([within[films].mean(0) for films in classes], axis=0)
        within[places == source] -= middle
        middles.append(middle)
        for films in classes:
            weigh[films] = 1 / films.sum()
    model = LogisticRegression(C=_RIDGE, max_iter=_MOST_STEPS)
    model.fit(within, taught.sick, sample_weight=weigh * len(weigh) / weigh.sum())
    slopes = model.coef_[0]
    bias = float(model.intercept_[0] - slopes @ np.mean(middles, axis=0))
    return Probe(weights=np.asarray(slopes / sd, np.float32), bias=bias)
