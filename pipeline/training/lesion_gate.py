"""Trains the second gate: pastes and boxes say where, labels say whether, and real films of which
two gates agree say both (one round of self-training).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from pipeline import lesion_gate
from pipeline.segmenter import SIDE, Segmenter
from pipeline.training.augment import Plane
from pipeline.training.diffusion import label_loss
from pipeline.training.kept import Tensors
from pipeline.training.pairs import KINDS, Sample
from pipeline.training.session import Progress, Recipe, Session, autocast

_RECORD_EVERY = 50
_LABEL_WEIGHT = 0.1
_SHIFT_PX = 6
_GAMMA_SD = 0.2
_LARGEST_NOISE = 0.03
# Shares of a batch. Boxed films are few and the only ones whose real lesions readers marked.
_SHARES = {"pasted": 0.46, "boxed": 0.24, "healthy": 0.12, "labelled": 0.18, "agreed": 0.20}
# Two gates agree that a pixel is part of a finding, or of none.
_SURE, _BOTH_AT_LEAST, _NEITHER_ABOVE = 0.4, 0.25, 0.2
_LEAST_AGREED_PX = 60  # of SIDE x SIDE; a film with less has nothing to teach

_TOLD_AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """Films of one kind in the frame of their lungs, each plane [n, SIDE, SIDE] uint8, 255 is 1.

    `lesion` is where the finding is and `known` where that is known. `lungs` is given for films of
    which no more is known than the label, `sick` [n] 1 or 0, NaN for the others.
    """

    kind: str
    film: torch.Tensor
    lesion: torch.Tensor
    known: torch.Tensor
    lungs: torch.Tensor
    sick: torch.Tensor


def small(samples: Sequence[Sample]) -> Tensors:
    """What a pool keeps of samples: `film` and `mask` as `halved` makes them, `kind`, `sick`."""
    return {
        "film": torch.stack([halved(sample.source) for sample in samples]),
        "mask": torch.stack([halved(sample.mask) for sample in samples]),
        "kind": torch.tensor([KINDS.index(sample.kind) for sample in samples]),
        "sick": torch.tensor([sample.is_sick for sample in samples]),
    }


def lessons(pool: Tensors) -> list[Taught]:
    """What `small` has kept, by kind; nothing yet of real films of which two gates must agree."""
    found = [(kind, pool["kind"] == KINDS.index(kind)) for kind in _SHARES if kind in KINDS]
    return [_taught(kind, pool, of_it) for kind, of_it in found if of_it.any()]


def agreed_with(gate: Segmenter, pool: Tensors) -> list[Taught]:
    """What a gate and the U-Net's, whose answers are the masks, agree on of real films with a
    finding: one or none.
    """
    real = pool["kind"] == KINDS.index("abnormal")
    if not real.any():
        return []
    films, theirs = pool["film"][real], pool["mask"][real].float() / 255
    return [agreed(films, told(gate, films), theirs)]


def _taught(kind: str, pool: Tensors, of_it: torch.Tensor) -> Taught:
    film, mask, is_sick = (pool[name][of_it] for name in ("film", "mask", "sick"))
    # One plane for all films: a plane for each would be as large as the pool.
    everywhere, nowhere = (
        torch.full((1, 1, 1), value, dtype=torch.uint8).expand_as(mask) for value in (255, 0)
    )
    if kind != "labelled":
        return Taught(
            kind=kind,
            film=film,
            lesion=mask,
            known=everywhere,
            lungs=nowhere,
            sick=torch.full((len(film),), torch.nan),
        )
    # Of a labelled film the mask is its lungs: in a normal one there is no lesion anywhere.
    known = torch.where(is_sick, 0, 255).to(torch.uint8).view(-1, 1, 1).expand_as(mask)
    return Taught(
        kind=kind, film=film, lesion=nowhere, known=known, lungs=mask, sick=is_sick.float()
    )


def agreed(films: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> Taught:
    """What two gates [n, SIDE, SIDE] in 0 .. 1 agree on of real films [n, SIDE, SIDE] uint8."""
    low, high, mean = torch.minimum(one, other), torch.maximum(one, other), (one * other).sqrt()
    lesion = (mean > _SURE) & (low > _BOTH_AT_LEAST)
    known = lesion | (high < _NEITHER_ABOVE)
    teaches = lesion.flatten(1).sum(1) > _LEAST_AGREED_PX
    lesion, known = (plane[teaches].to(torch.uint8) * 255 for plane in (lesion, known))
    return Taught(
        kind="agreed",
        film=films[teaches],
        lesion=lesion,
        known=known,
        lungs=torch.zeros_like(lesion),
        sick=torch.full((len(lesion),), torch.nan),
    )


@torch.inference_mode()
def told(gate: Segmenter, films: torch.Tensor) -> torch.Tensor:
    """What a gate says of films [n, SIDE, SIDE] uint8, as they are and mirrored: 0 .. 1."""
    device = next(gate.parameters()).device
    parts = [films[i : i + _TOLD_AT_ONCE] for i in range(0, len(films), _TOLD_AT_ONCE)]
    seen = (part[:, None].to(device).float() / 127.5 - 1 for part in parts)
    return torch.cat([lesion_gate.both_ways(gate, part)[:, 0].cpu() for part in seen])


def train(
    taught: Sequence[Taught],
    recipe: Recipe,
    folder: Path,
    progress: Progress,
    first: Segmenter | None = None,
) -> Segmenter:
    """Train on `taught`, from the weights of `first` where given; return the averaged weights."""
    torch.manual_seed(recipe.seed)
    model = lesion_gate.build().to(recipe.device)
    if first is not None:
        model.load_state_dict(first.state_dict())
    session = Session(model=model, recipe=recipe, folder=folder, progress=progress)
    draw = Draw([lesson for lesson in taught if len(lesson.film)], session.seed)
    for step in session.steps():
        found = losses(model, draw.batch(recipe.batch), recipe.device)
        session.learn(found["lesion"] + _LABEL_WEIGHT * found["label"])
        if step % _RECORD_EVERY == 0:
            session.record({name: float(loss.detach()) for name, loss in found.items()})
    session.ema_into(model)
    return model.eval()


class Draw:
    """Draws batches in the kinds' shares: planes film, lesion, known, lungs, and labels."""

    def __init__(self, taught: Sequence[Taught], seed: tuple[int, ...]) -> None:
        self._taught, self._rng = taught, np.random.default_rng(seed)
        shares = np.array([_SHARES[lesson.kind] for lesson in taught])
        self._chances = shares / shares.sum()

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[4, size, 1, SIDE, SIDE] in 0 .. 1, and the labels [size]."""
        kinds = self._rng.choice(len(self._taught), size, p=self._chances)
        drawn = [self._one(self._taught[kind]) for kind in kinds]
        planes = torch.stack([planes for planes, _ in drawn], 1)[:, :, None]
        return planes, torch.stack([sick for _, sick in drawn])

    def _one(self, taught: Taught) -> tuple[torch.Tensor, torch.Tensor]:
        rng, i = self._rng, int(self._rng.integers(len(taught.film)))
        parts = (taught.film, taught.lesion, taught.known, taught.lungs)
        planes = torch.stack([part[i] for part in parts]).float() / 255
        if rng.random() < 0.5:  # both sides of the chest teach what a lesion is
            planes = planes.flip(-1)
        shift = rng.integers(-_SHIFT_PX, _SHIFT_PX + 1, 2)
        planes = torch.roll(planes, (int(shift[0]), int(shift[1])), (-2, -1))
        planes[0] **= float(np.exp(rng.normal(0, _GAMMA_SD)))
        planes[0] += torch.randn(SIDE, SIDE) * float(rng.uniform(0, _LARGEST_NOISE))
        return planes, taught.sick[i]


def losses(
    model: Segmenter, batch: tuple[torch.Tensor, torch.Tensor], device: str
) -> dict[str, torch.Tensor]:
    """Cross-entropy and Dice where the lesion is known; cross-entropy of the labels."""
    (film, lesion, known, lungs), sick = batch[0].to(device), batch[1].to(device)
    with autocast(film.device):
        logits = model(film * 2 - 1)
    logits = logits.float()
    entropy = functional.binary_cross_entropy_with_logits(logits, lesion, reduction="none")
    p = logits.sigmoid() * known
    dice = (2 * (p * lesion).sum() + 1) / (p.sum() + (lesion * known).sum() + 1)
    where = (entropy * known).sum() / known.sum().clamp(min=1)
    return {"lesion": where + 0.5 * (1 - dice), "label": label_loss(logits, lungs, sick)}


def halved(plane: Plane) -> torch.Tensor:
    """[SIDE, SIDE] uint8 of a plane of the grid, 255 is 1."""
    whole = torch.from_numpy(np.ascontiguousarray(plane, np.float32))[None, None]
    return (functional.adaptive_avg_pool2d(whole, SIDE)[0, 0] * 255).round().to(torch.uint8)
