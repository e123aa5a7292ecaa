"""Sets the level above which a map is reported, on healthy films that no training stage saw."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline import digest, settings
from pipeline.engine.base import Request
from pipeline.engine.local import LocalEngine
from pipeline.settings import Reading, Settings
from pipeline.training.session import Progress
from pipeline.types import Mode, Radiograph

HEALTHY_BELOW = 0.95  # share of healthy films whose map nowhere reaches the threshold
_TOP_OF_SCALE = 3.0  # the colour scale and the score end at so many thresholds


def calibrate(
    folder: Path, films: Sequence[Radiograph], device: str, progress: Progress
) -> Settings:
    """The folder's settings and digests say a threshold for each mode; returns the settings.

    The threshold is the 95th percentile, over healthy films, of the map's maximum: the
    max-statistic, which bounds the share of healthy films with any region at all.
    """
    engine = LocalEngine(folder, device)
    calibrated = _reading(engine, Mode.CALIBRATED, films, progress)
    paper = _reading(engine, Mode.PAPER, films, progress)
    engine.close()
    said = replace(settings.read(folder), calibrated=calibrated, paper=paper)
    settings.write(folder, said)
    digest.write_digests(folder)
    return said


def _reading(
    engine: LocalEngine, mode: Mode, films: Sequence[Radiograph], progress: Progress
) -> Reading:
    peaks = []
    for index, film in enumerate(films):
        made = engine.explain([Request(film=film, mode=mode, seed=0)])[0]
        peaks.append(float(made.attribution_map.max()))
        progress(index / len(films), f"{mode}: {index} healthy films")
    threshold = float(np.quantile(peaks, HEALTHY_BELOW))
    return Reading(
        threshold=threshold, scale_max=max(threshold, min(1.0, _TOP_OF_SCALE * threshold))
    )
