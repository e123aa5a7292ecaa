"""Whether the edit does what it says: another network sees normal, the rest stays, nothing else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import torch

from pipeline import anatomy
from pipeline.anatomy import Mask
from pipeline.classifier import SOURCES, Classifier
from pipeline.evaluation import fidelity
from pipeline.evaluation.statistics import Groups, Interval, Values, bootstrap, share_of
from pipeline.probe import Traits
from pipeline.types import Image

_Hit = tuple[bool, str]  # of a film: whether it is so, and its group


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A film on the grid with its counterpart, 0 .. 1, its map, and where the lesion may be.

    `places` is the map before it is completed, of which regions and the score are; `traits` are
    those of its Evidence.
    """

    film: Image
    counterfactual: Image
    places: Image
    lungs: Mask
    traits: Traits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """Of films that the independent classifier calls abnormal, what the edit makes of them.

    `flipped` is the share called normal after the edit; `by_chance` the same after the same change
    moved to a random place, mostly outside the lungs; `by_mirror` after it is mirrored to the other
    lung; `gain` and `gain_over_mirror` are the paired differences to them, and `in_lungs_by_...`
    the share of each one's change in the lungs. `ceiling` is the share called normal with a normal
    film's lungs in the place of their own, which no edit of lungs can be expected to pass (None
    where there is no such film), and `minus_ceiling` what is missing to it of those films, paired.
    `source_kept` is the share of which the judge recognises the same source before the edit and
    after, right or wrong; `source_kept_of_right` is that share of the `films_of_right`, whose true
    source it recognises before (None of none); the ceilings are the same shares with a normal
    film's lungs in the place of their own. `off_target` is the mean share of the change outside the
    lungs; `ssim` and `ms_ssim` the similarity to the film,
    `ssim_outside` and `ssim_inside` that outside and inside the lungs: of these films alone.
    """

    films: int
    flipped: Interval
    by_chance: Interval
    gain: Interval
    in_lungs_by_chance: Interval
    by_mirror: Interval
    gain_over_mirror: Interval
    in_lungs_by_mirror: Interval
    ceiling: Interval | None
    minus_ceiling: Interval | None
    source_kept: Interval | None
    source_kept_ceiling: Interval | None
    films_of_right: int
    source_kept_of_right: Interval | None
    source_kept_of_right_ceiling: Interval | None
    off_target: Interval
    ssim: Interval
    ms_ssim: Interval
    ssim_outside: Interval
    ssim_inside: Interval


def judge(
    classifier: Classifier,
    pairs: Sequence[Pair],
    donors: Sequence[Pair],
    seed: int,
    groups: Groups | None = None,
    sources: Sequence[str] | None = None,
) -> Validity | None:
    """None where the classifier calls no film abnormal; `donors` are normal films with lungs.

    `sources` are the films' true ones, as in the manifest.
    """
    rng = np.random.default_rng(seed)
    sick = [logit(classifier, pair.film) > 0 for pair in pairs]
    called = list(compress(pairs, sick))
    theirs = list(compress(groups or [""] * len(pairs), sick))
    true = [""] * len(called) if sources is None else list(compress(sources, sick))
    if not called:
        return None
    flips = _called_normal(classifier, [p.counterfactual for p in called])
    moved = [elsewhere(rng, p.film, p.film - p.counterfactual) for p in called]
    chance = _called_normal(classifier, moved)
    across = [mirrored(p) for p in called]
    mirror = _called_normal(classifier, across)
    healed = with_lungs_of(called, donors, seed)
    before = [_source(classifier, p.film) for p in called]
    told = list(zip(before, true, theirs, strict=True))
    usable = [bool(donors) and anatomy.usable(p.lungs) for p in called]
    kept, of_right = _kept(classifier, told, [p.counterfactual for p in called])
    best, best_of_right = _kept(classifier, compress(told, usable), healed)
    most = _called_normal(classifier, healed)
    own = list(compress(theirs, usable))
    return Validity(
        films=len(called),
        flipped=share_of(flips, theirs),
        by_chance=share_of(chance, theirs),
        gain=bootstrap(flips - chance, seed, theirs),
        in_lungs_by_chance=_mean(_in_lungs(called, moved), theirs, seed),
        by_mirror=share_of(mirror, theirs),
        gain_over_mirror=bootstrap(flips - mirror, seed, theirs),
        in_lungs_by_mirror=_mean(_in_lungs(called, across), theirs, seed),
        ceiling=share_of(most, own) if own else None,
        minus_ceiling=bootstrap(flips[usable] - most, seed, own) if own else None,
        source_kept=_share(kept),
        source_kept_ceiling=_share(best),
        films_of_right=len(of_right),
        source_kept_of_right=_share(of_right),
        source_kept_of_right_ceiling=_share(best_of_right),
        off_target=bootstrap(np.array([_off_target(p) for p in called]), seed, theirs),
        **_alike(called, theirs, seed),
    )


def _alike(pairs: Sequence[Pair], groups: Groups, seed: int) -> dict[str, Interval]:
    """How similar film and counterpart are, each mean over the films where it can be told."""
    both = [(p.film, p.counterfactual) for p in pairs]
    told = {
        "ssim": [fidelity.ssim(*films) for films in both],
        "ms_ssim": [fidelity.ms_ssim(*films) for films in both],
        "ssim_outside": [
            fidelity.ssim_where(*f, ~p.lungs) for f, p in zip(both, pairs, strict=True)
        ],
        "ssim_inside": [fidelity.ssim_where(*f, p.lungs) for f, p in zip(both, pairs, strict=True)],
    }
    return {name: _mean(np.array(values), groups, seed) for name, values in told.items()}


def _mean(values: Values, groups: Groups, seed: int) -> Interval:
    known = np.isfinite(values)
    nothing = Interval(mean=np.nan, low=np.nan, high=np.nan)
    return bootstrap(values[known], seed, list(compress(groups, known))) if any(known) else nothing


def _kept(
    classifier: Classifier, told: Iterable[tuple[str, str, str]], films: Sequence[Image]
) -> tuple[list[_Hit], list[_Hit]]:
    """Whether edited films are taken for what they were: all, and those that it was right about.

    `told` is of each film (source recognised before the edit, its true one, group).
    """
    every = [
        (before == true, (before == _source(classifier, film), group))
        for (before, true, group), film in zip(told, films, strict=True)
    ]
    return [hit for _, hit in every], [hit for right, hit in every if right]


def _share(hits: Sequence[_Hit]) -> Interval | None:
    """None of no film."""
    return share_of(np.array([so for so, _ in hits], float), [g for _, g in hits]) if hits else None


def with_lungs_of(pairs: Sequence[Pair], donors: Sequence[Pair], seed: int) -> list[Image]:
    """The films that have lungs, with those of a donor drawn for each in the hull of their own."""
    rng = np.random.default_rng(seed)
    usable = [pair for pair in pairs if anatomy.usable(pair.lungs)] if donors else []
    return [_transplanted(pair, donors[int(rng.integers(len(donors)))]) for pair in usable]


def _transplanted(pair: Pair, donor: Pair) -> Image:
    hull = anatomy.hull(pair.lungs)
    lungs = anatomy.move(donor.film, donor.lungs, pair.lungs)
    seam = (hull > 0) & (hull < 1)  # as bright there as the film is
    lungs = lungs + (pair.film[seam].mean() - lungs[seam].mean())
    return np.asarray((pair.film + hull * (lungs - pair.film)).clip(0, 1), np.float32)


def elsewhere(rng: np.random.Generator, film: Image, change: Image) -> Image:
    """The film less the very same change, rolled to a random place: an edit of the same energy."""
    side = change.shape[0]
    shift = rng.integers(side // 4, 3 * side // 4, 2)
    return np.asarray((film - np.roll(change, shift, axis=(0, 1))).clip(0, 1), np.float32)


def mirrored(pair: Pair) -> Image:
    """The film less the edit's change mirrored to the other lung: as much of it lies in the lungs.

    Of disease of both lungs it takes as well, and of a change of both it is no control.
    """
    change = (pair.film - pair.counterfactual)[:, ::-1]
    if pair.lungs.any():
        change = anatomy.move(change, pair.lungs[:, ::-1], pair.lungs)
    return np.asarray((pair.film - change).clip(0, 1), np.float32)


def _in_lungs(pairs: Sequence[Pair], made: Sequence[Image]) -> Values:
    """The share of the change from each film to what was made of it that lies in the lungs."""
    changes = [np.abs(p.film - film) for p, film in zip(pairs, made, strict=True)]
    shares = [
        float(change[p.lungs].sum() / change.sum()) if change.any() else np.nan
        for p, change in zip(pairs, changes, strict=True)
    ]
    return np.array(shares)


def _off_target(pair: Pair) -> float:
    change = np.abs(pair.film - pair.counterfactual)
    return float(change[~pair.lungs].sum() / max(float(change.sum()), 1e-9))


def _called_normal(classifier: Classifier, films: Sequence[Image]) -> Values:
    return np.array([logit(classifier, film) <= 0 for film in films], float)


@torch.inference_mode()
def logit(classifier: Classifier, film: Image) -> float:
    """What it says of one film 0 .. 1: abnormal above 0."""
    return float(classifier(signed(film)))


@torch.inference_mode()
def _source(classifier: Classifier, film: Image) -> str:
    """The one that it recognises; it always names one of those that it knows."""
    return SOURCES[int(classifier.source(classifier.features(signed(film))).argmax())]


def signed(film: Image) -> torch.Tensor:
    """A film 0 .. 1 as the networks take it, [1, 1, h, w] in -1 .. 1."""
    return torch.from_numpy(np.ascontiguousarray(film, np.float32))[None, None] * 2 - 1
