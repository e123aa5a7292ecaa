"""Trains the honest rival: a plain segmenter taught by the same pastes and boxes as the edit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipeline.segmenter import Segmenter
from pipeline.training.kept import Tensors
from pipeline.training.pairs import Counts
from pipeline.training.segmenter import overlap_loss
from pipeline.training.session import Progress, Recipe, Session, autocast

_RECORD_EVERY = 50

Lessons = tuple[torch.Tensor, torch.Tensor]
"""Films and their lesions' masks, each [n, 1, SIDE, SIDE] uint8, 255 is 1."""


def counts(all_kinds: Counts) -> Counts:
    """What the edit's gate is taught by too: pasted, boxed and healthy films with their masks.

    Films of which only the label is known say nothing of where, so that none is taken.
    """
    return replace(all_kinds, abnormal=0, labelled=0)


def lessons(pool: Tensors) -> Lessons:
    """Of what `lesion_gate.small` has kept."""
    return pool["film"][:, None], pool["mask"][:, None]


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
            logits = model(signed(films[index]).to(recipe.device))
        loss = overlap_loss(logits.float(), (masks[index] / 255).to(recipe.device))
        session.learn(loss)
        if step % _RECORD_EVERY == 0:
            session.record({"loss": float(loss.detach())})
    session.ema_into(model)
    return model.eval()


def signed(films: torch.Tensor) -> torch.Tensor:
    """Films in -1 .. 1, as the network takes them."""
    return films / 127.5 - 1
