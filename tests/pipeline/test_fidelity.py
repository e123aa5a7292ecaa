"""What an autoencoder keeps of films and lesions, by autoencoders whose answer is known."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.training import fidelity
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
    films = np.full((3, 224, 224), 255, np.uint8)  # 1 in -1 .. 1
    normal = [chests.varied(np.random.default_rng(seed)) for seed in range(4)]
    blind = np.zeros_like(chests.lungs())
    lungs = [chests.lungs(), chests.lungs(), chests.lungs(), blind]
    return fidelity.measure(Dimmed(share), films, normal, lungs, "cpu")


def test_a_film_dimmed_by_a_tenth_keeps_nine_tenths_of_every_lesion() -> None:
    found = measured(0.9)
    # Every pixel is wrong by 0.1 of 2, 0.05 of the range: -20 log10(0.05) = 26.02 dB.
    assert found.psnr_db == pytest.approx(26.0206, abs=1e-3)
    assert found.contrast == pytest.approx(0.9, abs=1e-4)
    assert (found.films, found.lesions) == (3, 3)
    assert found.shortfalls == [
        "its PSNR is 26.0 dB, below 30",
        "pasted lesions keep 90% of their contrast, below 95%",
    ]


def test_an_autoencoder_that_keeps_enough_has_no_shortfall() -> None:
    # 0.02 of 2 is 0.01 of the range: 40 dB.
    assert measured(0.98).shortfalls == []


def test_what_was_measured_comes_back_and_what_was_not_is_none(tmp_path: Path) -> None:
    assert fidelity.read(tmp_path) is None
    found = Fidelity(films=3, psnr_db=31.5, lesions=0, contrast=None)
    fidelity.write(found, tmp_path)
    assert fidelity.read(tmp_path) == found
    assert found.shortfalls == []
