"""What passes between the rooms: films, targets and attributions. No patient data, ever."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]
"""[rows, cols] float32; for films 0 is black (air) and 1 is white (bone)."""


class Mode(StrEnum):
    """How the normal counterpart is made."""

    PAPER = "paper"
    CALIBRATED = "calibrated"


class Status(StrEnum):
    """How far the result may be relied upon."""

    VALID = "VALID"
    LOW_CONFIDENCE = "LOW_CONFIDENCE"
    WITHHELD = "WITHHELD"


class Unlike(StrEnum):
    """What becomes of a picture that looks like nothing the model has learnt.

    It is refused; or, where it is said to be a chest film, its result is made and WITHHELD.
    """

    REFUSE = "refuse"
    WITHHOLD = "withhold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Radiograph:
    """A film ready to be analysed: upright, polarity and window applied.

    `pixels` is [rows, cols] float32 in 0 black .. 1 white; `spacing_mm` is the distance between
    rows and between columns where it is known, on the plane that `spacing_plane` names
    ("detector", "calibrated" or "").
    """

    pixels: Image
    spacing_mm: tuple[float, float] | None = None
    spacing_plane: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the film is edited towards, in the words of the text encoder; the default is normal."""

    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One connected part of the map above the threshold.

    `outline` is a closed polygon of (row, col) in the radiograph's pixels, 0.0 at the outer edge
    of the first pixel; first and last point are equal. `area_px` counts the pixels that it
    encloses, holes among them; `peak` and `mean` are of the map above the threshold, in its unit.
    """

    outline: tuple[tuple[float, float], ...]
    area_px: int
    peak: float
    mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """Which network and settings made a result, enough to make it again.

    `method_version` is empty where nothing is known but the network: of what another program made.
    """

    name: str
    version: str
    digest: str
    mode: Mode
    seed: int
    method_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """What was found in one radiograph; all images have that radiograph's rows and columns.

    `counterfactual` is the film's normal counterpart, 0 black .. 1 white. `difference` is film
    minus counterfactual, signed (positive: brighter than normal). `attribution_map` is >= 0,
    larger is more abnormal, continuous, never rescaled per film (pipeline.evidence makes it);
    `threshold` is the level, in the map's unit, above which regions are reported and pictures are
    coloured, and `scale_max` the top of the fixed colour scale. `score` is the film's one number in
    0 .. 1; `uncertainty`, of the same unit as the map, the SD of the
    draws of this one edit, each of a frame and noise of its own: its mean where the map reaches the
    threshold, or at the map's peak where it does so nowhere; 0 of one draw. Other seeds may give
    scores further apart.
    `probability` (of a finding, at even prevalence) and `conformal_p` (2104.08279: the share of
    healthy films with as high a score) are None where the model has no healthy reference; a model
    whose calibration saw no film with a finding gives conformal p alone.
    """

    counterfactual: Image
    difference: Image
    attribution_map: Image
    threshold: float
    scale_max: float
    regions: tuple[Region, ...]
    score: float
    uncertainty: float
    status: Status
    reasons: tuple[str, ...]
    model: ModelIdentity
    probability: float | None = None
    conformal_p: float | None = None
