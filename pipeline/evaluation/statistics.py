"""Means, shares and differences of per-film values with their 95 % intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

_RESAMPLES = 2000
LEVELS = (0.025, 0.975)
"""The ends of a 95 % interval."""

Values = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Groups = Sequence[str]
"""Of each film, whose or what it is: films of one group tell less than as many of several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with its 95 % interval over films, or groups of them."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def bootstrap(values: Values, seed: int, groups: Groups | None = None) -> Interval:
    """The mean of per-film values and its percentile interval (Efron, 1979), groups resampled."""
    return around(float(values.mean()), resampled_means(values, seed, groups))


def resampled_means(values: Values, seed: int, groups: Groups | None = None) -> Values:
    """[resamples]: the mean of per-film values in each, groups drawn with replacement."""
    sums, sizes = _of_groups(values, groups)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (_RESAMPLES, len(sums)))
    return np.asarray(sums[drawn].sum(1) / sizes[drawn].sum(1))


def around(mean: float, draws: Values) -> Interval:
    """The value with the percentile interval of its resamples."""
    low, high = np.quantile(draws, LEVELS)
    return Interval(mean=mean, low=float(low), high=float(high))


def share_of(hits: Values, groups: Groups | None = None) -> Interval:
    """The share of films that are 1, not 0, with its exact interval (Clopper and Pearson, 1934).

    Of films that come in groups the interval is that of as many independent films as tell as much
    (Korn and Graubard, 1998): films over the design effect, never more than there are films.
    """
    films, hit = len(hits), float(hits.sum())
    effective = films / _design_effect(hits, groups)
    return _exact(hit * effective / films, effective)


def _exact(hits: float, films: float) -> Interval:
    """Of whole or effective numbers of films."""
    low = float(stats.beta.ppf(LEVELS[0], hits, films - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(LEVELS[1], hits + 1, films - hits)) if hits < films else 1.0
    return Interval(mean=hits / films, low=low, high=high)


def _design_effect(hits: Values, groups: Groups | None) -> float:
    """Variance of the share by groups over that of as many independent films; 1 at least."""
    sums, sizes = _of_groups(hits, groups)
    mean, number = hits.mean(), len(sums)
    alone = mean * (1 - mean) / len(hits)
    if alone == 0 or number < 2:  # nothing varies that could tell
        return len(hits) / number
    between = np.square(sums - mean * sizes).sum() / len(hits) ** 2
    return max(1.0, float(between / alone))


def _of_groups(values: Values, groups: Groups | None) -> tuple[Values, Values]:
    """Sum and number of films of each group; a film without a name is a group of its own."""
    if groups is None:
        return values, np.ones(len(values))
    which = _which(groups)
    return np.bincount(which, values).astype(float), np.bincount(which).astype(float)


def films_of_groups(groups: Groups) -> list[npt.NDArray[np.int_]]:
    """The places of each group's films; a film without a name is a group of its own."""
    which = _which(groups)
    return [np.nonzero(which == group)[0] for group in range(which.max() + 1)]


def _which(groups: Groups) -> npt.NDArray[np.int_]:
    names = [name or f" {number}" for number, name in enumerate(groups)]
    return np.unique(names, return_inverse=True)[1]


def auroc(positive: Values, negative: Values) -> float:
    """The chance that a positive scores above a negative, ties counting half (Mann-Whitney)."""
    ranks = stats.rankdata(np.concatenate([positive, negative]))[: len(positive)]
    wins = ranks.sum() - len(positive) * (len(positive) + 1) / 2
    return float(wins / (len(positive) * len(negative)))


def auroc_interval(
    sick: Flags, scores: Sequence[Values], seed: int, groups: Groups | None = None
) -> list[Interval]:
    """`auroc` of each score of the same films, then of the first less each other one.

    Percentile intervals, both classes' groups resampled together, so that differences are paired.
    """
    members = films_of_groups(groups or [""] * len(sick))
    rng = np.random.default_rng(seed)
    found = _aurocs(sick, scores, np.arange(len(sick)))
    draws: list[Values] = []
    while len(draws) < _RESAMPLES // 4:
        drawn = rng.integers(0, len(members), len(members))
        films = np.concatenate([members[group] for group in drawn])
        if 0 < sick[films].sum() < len(films):
            draws.append(_aurocs(sick, scores, films))
    return [around(float(m), column) for m, column in zip(found, np.array(draws).T, strict=True)]


def _aurocs(sick: Flags, scores: Sequence[Values], films: npt.NDArray[np.int_]) -> Values:
    ill = sick[films]
    each = [auroc(score[films][ill], score[films][~ill]) for score in scores]
    return np.array([*each, *(each[0] - other for other in each[1:])])
