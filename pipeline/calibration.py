"""What the maps of healthy films look like, and what a film's map means beside them.

Everything here is learnt from films without a finding that no training stage saw; it holds for
sites like theirs, and a site that is unlike recalibrates with its own (`vald-node calibrate`).
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline import anatomy, digest, prompts
from pipeline.anatomy import Mask
from pipeline.errors import ModelError
from pipeline.types import Image

FILE = digest.CALIBRATION

_FLOOR_SHARE = (
    1.0  # s_0, of the healthy films' mean SD: quiet places are not trusted to be so quiet
)

_OLDER = "diffuse_slope"  # of a gate's opening, which a probe's reading took the place of

_ODDS = ("slope", "intercept", "reading_slope")

_NEVER = "the model was never calibrated: its threshold was measured on no healthy film"
_OTHER_WORDS = (
    "the model was calibrated under other words than prompts.yaml has now: its threshold does not "
    "hold for these"
)

Values = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Odds:
    """What makes of a score, and of what a probe reads, how likely a finding is.

    `slope` is the score's logarithm's; `reading_slope` is the reading's, 0 without a probe.
    """

    slope: float
    intercept: float
    reading_slope: float = 0.0

    def log_odds(self, score: float, reading: float) -> float:
        """Of a finding, if half of the films had one (Platt, 1999)."""
        return self.slope * log_score(score) + self.reading_slope * reading + self.intercept

    def probability(self, score: float, reading: float) -> float:
        """The probability of a finding, if half of the films had one."""
        return 1 / (1 + math.exp(-self.log_odds(score, reading)))


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthyReference:
    """Healthy maps in the frame where all lungs lie at one place.

    `mean` and `sd` are [side, side] in the map's unit; `place` is that frame's lungs; `scores` are
    the healthy films' scores, the map's maximum of each, in rising order. `odds` are None where no
    film with a finding taught any: healthy films alone say nothing of how likely one is.
    """

    mean: Image
    sd: Image
    place: Mask
    scores: Values
    odds: Odds | None

    def z_map(self, magnitude: Image, seed_sd: Image, draws: int, lungs: Mask) -> Image:
        """Z = (|d| - m_h) / sqrt(s_h^2 + s_seed^2 / K + s_0^2), not below 0.

        All are [side, side]; where no pair of lungs was found the frame is taken as it stands.
        """
        found = anatomy.usable(lungs)
        mean, sd = (
            anatomy.move(plane, self.place, lungs) if found else plane
            for plane in (self.mean, self.sd)
        )
        floor = _FLOOR_SHARE * float(self.sd.mean())
        scale = np.sqrt(sd**2 + seed_sd**2 / draws + floor**2)
        return np.asarray(((magnitude - mean) / scale).clip(0), np.float32)

    def conformal_p(self, score: float) -> float:
        """(1 + #{healthy S_i >= S}) / (n + 1): Bates et al. (2104.08279, eq. 2)."""
        at_least = len(self.scores) - int(np.searchsorted(self.scores, score, side="left"))
        return (1 + at_least) / (len(self.scores) + 1)

    def probability(self, score: float, reading: float) -> float | None:
        """Of a finding, if half of the films had one; None where nothing taught it."""
        return None if self.odds is None else self.odds.probability(score, reading)


def log_score(score: float) -> float:
    """The logarithm in which scores are near to normal; finite at 0."""
    return math.log(max(score, 0.0) + 0.1)


def doubt(reference: HealthyReference | None, words: str) -> str:
    """Why a model's maps are read by numbers that were not measured so; empty if they were.

    Args:
        reference: what the model folder holds.
        words: those that it was calibrated under (`Settings.words`).
    """
    if reference is None:
        return _NEVER
    return "" if words == prompts.load().normal_prompts()[0] else _OTHER_WORDS


def load(folder: Path) -> HealthyReference | None:
    """The reference kept in a model folder; None where there is none.

    Raises:
        ModelError: the file is not of this form.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        parts = load_file(path)
        _demand_form(parts)
        return HealthyReference(
            mean=parts["mean"].astype(np.float32),
            sd=parts["sd"].astype(np.float32),
            place=parts["place"] > 0,
            scores=np.sort(parts["scores"].astype(np.float32)),
            odds=_odds(parts),
        )
    except (OSError, LookupError, ValueError, SafetensorError) as fault:
        raise ModelError(f"{path}: no healthy reference of this form: {fault}") from fault


def _odds(parts: dict[str, npt.NDArray[Any]]) -> Odds | None:
    """None where the file has none, or zeros alone, which older versions wrote in their place."""
    found = {name: float(parts[name][0]) for name in _ODDS if name in parts}
    if not any(found.values()):
        return None
    return Odds(
        slope=found["slope"],
        intercept=found["intercept"],
        reading_slope=found.get("reading_slope", 0.0),
    )


def _demand_form(parts: dict[str, npt.NDArray[Any]]) -> None:
    with np.errstate(over="ignore"):  # asked as they are used: a double may be no single
        numbers = {name: np.isfinite(part.astype(np.float32)) for name, part in parts.items()}
    if wrong := [name for name, good in numbers.items() if not good.all()]:
        raise ValueError(f"{', '.join(wrong)}: holds what is no number")
    if _OLDER in parts:
        raise ValueError("it was made by an older version: calibrate the model again")
    shapes = [parts[name].shape for name in ("mean", "sd", "place")]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2:
        raise ValueError(f"mean, sd and place are one plane each, of one size; found {shapes}")
    if parts["scores"].ndim != 1 or not len(parts["scores"]):
        raise ValueError("scores is empty")


def save(reference: HealthyReference, folder: Path) -> None:
    """The model folder holds the reference."""
    parts: dict[str, npt.NDArray[Any]] = {
        "mean": reference.mean.astype(np.float16),
        "sd": reference.sd.astype(np.float16),
        "place": reference.place.astype(np.uint8),
        "scores": np.sort(reference.scores),
    }
    if reference.odds is not None:
        parts |= {k: np.array([v], np.float32) for k, v in asdict(reference.odds).items()}
    save_file(parts, folder / FILE)
    (folder / FILE).chmod(0o644)  # safetensors are written for their owner only
