"""Trains the image gate's classifier: chest films against what is none.

Other parts of the body are not in the data. Their place is taken by films turned, inverted and
cropped to a part, by films in shuffled pieces, and by drawn limbs and noise.
"""

from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from pipeline.gates import ViewClassifier
from pipeline.training import augment
from pipeline.training.augment import Plane
from pipeline.training.pictures import Films
from pipeline.training.session import Progress, Recipe, Session, autocast

_RECORD_EVERY = 50
_SIDE = 112  # films are drawn at half the grid: the classifier sees no more


def train(films: Films, recipe: Recipe, folder: Path, progress: Progress) -> ViewClassifier:
    """Train on chest films of every source and return the averaged weights."""
    torch.manual_seed(recipe.seed)
    model = ViewClassifier().to(recipe.device)
    session = Session(model=model, recipe=recipe, folder=folder, progress=progress)
    rng = np.random.default_rng(session.seed)
    truth = torch.arange(recipe.batch) % 2  # every other one is a chest
    for step in session.steps():
        x = torch.from_numpy(np.stack([_film(rng, films, bool(chest)) for chest in truth]))
        with autocast(recipe.device):
            logits = model(x[:, None].to(recipe.device))
        aim = truth.float().to(recipe.device)
        loss = functional.binary_cross_entropy_with_logits(logits.float(), aim)
        session.learn(loss)
        if step % _RECORD_EVERY == 0:
            session.record({"loss": float(loss.detach())})
    session.ema_into(model)
    return model.eval()


def other_than_chest(rng: np.random.Generator, film: Plane) -> Plane:
    """Something that is no upright frontal chest film, made of one or of nothing."""
    makers = (_turned, _turned, _inverted, _part, _part, _part, _pieces, _limb, _limb, _noise)
    made = makers[int(rng.integers(len(makers)))](rng, film)
    return np.asarray(np.clip(made, 0, 1), np.float32)


def _film(rng: np.random.Generator, films: Films, chest: bool) -> Plane:
    film = films[int(rng.integers(len(films)))][::2, ::2].astype(np.float32) / 255
    (film,) = augment.view(rng, [film], augment.MILD)
    film = augment.contrast(rng, film, augment.STRONG)
    return film if chest else other_than_chest(rng, film)


def _turned(rng: np.random.Generator, film: Plane) -> Plane:
    turned = np.rot90(film, int(rng.integers(1, 4)))
    return turned if rng.random() < 0.7 else film[::-1]


def _inverted(rng: np.random.Generator, film: Plane) -> Plane:
    return 1 - (film if rng.random() < 0.7 else _turned(rng, film))


def _part(rng: np.random.Generator, film: Plane) -> Plane:
    """A square of a fifth to half of the side, from anywhere: a shoulder, a spine, a belly."""
    size = int(rng.uniform(0.2, 0.5) * _SIDE)
    row, col = rng.integers(0, _SIDE - size, 2)
    part = ndimage.zoom(film[row : row + size, col : col + size], _SIDE / size, order=1)
    part = np.resize(part[:_SIDE, :_SIDE], (_SIDE, _SIDE))
    return np.rot90(part, int(rng.integers(4)))


def _pieces(rng: np.random.Generator, film: Plane) -> Plane:
    half = _SIDE // 2
    quarters = [film[r : r + half, c : c + half] for r in (0, half) for c in (0, half)]
    order = [int(i) for i in rng.permutation(4)]
    a, b, c, d = (quarters[i] for i in (order if order != [0, 1, 2, 3] else [3, 2, 1, 0]))
    return np.block([[a, b], [c, d]])


def _limb(rng: np.random.Generator, film: Plane) -> Plane:  # noqa: ARG001 - made of nothing
    """One to three bright bars with brighter cores on dark: bones in soft tissue."""
    rows, cols = np.indices((_SIDE, _SIDE)) - _SIDE / 2
    angle = rng.uniform(-0.5, 0.5) + (np.pi / 2 if rng.random() < 0.3 else 0)
    across = np.cos(angle) * cols + np.sin(angle) * rows
    along = np.cos(angle) * rows - np.sin(angle) * cols
    flesh = rng.uniform(12, 45)
    picture = 0.45 / (1 + np.exp((np.abs(across) - flesh) / 2))
    for _ in range(int(rng.integers(1, 4))):
        bone = rng.uniform(3, flesh / 2)
        bend = rng.normal(0, 0.003) * along**2 + rng.uniform(-flesh / 2, flesh / 2)
        picture += rng.uniform(0.2, 0.5) / (1 + np.exp((np.abs(across - bend) - bone) / 1.5))
    knob = np.hypot(across, along - rng.uniform(-40, 40)) < rng.uniform(8, 25)
    picture += 0.3 * ndimage.gaussian_filter(knob.astype(float), 2)
    return np.asarray(picture + rng.normal(0, 0.02, picture.shape), np.float32)


def _noise(rng: np.random.Generator, film: Plane) -> Plane:
    noise = ndimage.gaussian_filter(rng.normal(0, 1, film.shape), rng.uniform(0, 25))
    noise = noise / (noise.std() + 1e-6) * 0.2 + 0.5
    slope = np.linspace(0, rng.uniform(-1, 1), _SIDE)
    return np.asarray(noise + (slope if rng.random() < 0.5 else slope[:, None]), np.float32)
