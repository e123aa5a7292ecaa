"""Means, shares and differences of per-film values with their 95 % intervals."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

_RESAMPLES = 2000
LEVELS = (0.025, 0.975)
"""The ends of a 95 % interval."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with its 95 % interval over films."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def bootstrap(values: Values, seed: int) -> Interval:
    """The mean of per-film values and its percentile interval (Efron, 1979)."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (_RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, LEVELS)
    return Interval(mean=float(values.mean()), low=float(low), high=float(high))


def share(hits: int, films: int) -> Interval:
    """A share of films with its exact interval (Clopper and Pearson, 1934)."""
    low = float(stats.beta.ppf(LEVELS[0], hits, films - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(LEVELS[1], hits + 1, films - hits)) if hits < films else 1.0
    return Interval(mean=hits / films, low=low, high=high)


def auroc(positive: Values, negative: Values) -> float:
    """The chance that a positive scores above a negative, ties counting half (Mann-Whitney)."""
    ranks = stats.rankdata(np.concatenate([positive, negative]))[: len(positive)]
    wins = ranks.sum() - len(positive) * (len(positive) + 1) / 2
    return float(wins / (len(positive) * len(negative)))


def auroc_interval(positive: Values, negative: Values, seed: int) -> Interval:
    """`auroc` with its percentile interval, both classes resampled."""
    rng = np.random.default_rng(seed)
    draws = [
        auroc(rng.choice(positive, len(positive)), rng.choice(negative, len(negative)))
        for _ in range(_RESAMPLES // 4)
    ]
    low, high = np.quantile(draws, LEVELS)
    return Interval(mean=auroc(positive, negative), low=float(low), high=float(high))
