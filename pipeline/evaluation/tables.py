"""Per-film values as cells of the table, ready for JSON: with 95 % intervals where they can be."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import compress
from typing import Any

import numpy as np

from pipeline.evaluation import statistics
from pipeline.evaluation.statistics import Groups

SEED = 0
"""Of every resampling of an evaluation."""

_LEAST_FILMS = 2

Json = dict[str, Any]


def interval(values: Iterable[float], groups: Groups | None = None) -> Json:
    """The mean of what is finite, with its interval; nothing where nothing is."""
    every = np.array(list(values), float)
    known = np.isfinite(every)
    theirs = None if groups is None else list(compress(groups, known))
    return asdict(statistics.bootstrap(every[known], SEED, theirs)) if known.any() else {}


def share(hits: Sequence[bool], groups: Groups | None = None) -> Json:
    """How many of the films, with its exact interval."""
    if not hits:
        return {"films": 0}
    found = statistics.share_of(np.array(hits, float), groups)
    return {"films": len(hits), **asdict(found)}


def aurocs(
    normal: Sequence[bool], scores: Mapping[str, Sequence[float]], groups: Groups | None = None
) -> Json:
    """Of each score: the chance that a sick film scores above a normal one.

    Under `ours_minus`, what the first has above each other one, paired.
    """
    sick, names = ~np.array(normal, bool), list(scores)
    if min(counts(normal)) < _LEAST_FILMS:
        return {}
    values = [np.array(scores[name], float) for name in names]
    found = [asdict(one) for one in statistics.auroc_interval(sick, values, SEED, groups)]
    beside = dict(zip(names[1:], found[len(names) :], strict=True))
    alone = dict(zip(names, found[: len(names)], strict=True))
    return {**alone, **({"ours_minus": beside} if beside else {})}


def counts(normal: Sequence[bool]) -> tuple[int, int]:
    """How many are normal, and how many are not."""
    return sum(normal), len(normal) - sum(normal)
