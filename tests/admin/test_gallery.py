"""The gallery of films of no patient."""

from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from tests.admin import commands


def test_the_gallery_shows_every_film_it_drew(tmp_path: Path) -> None:
    out = tmp_path / "docs" / "gallery"  # a PNG by whatever name
    done = commands.vald("gallery", "--out", out, "--seed", "3")
    assert done.exit_code == 0, done.output
    picture = np.asarray(Pillow.open(out).convert("RGB"), int)
    rows = picture[52:-84].reshape(7, 296, *picture.shape[1:])[:, :256, 24:-24]
    drawn, induced, counterpart, _ = (rows[:, :, n * 268 : n * 268 + 256] for n in range(4))
    change = np.abs(induced - drawn).mean((1, 2, 3))
    assert change[0] == 0  # the first film has no finding
    assert (change[1:] > 0).all()  # and each of the six zones has one
    nearer = np.abs(counterpart - drawn).mean((1, 2, 3)) < change
    assert nearer[1:].sum() >= 4  # it goes towards what was there before
