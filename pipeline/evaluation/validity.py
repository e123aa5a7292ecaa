"""Whether the edit does what it says: another network sees normal, the rest stays, nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.anatomy import Mask
from pipeline.classifier import Classifier
from pipeline.evaluation import fidelity
from pipeline.evaluation.statistics import Interval, bootstrap, share
from pipeline.types import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A film on the grid with its counterpart, 0 .. 1, its map, and where the lesion may be."""

    film: Image
    counterfactual: Image
    attribution_map: Image
    lungs: Mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """Of films that the independent classifier calls abnormal, what the edit makes of them.

    `flipped` is the share called normal after the edit; `by_chance` the same after the same change
    moved to a random place; `gain` their paired difference. `source_kept` is the share whose source
    is still recognised; `off_target` the mean share of the change outside the lungs; `ssim_outside`
    the similarity to the film outside the lungs.
    """

    films: int
    flipped: Interval
    by_chance: Interval
    gain: Interval
    source_kept: Interval
    off_target: Interval
    ssim_outside: Interval


def judge(classifier: Classifier, pairs: Sequence[Pair], seed: int) -> Validity | None:
    """None where the classifier calls no film abnormal."""
    rng = np.random.default_rng(seed)
    called = [pair for pair in pairs if _logit(classifier, pair.film) > 0]
    if not called:
        return None
    flips = np.array([_logit(classifier, p.counterfactual) <= 0 for p in called], float)
    chance = np.array([_logit(classifier, _elsewhere(rng, p)) <= 0 for p in called], float)
    kept = [_source(classifier, p.film) == _source(classifier, p.counterfactual) for p in called]
    outside = [fidelity.ssim_where(p.film, p.counterfactual, ~p.lungs) for p in called]
    return Validity(
        films=len(called),
        flipped=share(int(flips.sum()), len(called)),
        by_chance=share(int(chance.sum()), len(called)),
        gain=bootstrap(flips - chance, seed),
        source_kept=share(sum(kept), len(called)),
        off_target=bootstrap(np.array([_off_target(p) for p in called]), seed),
        ssim_outside=bootstrap(np.array(outside), seed),
    )


def _elsewhere(rng: np.random.Generator, pair: Pair) -> Image:
    """The film less the very same change, rolled to a random place: an edit of the same energy."""
    change = pair.film - pair.counterfactual
    side = change.shape[0]
    shift = rng.integers(side // 4, 3 * side // 4, 2)
    return (pair.film - np.roll(change, shift, axis=(0, 1))).clip(0, 1)


def _off_target(pair: Pair) -> float:
    change = np.abs(pair.film - pair.counterfactual)
    return float(change[~pair.lungs].sum() / max(float(change.sum()), 1e-9))


@torch.inference_mode()
def _logit(classifier: Classifier, film: Image) -> float:
    return float(classifier(signed(film)))


@torch.inference_mode()
def _source(classifier: Classifier, film: Image) -> int:
    return int(classifier.source(classifier.features(signed(film))).argmax())


def signed(film: Image) -> torch.Tensor:
    """A film 0 .. 1 as the networks take it, [1, 1, h, w] in -1 .. 1."""
    return torch.from_numpy(np.ascontiguousarray(film, np.float32))[None, None] * 2 - 1
