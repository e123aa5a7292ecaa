"""How far one set of films lies from another: FID and KID, and where counterparts stand by them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torchmetrics.image.kid import poly_mmd

from pipeline.classifier import FEATURES, Classifier
from pipeline.evaluation import inception
from pipeline.evaluation.inception import Inception
from pipeline.evaluation.statistics import Interval, Values, around
from pipeline.types import Image

_LEAST_FILMS = 10  # below this a set has no distance worth the name
_HALVINGS = 200
_CHUNK = 64

_Rows = npt.NDArray[np.int_]


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
    """FID and KID between two sets of films: the mean over halves of both, and how they spread.

    The halves are drawn without replacement (the delete-half jackknife; Shao and Wu, 1989): films
    drawn twice, as a bootstrap has them, would look like one another. A half spreads around the
    whole as the whole does around all films there are, if the sets are alike in size; of the larger
    set less than a half is drawn, which makes the interval wider. FID grows as sets shrink: it is
    to be held beside others of one table, not beside that of whole sets; KID has no such bias.
    """

    fid: Interval
    kid: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where sick films' counterparts stand among normal and sick films of one source.

    The floor is the distance of normal films from one another, the ceiling that of sick ones from
    normal ones; `share` is how far of the way between them, by KID, the counterparts are. All are
    of the same halves.
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
    if min(len(real), len(made)) < _LEAST_FILMS:
        return None
    ours, theirs = _features(encoder, real), _features(encoder, made)
    halves = _halves(len(ours), len(theirs), seed)
    return _distance(_draws((ours[half], theirs[drawn]) for half, _, drawn in halves))


def standing(
    encoder: Encoder,
    normal: Sequence[Image],
    sick: Sequence[Image],
    made: Sequence[Image],
    seed: int,
) -> Standing | None:
    """Where the counterparts `made` of `sick` stand; None if a set is too small."""
    if min(len(normal) // 2, len(sick)) < _LEAST_FILMS:
        return None
    well, ill, mended = (_features(encoder, films) for films in (normal, sick, made))
    halves = _halves(len(well), len(ill), seed)
    floor = _draws((well[half], well[rest]) for half, rest, _ in halves)
    ceiling = _draws((well[half], ill[drawn]) for half, _, drawn in halves)
    counterparts = _draws((well[half], mended[drawn]) for half, _, drawn in halves)
    return Standing(
        normal=len(normal),
        abnormal=len(sick),
        floor=_distance(floor),
        ceiling=_distance(ceiling),
        counterparts=_distance(counterparts),
        share=_share(*(draws[:, 1] for draws in (counterparts, floor, ceiling))),
    )


def frechet(real: torch.Tensor, made: torch.Tensor) -> float:
    """Frechet's distance of two Gaussians with the mean and covariance of features [n, width].

    tr (C_r C_m)^1/2 is the sum of the singular values of X_r X_m^T, X being centred features over
    (n - 1)^1/2; their triangular factors have the same ones.
    """
    gap = real.double().mean(0) - made.double().mean(0)
    one, other = (_centred(features) for features in (real, made))
    left, right = (torch.linalg.qr(x, mode="r").R for x in (one, other))
    cross = torch.linalg.svdvals(left @ right.T).sum()
    return float(gap.square().sum() + one.square().sum() + other.square().sum() - 2 * cross)


def share_of_the_way(value: float, floor: float, ceiling: float) -> float:
    """Where `value` lies between the distance of normal films to themselves and to sick ones."""
    return (value - floor) / (ceiling - floor) if ceiling > floor else float("nan")


def _halves(first: int, second: int, seed: int) -> list[tuple[_Rows, _Rows, _Rows]]:
    """Rows of two sets of so many: a half of the first, another half of it, one of the second.

    All are of one size, half of the smaller set.
    """
    rng, size = np.random.default_rng(seed), min(first, second) // 2
    mixed = [(rng.permutation(first), rng.permutation(second)) for _ in range(_HALVINGS)]
    return [(rows[:size], rows[size : 2 * size], drawn[:size]) for rows, drawn in mixed]


def _draws(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Values:
    """[halvings, 2]: FID and KID of features [n, width]."""
    return np.array([(frechet(one, other), float(poly_mmd(one, other))) for one, other in pairs])


def _distance(draws: Values) -> Distance:
    fid, kid = (around(float(column.mean()), column) for column in draws.T)
    return Distance(fid=fid, kid=kid)


def _share(value: Values, floor: Values, ceiling: Values) -> Interval:
    """The share of the way of the mean KID, with its interval over the halvings."""
    pairs = zip(value, floor, ceiling, strict=True)
    shares = np.array([share_of_the_way(*map(float, kids)) for kids in pairs])
    mean = share_of_the_way(*(float(kids.mean()) for kids in (value, floor, ceiling)))
    known = shares[np.isfinite(shares)]
    return around(mean, known if len(known) else np.array([np.nan]))


def _centred(features: torch.Tensor) -> torch.Tensor:
    x = features.double()
    centred: torch.Tensor = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    return centred


@torch.inference_mode()
def _features(encoder: Encoder, films: Sequence[Image]) -> torch.Tensor:
    parts = [films[start : start + _CHUNK] for start in range(0, len(films), _CHUNK)]
    return torch.cat([encoder(_stack(part)) for part in parts]).float()


def _stack(films: Sequence[Image]) -> torch.Tensor:
    return torch.from_numpy(np.stack(films))[:, None] * 2 - 1
