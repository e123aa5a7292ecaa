"""What is left of a film, and of a lesion on it, behind an autoencoder.

The gate before anything else is trained: a U-Net edits nothing that its latents do not hold. The
lesions are pasted by absorption, so that a film with one is known without it too.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC

from pipeline import anatomy
from pipeline.anatomy import Mask
from pipeline.training import absorption, autoencoder, contrast, files
from pipeline.training.absorption import Known
from pipeline.training.pictures import Films
from pipeline.types import Image

LEAST_PSNR_DB = 30.0  # a pilot of half the channels reached 31 dB in 25 minutes of two CPU cores
LEAST_CONTRAST = 0.95  # of a pasted lesion: what the method asks for before a U-Net is trained
_FILE = "fidelity.json"
MOST_LESIONS = 100
_SMALLEST, _LARGEST = 0.02, 0.2  # share of the lungs that a lesion covers


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """Mean PSNR of so many films, and the mean shares of contrast, and of what is fine of it, that
    so many lesions keep (pipeline.training.contrast).
    """

    films: int
    psnr_db: float
    lesions: int
    contrast: float | None
    """None where no film had a lesion that could be seen."""
    detail: float | None = None
    """None there, and where an older version measured."""

    @property
    def shortfalls(self) -> list[str]:
        """What is too little of it, in words."""
        found = []
        if not self.psnr_db >= LEAST_PSNR_DB:
            found.append(f"its PSNR is {self.psnr_db:.1f} dB, below {LEAST_PSNR_DB:.0f}")
        if self.contrast is not None and not self.contrast >= LEAST_CONTRAST:
            found.append(
                f"pasted lesions keep {self.contrast:.0%} of their contrast, "
                f"below {LEAST_CONTRAST:.0%}"
            )
        return found


def measure(
    model: AutoencoderDC, films: Films, normal: Sequence[Image], lungs: Sequence[Mask], device: str
) -> Fidelity:
    """Of held-out `films`, and of lesions pasted into the `lungs` of `normal` ones (0 .. 1)."""
    kept = [contrast.of_lesion(known, _back(model, device)) for known in pasted(normal, lungs)]
    values = autoencoder.psnr(model, films, device)
    return Fidelity(
        films=len(values),
        psnr_db=float(np.mean(values)),
        lesions=len(kept),
        contrast=float(np.mean([lesion.contrast for lesion in kept])) if kept else None,
        detail=float(np.mean([lesion.detail for lesion in kept])) if kept else None,
    )


def pasted(normal: Sequence[Image], lungs: Sequence[Mask]) -> Iterator[Known]:
    """A lesion into each film whose lungs were found and where it can be seen: small to large."""
    rng = np.random.default_rng(0)
    for film, mask in zip(normal, lungs, strict=True):
        if not anatomy.usable(mask):
            continue
        share = float(np.exp(rng.uniform(math.log(_SMALLEST), math.log(_LARGEST))))
        known = absorption.lesion(rng, film, mask, share)
        if known.mask.any():
            yield known


def _back(model: AutoencoderDC, device: str) -> Callable[[Image], Image]:
    @torch.no_grad()
    def back(film: Image) -> Image:
        x = torch.from_numpy(film)[None, None].to(device) * 2 - 1
        y: Image = (model.decode(model.encode(x).latent).sample[0, 0].cpu().numpy() + 1) / 2
        return y

    return back


def write(found: Fidelity, folder: Path) -> None:
    """The autoencoder's folder says it."""
    with files.whole(folder / _FILE) as scratch:
        scratch.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Fidelity | None:
    """What the folder says; None where it says nothing, as folders of before."""
    path = folder / _FILE
    return Fidelity(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
