"""What an autoencoder keeps of films and lesions, by autoencoders whose answer is known."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from pipeline.training import contrast, fidelity
from pipeline.training.fidelity import Fidelity
from tests.pipeline import chests


class Dimmed:
    """Its latents are the film, and of it comes back so much: grey in the middle is left as is."""

    def __init__(self, share: float) -> None:
        self._share = share

    def encode(self, x: torch.Tensor) -> Any:
        return SimpleNamespace(latent=x)

    def decode(self, z: torch.Tensor) -> Any:
        return SimpleNamespace(sample=z * self._share)


def measured(share: float) -> Fidelity:
    return measured_by(Dimmed(share))


def measured_by(model: Any) -> Fidelity:
    films = np.full((3, 224, 224), 255, np.uint8)  # 1 in -1 .. 1
    normal = [chests.varied(np.random.default_rng(seed)) for seed in range(4)]
    blind = np.zeros_like(chests.lungs())
    lungs = [chests.lungs(), chests.lungs(), chests.lungs(), blind]
    return fidelity.measure(model, films, normal, lungs, "cpu")


def test_a_film_dimmed_by_a_tenth_keeps_nine_tenths_of_every_lesion() -> None:
    found = measured(0.9)
    # Every pixel is wrong by 0.1 of 2, 0.05 of the range: -20 log10(0.05) = 26.02 dB.
    assert found.psnr_db == pytest.approx(26.0206, abs=1e-3)
    assert found.contrast == pytest.approx(0.9, abs=1e-4)
    assert found.detail == pytest.approx(0.9, abs=1e-4)
    assert (found.films, found.lesions) == (3, 3)
    assert found.shortfalls == [
        "its PSNR is 26.0 dB, below 30",
        "pasted lesions keep 90% of their contrast, below 95%",
    ]


class Blurring(Dimmed):
    """What comes back is what a Gaussian of two pixels leaves of a film."""

    def decode(self, z: torch.Tensor) -> Any:
        return SimpleNamespace(sample=torch.from_numpy(gaussian_filter(z.numpy(), (0, 0, 2, 2))))


def test_a_lesion_whose_texture_is_lost_is_told_from_one_that_came_back() -> None:
    # A cosine of wavelength 8 px on a plateau of 1: of the wave a Gaussian of SD s leaves
    # exp(-(2 pi s / 8)^2 / 2) = 0.2912 with s = 2, of the plateau all. The mean is as before.
    # <x, y> / <x, x> = (1 + 0.2912 / 2) / (1 + 1 / 2) = 0.7637 over whole waves.
    wave = 1 + np.cos(2 * np.pi * np.arange(64) / 8)
    x = np.tile(wave, (64, 1)).astype(np.float32)
    y = gaussian_filter(x, 2, mode="wrap")
    middle = np.zeros(x.shape, bool)
    middle[:, 24:40] = True
    assert y[middle].mean() == pytest.approx(x[middle].mean(), rel=1e-4)
    assert contrast.slope(x, y, middle) == pytest.approx(0.7637, abs=1e-3)
    fine = contrast.slope(contrast.fine(x), contrast.fine(y), middle)
    assert fine == pytest.approx(0.2912, abs=1e-3)
    assert np.isnan(contrast.slope(0 * x, y, middle))

    found = measured_by(Blurring(1.0))
    assert found.contrast is not None and found.detail is not None
    assert found.detail < 0.5 < found.contrast < 1


def test_an_autoencoder_that_keeps_enough_has_no_shortfall() -> None:
    # 0.02 of 2 is 0.01 of the range: 40 dB.
    assert measured(0.98).shortfalls == []


def test_what_was_measured_comes_back_and_what_was_not_is_none(tmp_path: Path) -> None:
    assert fidelity.read(tmp_path) is None
    found = Fidelity(films=3, psnr_db=31.5, lesions=0, contrast=None)
    fidelity.write(found, tmp_path)
    assert fidelity.read(tmp_path) == found
    assert found.shortfalls == []
