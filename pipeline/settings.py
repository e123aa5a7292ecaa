"""What a model folder says of itself beside its weights: `vald.json`."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from pipeline.checks import Limits
from pipeline.digest import SETTINGS, read_object
from pipeline.errors import ModelError
from pipeline.types import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a map of one mode is read: both in the map's unit (see Attribution)."""

    threshold: float
    scale_max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Model name and version, its grid and latent statistics, and how its maps are made.

    `steps`, `draws` and `passes` are the edit's, `whole_lung_passes` those of its adapter, if any;
    `strength`, `guidance` and `paper_steps` those of `paper` mode; `blur_px` is in grid pixels.
    `inversion_start` is how far to noise a film is taken by a model that was not trained in pairs,
    which also uses `guidance` and `paper_steps`.
    """

    name: str = "unnamed"
    version: str = "0"
    grid: int = 512
    tokens: int = 77
    latents_mean: tuple[float, ...] = ()
    latents_std: tuple[float, ...] = ()
    steps: int = 8
    draws: int = 2
    passes: int = 1
    whole_lung_passes: int = 1
    blur_px: float = 4.0
    strength: float = 0.5
    guidance: float = 3.0
    paper_steps: int = 20
    inversion_start: float = 0.7
    limits: Limits = field(default_factory=Limits)
    calibrated: Reading = Reading(threshold=0.1, scale_max=0.5)
    paper: Reading = Reading(threshold=0.2, scale_max=0.5)

    def reading(self, mode: Mode) -> Reading:
        """The threshold and colour scale of a mode."""
        return self.paper if mode is Mode.PAPER else self.calibrated


def read(folder: Path) -> Settings:
    """The folder's settings; the defaults, those of a Stable Diffusion folder, where it has none.

    Raises:
        ModelError: a key is not known.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return Settings(name=folder.name)
    values = read_object(path)
    unknown = sorted(values.keys() - {known.name for known in fields(Settings)})
    if unknown:
        raise ModelError(f"{path}: unknown keys: {', '.join(unknown)}")
    lists = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
    try:
        readings = {mode: Reading(**values[mode]) for mode in Mode if mode in values}
        limits = Limits(**values.get("limits", {}))
    except TypeError as fault:
        raise ModelError(f"{path}: {fault}") from fault
    nested = {**{str(k): v for k, v in readings.items()}, "limits": limits}
    return Settings(**{**values, **lists, **nested})


def write(folder: Path, settings: Settings) -> None:
    """`vald.json` holds the settings."""
    text = json.dumps(asdict(settings), indent=1)
    (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")
