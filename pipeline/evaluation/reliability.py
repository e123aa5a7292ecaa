"""Whether what is said with a probability happens as often as it says."""

import numpy as np
from scipy import stats

from pipeline.evaluation.statistics import Values

_BINS = 10


def expected_calibration_error(probabilities: Values, truth: Values) -> float:
    """Mean |share of truth - mean probability| over ten bins of equal width, weighted by films.

    Guo et al. (1706.04599, eq. 3).
    """
    which = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    gaps = [
        (which == b).mean() * abs(truth[which == b].mean() - probabilities[which == b].mean())
        for b in np.unique(which)
    ]
    return float(np.sum(gaps))


def brier(probabilities: Values, truth: Values) -> float:
    """Mean squared difference between probability and truth (Brier, 1950)."""
    return float(np.square(probabilities - truth).mean())


def not_uniform(p_values: Values) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of conformal p from the uniform, and its p.

    Held-out normals' p should be uniform; a small second number says that they are not.
    """
    found = stats.kstest(p_values, "uniform")
    return float(found.statistic), float(found.pvalue)
