"""Per-film values as cells of the table, ready for JSON: with 95 % intervals where they can be."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.evaluation import statistics

SEED = 0
"""Of every resampling of an evaluation."""

_LEAST_FILMS = 2

Json = dict[str, Any]


def interval(values: Iterable[float]) -> Json:
    """The mean of what is finite, with its interval; nothing where nothing is."""
    known = np.array([v for v in values if np.isfinite(v)], float)
    return asdict(statistics.bootstrap(known, SEED)) if len(known) else {}


def share(hits: Sequence[bool]) -> Json:
    """How many of the films, with its exact interval."""
    if not hits:
        return {"films": 0}
    return {"films": len(hits), **asdict(statistics.share(sum(hits), len(hits)))}


def auroc(films: Sequence[tuple[bool, float]]) -> Json:
    """Of (normal, score): the chance that a sick film scores above a normal one."""
    sick = np.array([score for normal, score in films if not normal])
    well = np.array([score for normal, score in films if normal])
    if min(len(sick), len(well)) < _LEAST_FILMS:
        return {}
    return asdict(statistics.auroc_interval(sick, well, SEED))


def counts(normal: Sequence[bool]) -> tuple[int, int]:
    """How many are normal, and how many are not."""
    return sum(normal), len(normal) - sum(normal)
