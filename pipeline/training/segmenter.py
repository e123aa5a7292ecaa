"""Trains the lung segmenter from films with lung outlines, under strong augmentation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from pipeline import anatomy
from pipeline.segmenter import Segmenter
from pipeline.training import augment
from pipeline.training.pictures import Films
from pipeline.training.session import Progress, Recipe, Session, autocast

_RECORD_EVERY = 50
_LARGEST_BLUR_PX = 1.5
_LARGEST_NOISE = 0.05


def train(
    films: Films, masks: Films, recipe: Recipe, folder: Path, progress: Progress
) -> Segmenter:
    """Train on `films` with `masks` (uint8, 255 is lung) and return the averaged weights."""
    torch.manual_seed(recipe.seed)
    model = Segmenter().to(recipe.device)
    session = Session(model=model, recipe=recipe, folder=folder, progress=progress)
    rng = np.random.default_rng(session.seed)
    for step in session.steps():
        x, y = _batch(rng, films, masks, recipe.batch)
        with autocast(recipe.device):
            logits = model(x.to(recipe.device))
        loss = overlap_loss(logits.float(), y.to(recipe.device))
        session.learn(loss)
        if step % _RECORD_EVERY == 0:
            session.record({"loss": float(loss.detach())})
    session.ema_into(model)
    return model.eval()


def overlap_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus 1 - Dice (1606.04797), over the batch."""
    p = logits.sigmoid()
    dice = (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
    return functional.binary_cross_entropy_with_logits(logits, truth) + 1 - dice


@torch.no_grad()
def lungs(
    model: Segmenter, films: Films, batch: int = 64, tell: Callable[[int], None] = lambda _: None
) -> Films:
    """The mask of each film, uint8, 255 is lung; its two largest parts, holes filled.

    `tell` is told how many there are by now.
    """
    masks, device = np.zeros(films.shape, np.uint8), next(model.parameters()).device
    for start in range(0, len(films), batch):
        tell(start)
        x = torch.from_numpy(films[start : start + batch]).float()[:, None] / 127.5 - 1
        for index, plane in enumerate((model(x.to(device))[:, 0] > 0).cpu().numpy()):
            masks[start + index] = anatomy.tidy(plane) * np.uint8(255)
    return masks


def _batch(
    rng: np.random.Generator, films: Films, masks: Films, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    xs, ys = [], []
    for index in rng.integers(0, len(films), size):
        planes = [films[index].astype(np.float32) / 255, masks[index].astype(np.float32) / 255]
        film, mask = augment.view(rng, planes, augment.STRONG)
        film = augment.contrast(rng, film, augment.STRONG)
        film = ndimage.gaussian_filter(film, rng.uniform(0, _LARGEST_BLUR_PX))
        film = film + rng.normal(0, rng.uniform(0, _LARGEST_NOISE), film.shape)
        xs.append(film * 2 - 1)
        ys.append(mask > 0.5)
    x, y = np.stack(xs).astype(np.float32), np.stack(ys).astype(np.float32)
    return torch.from_numpy(x)[:, None], torch.from_numpy(y)[:, None]
