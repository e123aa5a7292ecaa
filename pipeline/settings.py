"""What a model folder says of itself beside its weights: `vald.json`."""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pipeline.digest import SETTINGS, read_object
from pipeline.errors import ModelError
from pipeline.limits import Limits
from pipeline.types import Mode

_KINDS = {str: "text", int: "a whole number", float: "a number", tuple: "a list of numbers"}
_COUNTS = ("grid", "tokens", "steps", "draws", "passes", "paper_steps")
_MOST_STEPS = 1000  # a network was trained at so many noise levels
_SHARES = ("strength", "inversion_start")
_FIRST_WORDS = "Frontal chest radiograph. Normal."
"""What prompts.yaml said while folders did not yet say their words: they are taken to mean these.
"""


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
    which also uses `guidance` and `paper_steps`. `words` are those that films were edited towards
    as the readings were set: under others they do not hold.
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
    words: str = _FIRST_WORDS
    limits: Limits = field(default_factory=Limits)
    calibrated: Reading = Reading(threshold=0.1, scale_max=0.5)
    paper: Reading = Reading(threshold=0.2, scale_max=0.5)

    def reading(self, mode: Mode) -> Reading:
        """The threshold and colour scale of a mode."""
        return self.paper if mode is Mode.PAPER else self.calibrated


def read(folder: Path) -> Settings:
    """The folder's settings; the defaults, those of a Stable Diffusion folder, where it has none.

    Raises:
        ModelError: a key is not known, or a value is none that it can have.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return Settings(name=folder.name)
    values = read_object(path)
    unknown = sorted(values.keys() - {known.name for known in fields(Settings)})
    if unknown:
        raise ModelError(f"{path}: unknown keys: {', '.join(unknown)}")
    try:
        return _made(values)
    except (TypeError, ValueError) as fault:
        raise ModelError(f"{path}: {fault}") from fault


def _made(values: dict[str, Any]) -> Settings:
    """The settings that a file says, each of the type and in the range that it can have."""
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    readings = {str(m): _part(Reading, str(m), values[m]) for m in Mode if m in values}
    limits = _part(Limits, "limits", values.get("limits", {}))
    made = Settings(**{**plain, **readings, "limits": limits})
    _demand_kinds("", made, Settings())
    _demand_kinds("limits.", made.limits, Limits())
    _demand_ranges(made)
    for mode in Mode:
        _demand_reading(mode, made.reading(mode))
    return made


def _part(kind: type[Any], name: str, value: Any) -> Any:
    if not isinstance(value, dict):
        raise TypeError(f"{name}: an object was expected, not {value!r}")
    try:
        return kind(**value)
    except TypeError as fault:
        raise ValueError(f"{name}: {fault}") from fault


def _demand_kinds(where: str, made: Any, default: Any) -> None:
    """Words where the default is one, a whole number where it is one, and so on."""
    for key in fields(made):
        value, usual = getattr(made, key.name), getattr(default, key.name)
        if isinstance(usual, tuple):
            good = isinstance(value, tuple) and all(map(_is_number, value))
        elif isinstance(usual, float):
            good = _is_number(value)
        else:
            good = type(value) is type(usual)
        if not good:
            what = _KINDS.get(type(usual), "an object")
            raise ValueError(f"{where}{key.name}: {what} was expected, not {value!r}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _demand_ranges(made: Settings) -> None:
    for name in _COUNTS:
        if getattr(made, name) < 1:
            raise ValueError(f"{name}: at least 1 was expected, not {getattr(made, name)}")
    for name in ("steps", "paper_steps"):
        if getattr(made, name) > _MOST_STEPS:
            raise ValueError(f"{name}: at most {_MOST_STEPS}, not {getattr(made, name)}")
    for name in _SHARES:
        if not 0 < getattr(made, name) <= 1:
            raise ValueError(f"{name}: above 0 and at most 1, not {getattr(made, name)}")
    if made.blur_px < 0:
        raise ValueError(f"blur_px: at least 0 was expected, not {made.blur_px}")
    if any(sd <= 0 for sd in made.latents_std):
        raise ValueError("latents_std: every value above 0 was expected")


def _demand_reading(mode: Mode, read: Reading) -> None:
    """A map is never below 0: at a threshold of 0 all of it would be marked."""
    numbers = all(map(_is_number, (read.threshold, read.scale_max)))
    if not numbers or not 0 < read.threshold <= read.scale_max:
        raise ValueError(
            f"{mode}: 0 < threshold <= scale_max was expected, not {read.threshold!r} and "
            f"{read.scale_max!r}"
        )


def write(folder: Path, settings: Settings) -> None:
    """`vald.json` holds the settings."""
    text = json.dumps(asdict(settings), indent=1)
    (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")
