"""Trains the honest rival: a plain segmenter taught by the same pastes and boxes as the edit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from pipeline.segmenter import SIDE, Segmenter
from pipeline.training.pairs import Counts, PairMaker
from pipeline.training.segmenter import overlap_loss
from pipeline.training.session import Progress, Recipe, Session, autocast

_RECORD_EVERY = 50

Lessons = tuple[torch.Tensor, torch.Tensor]
"""Films in -1 .. 1 and their lesions' masks in 0 .. 1, each [n, 1, SIDE, SIDE]."""


def lessons(maker: PairMaker, counts: Counts) -> Lessons:
    """What the edit's gate is taught by too: pasted, boxed and healthy films with their masks.

    Films of which only the label is known say nothing of where, so that none is taken.
    """
    samples = maker.samples(replace(counts, abnormal=0, labelled=0))
    films, masks = zip(*((_small(s.source), _small(s.mask)) for s in samples), strict=True)
    return torch.stack(films) * 2 - 1, torch.stack(masks)


def train(taught: Lessons, recipe: Recipe, folder: Path, progress: Progress) -> Segmenter:
    """Train on `taught` and return the averaged weights."""
    torch.manual_seed(recipe.seed)
    model = Segmenter().to(recipe.device)
    session = Session(model=model, recipe=recipe, folder=folder, progress=progress)
    films, masks = taught
    rng = np.random.default_rng(session.seed)
    for step in session.steps():
        index = torch.from_numpy(rng.integers(0, len(films), recipe.batch))
        with autocast(recipe.device):
            logits = model(films[index].to(recipe.device))
        loss = overlap_loss(logits.float(), masks[index].to(recipe.device))
        session.learn(loss)
        if step % _RECORD_EVERY == 0:
            session.record({"loss": float(loss.detach())})
    session.ema_into(model)
    return model.eval()


def _small(plane: np.ndarray) -> torch.Tensor:
    whole = torch.from_numpy(np.ascontiguousarray(plane))[None]
    return functional.adaptive_avg_pool2d(whole, SIDE)
