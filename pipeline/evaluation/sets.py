"""How far one set of films lies from another: FID and KID, and where counterparts stand by them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance, poly_mmd

from pipeline.classifier import FEATURES, Classifier
from pipeline.evaluation import inception
from pipeline.evaluation.inception import Inception
from pipeline.evaluation.statistics import LEVELS, Interval
from pipeline.types import Image

_LEAST_FILMS = 10  # below this a set has no distance worth the name
_KID_SUBSETS = 50
_HALVINGS = 200
_CHUNK = 64


class Encoder(nn.Module):
    """The features that FID and KID are measured in; `name` is said beside every number."""

    def __init__(self, name: str, network: Classifier | Inception, num_features: int) -> None:
        super().__init__()
        self.name, self.num_features, self._network = name, num_features, network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 1, h, w] in -1 .. 1 -> [n, num_features]."""
        return self._network.features(x)


def encoder(classifier: Classifier, weights: Path | None) -> Encoder:
    """Inception where its weights are given, else our own chest classifier.

    Raises:
        ModelError: the weights are not Inception's.
    """
    if weights is not None:
        return Encoder("Inception v3, 2048 features", inception.load(weights), inception.FEATURES)
    name = f"VALD chest classifier, {FEATURES} features (not Inception)"
    return Encoder(name, classifier, FEATURES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """FID and KID between two sets of films; `kid_sd` is over subsets of a half."""

    fid: float
    kid: float
    kid_sd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where sick films' counterparts stand among normal and sick films of one source.

    The floor is the distance of normal films from one another, the ceiling that of sick ones from
    normal ones; `share` is how far of the way between them, by KID, the counterparts are.
    """

    normal: int
    abnormal: int
    floor: Distance
    ceiling: Distance
    counterparts: Distance
    share: Interval


def distance(
    encoder: Encoder, real: Sequence[Image], made: Sequence[Image], seed: int
) -> Distance | None:
    """FID (1706.08500) and KID (1801.01401) of two sets of films; None if one is too small."""
    size = min(len(real), len(made))
    if size < _LEAST_FILMS:
        return None
    torch.manual_seed(seed)  # KID draws its subsets from torch's own generator
    fid = FrechetInceptionDistance(feature=encoder)
    kid = KernelInceptionDistance(feature=encoder, subsets=_KID_SUBSETS, subset_size=size // 2)
    for metric in (fid, kid):
        metric.update(_stack(real), real=True)
        metric.update(_stack(made), real=False)
    mean, sd = kid.compute()
    return Distance(fid=float(fid.compute()), kid=float(mean), kid_sd=float(sd))


def standing(
    encoder: Encoder,
    normal: Sequence[Image],
    sick: Sequence[Image],
    made: Sequence[Image],
    seed: int,
) -> Standing | None:
    """Where the counterparts `made` of `sick` stand; None if a set is too small."""
    half = len(normal) // 2
    floor = distance(encoder, normal[:half], normal[half:], seed)
    ceiling = distance(encoder, normal, sick, seed)
    counterparts = distance(encoder, normal, made, seed)
    if floor is None or ceiling is None or counterparts is None:
        return None
    well, ill, mended = (_features(encoder, films) for films in (normal, sick, made))
    low, high = _ends(well, ill, mended, np.random.default_rng(seed))
    mean = share_of_the_way(counterparts.kid, floor.kid, ceiling.kid)
    return Standing(
        normal=len(normal),
        abnormal=len(sick),
        floor=floor,
        ceiling=ceiling,
        counterparts=counterparts,
        share=Interval(mean=mean, low=low, high=high),
    )


def share_of_the_way(value: float, floor: float, ceiling: float) -> float:
    """Where `value` lies between the distance of normal films to themselves and to sick ones."""
    return (value - floor) / (ceiling - floor) if ceiling > floor else float("nan")


def _ends(
    normal: torch.Tensor, sick: torch.Tensor, made: torch.Tensor, rng: np.random.Generator
) -> tuple[float, float]:
    """The 95 % interval of the share of the way, from features [n, width].

    By halves of the films, drawn without replacement (the delete-half jackknife; Shao and Wu,
    1989): films drawn twice, as a bootstrap has them, would look like one another.
    """
    size, shares = min(len(normal), len(sick)) // 2, []
    for _ in range(_HALVINGS):
        mixed, drawn = rng.permutation(len(normal)), rng.permutation(len(sick))[:size]
        ours, others = normal[mixed[:size]], normal[mixed[size : 2 * size]]
        floor, ceiling, value = (
            float(poly_mmd(ours, x)) for x in (others, sick[drawn], made[drawn])
        )
        shares.append(share_of_the_way(value, floor, ceiling))
    known = [share for share in shares if np.isfinite(share)]
    low, high = np.quantile(known, LEVELS) if known else (np.nan, np.nan)
    return float(low), float(high)


@torch.inference_mode()
def _features(encoder: Encoder, films: Sequence[Image]) -> torch.Tensor:
    parts = [films[start : start + _CHUNK] for start in range(0, len(films), _CHUNK)]
    return torch.cat([encoder(_stack(part)) for part in parts]).float()


def _stack(films: Sequence[Image]) -> torch.Tensor:
    return torch.from_numpy(np.stack(films))[:, None] * 2 - 1
