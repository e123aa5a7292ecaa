"""Whether what is said with a probability happens as often as it says."""

import numpy as np
import numpy.typing as npt
from scipy import stats

from pipeline.evaluation.statistics import LEVELS, Groups, Interval, Values, films_of_groups

_BINS = 10
_NAMES = tuple(f"{b / _BINS:.1f} to {(b + 1) / _BINS:.1f}" for b in range(_BINS))
_RESAMPLES = 500


def expected_calibration_error(probabilities: Values, truth: Values) -> float:
    """Mean |share of truth - mean probability| over ten bins of equal width, weighted by films.

    Guo et al. (1706.04599, eq. 3).
    """
    which = _tenth(probabilities)
    gaps = [
        (which == b).mean() * abs(truth[which == b].mean() - probabilities[which == b].mean())
        for b in np.unique(which)
    ]
    return float(np.sum(gaps))


def tenths(probabilities: Values, truth: Values) -> dict[str, dict[str, float]]:
    """Of the bins that hold a film: how many, the mean probability said, and how often it was so.

    The points of a reliability diagram (1706.04599, figure 1).
    """
    which = _tenth(probabilities)
    return {
        _NAMES[b]: {
            "films": int((which == b).sum()),
            "said": float(probabilities[which == b].mean()),
            "happened": float(truth[which == b].mean()),
        }
        for b in np.unique(which)
    }


def counts_by_tenth(p_values: Values) -> dict[str, int]:
    """How many lie in each tenth of 0 .. 1; those of a uniform p are alike."""
    found = np.bincount(_tenth(p_values), minlength=_BINS)
    return {name: int(count) for name, count in zip(_NAMES, found, strict=True)}


def _tenth(values: Values) -> npt.NDArray[np.int64]:
    return np.asarray(np.minimum((values * _BINS).astype(int), _BINS - 1))


def expected_calibration_error_interval(
    probabilities: Values, truth: Values, groups: Groups, seed: int
) -> Interval:
    """The error with its basic bootstrap interval, groups of films resampled.

    Basic, not percentile: an error that is a sum of magnitudes is larger in every resample.
    """
    rng, members = np.random.default_rng(seed), films_of_groups(groups)
    found = expected_calibration_error(probabilities, truth)
    draws = []
    for _ in range(_RESAMPLES):
        drawn = rng.integers(0, len(members), len(members))
        some = np.concatenate([members[group] for group in drawn])
        draws.append(expected_calibration_error(probabilities[some], truth[some]))
    low, high = np.quantile(draws, LEVELS)
    ends = (max(0.0, 2 * found - float(end)) for end in (high, low))
    return Interval(mean=found, low=next(ends), high=next(ends))


def squared_errors(probabilities: Values, truth: Values) -> Values:
    """Of each film; their mean is Brier's score (1950)."""
    return np.asarray(np.square(probabilities - truth))


def not_uniform(p_values: Values) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of conformal p from the uniform, and its p.

    Held-out normals' p should be uniform; a small second number says that they are not.
    """
    found = stats.kstest(p_values, "uniform")
    return float(found.statistic), float(found.pvalue)
