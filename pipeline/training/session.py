"""What every training run shares: a time budget, checkpoints, EMA and a metrics file.

A run's folder holds `state.safetensors` (weights, their EMA, the optimiser's moments, step, seconds
spent, what the run was begun with), replaced whole, step and seconds as `state.json` too,
`metrics.jsonl` and `loss.png`. No pickle anywhere. Under `accelerate launch` every process draws
its own lessons (training.ranks).
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from pipeline.errors import PipelineError
from pipeline.training import files, plots, ranks
from pipeline.training.files import FullDiskError

EMA_DECAY = 0.999
_CHECKPOINT_EVERY_S = 120.0  # or, of a run that has little time left, after a quarter of it
_OF_WHAT_IS_LEFT = 0.25
_REPORT_EVERY_S = 15.0
_GRADIENT_NORM = 1.0
_STATE, _SAID = "state.safetensors", "said"

Progress = Callable[[float, str], None]
"""Called with the fraction of the budget spent and one line of text."""


class DivergedError(PipelineError):
    """The loss or its gradient is no longer a number; the last good checkpoint is kept."""


class CheckpointError(PipelineError):
    """A run's folder holds a checkpoint from which it cannot go on."""


def autocast(device: str | torch.device) -> torch.autocast:
    """bfloat16 where the device computes in it, single precision elsewhere."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=_has_bfloat16(kind))


@cache
def _has_bfloat16(kind: str) -> bool:
    """Whether it has instructions for it: where it is only emulated it is slower, and no better."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if kind == "mps":
        return torch.backends.mps.is_macos_or_newer(14, 0)
    return torch.amp.is_autocast_available(kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How long and how fast to learn.

    `minutes` counts over all resumed runs; `made_s` of them went, in this call, to what is made
    before learning begins. The learning rate rises over `warmup_steps` and falls as a cosine to 1 %
    at the end of the time that is left. `origin` is what is learnt from, by names and digests: no
    run goes on with another.
    """

    minutes: float
    batch: int
    learning_rate: float
    warmup_steps: int = 200
    weight_decay: float = 1e-3
    seed: int = 0
    device: str = "cpu"
    made_s: float = 0.0
    origin: Mapping[str, str] = field(default_factory=dict)


def demand_origin(folder: Path, origin: Mapping[str, str]) -> None:
    """The run in `folder`, if there is one, was begun with these; one of before says nothing.

    Raises:
        CheckpointError: it was begun with something else, or its checkpoint is damaged.
    """
    if not (folder / _STATE).exists():
        return
    try:
        began = _said(folder).get("origin", {})
    except (OSError, SafetensorError, ValueError) as fault:
        raise _damaged(folder, fault) from fault
    if changed := [name for name in origin if began.get(name, origin[name]) != origin[name]]:
        raise CheckpointError(
            f"{folder}: the run there was begun with other {', '.join(changed)}; give another "
            "--work, or remove this folder to begin anew"
        )


@dataclass(slots=True)
class Session:
    """One model being trained under one recipe, resumable from its folder after any kill."""

    model: torch.nn.Module
    recipe: Recipe
    folder: Path
    progress: Progress
    step: int = 0
    spent_s: float = 0.0
    _made_s: float = 0.0  # of these, before learning
    _ema: dict[str, torch.Tensor] = field(default_factory=dict)
    _optimiser: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        recipe = self.recipe
        ranks.join(recipe.device)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._optimiser = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=recipe.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=recipe.weight_decay,
        )
        if (self.folder / _STATE).exists():
            demand_origin(self.folder, recipe.origin)
            self._load()
        else:
            ranks.share_weights(self.model)
            self._ema = {k: v.detach().clone() for k, v in self._floating_state().items()}
        if ranks.is_first():
            _forget_from(self._metrics, self.step)
        self.spent_s, self._made_s = (s + recipe.made_s for s in (self.spent_s, self._made_s))
        # The noise, as the lessons, is neither that of another process nor that of step 0 again.
        torch.manual_seed(int(np.random.SeedSequence(self.seed).generate_state(1)[0]))

    @property
    def _metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def seed(self) -> tuple[int, int, int]:
        """What this process draws its lessons from when it begins or goes on."""
        return self.recipe.seed, self.step, ranks.number()

    def steps(self) -> Iterator[int]:
        """Yield step numbers until the budget is spent; checkpoints and reports on the way."""
        began, saved, reported = time.monotonic(), time.monotonic(), time.monotonic()
        before, first_step = self.spent_s, self.step
        left_s = self.recipe.minutes * 60 - before
        pause_s = min(_CHECKPOINT_EVERY_S, _OF_WHAT_IS_LEFT * left_s)
        while self.spent_s < self.recipe.minutes * 60:
            yield self.step
            self.step += 1
            now = time.monotonic()
            # One clock for all: who stops a step before the others leaves them waiting for ever.
            self.spent_s = ranks.of_the_first(before + now - began)
            if now - saved > pause_s:
                self.save()
                saved = now
            if now - reported > _REPORT_EVERY_S:
                rate = (self.step - first_step) * self.recipe.batch / (now - began)
                self._tell(self._fraction(), f"step {self.step}, {rate:.0f} images/s")
                reported = now
        self.save()
        self._tell(1.0, f"step {self.step}, done")

    def learn(self, loss: torch.Tensor) -> None:
        """Take one optimiser step down `loss` (a scalar) and move the EMA.

        Raises:
            DivergedError: the loss or its gradient is not finite; no weight has changed.
        """
        self._demand_finite("loss", loss.detach())
        for group in self._optimiser.param_groups:
            group["lr"] = self._learning_rate()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        ranks.average_gradients(self.model)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), _GRADIENT_NORM)
        self._demand_finite("gradient", norm)  # the root of 0 is finite, its slope is not
        self._optimiser.step()
        self._move_ema()

    def record(self, metrics: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl."""
        if not ranks.is_first():
            return
        line = {"step": self.step, "spent_s": round(self.spent_s, 1), **metrics}
        with files.writing(self._metrics), self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def ema_into(self, model: torch.nn.Module) -> None:
        """Load the averaged weights into `model`, which has this session's shape."""
        model.load_state_dict({**model.state_dict(), **self._ema})

    def save(self) -> None:
        """Write the checkpoint, whole or not at all, then the picture of the loss so far."""
        if not ranks.is_first():
            return
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self._ema.items()}
        for index, moments in self._optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{k}": v for k, v in moments.items()}
        origin = dict(self.recipe.origin)
        said = json.dumps(
            {
                "step": self.step,
                "spent_s": self.spent_s,
                "made_s": self._made_s,
                "origin": origin,
            }
        )
        with files.whole(self.folder / _STATE) as scratch:  # one file: a kill parts nothing
            whole = {k: v.contiguous().clone() for k, v in tensors.items()}
            # One entry: safetensors writes several in any order, and a run has one file of bytes.
            save_file(whole, scratch, metadata={_SAID: said})
        with files.whole(self.folder / "state.json") as scratch:  # for people, who read no tensors
            scratch.write_text(said, encoding="utf-8")
        self._draw_losses()

    def _draw_losses(self) -> None:
        try:
            plots.losses(self._metrics, self.folder / "loss.png")
        except (OSError, ValueError, FullDiskError) as fault:
            # A run of hours does not end for its picture.
            self._tell(self._fraction(), f"no loss.png: {fault}")

    def _load(self) -> None:
        """Go on from the checkpoint.

        Raises:
            CheckpointError: it is damaged, or another network's.
        """
        try:
            self._restore(load_file(self.folder / _STATE))
            saved = _said(self.folder)
            self.step, self.spent_s = int(saved["step"]), float(saved["spent_s"])
            self._made_s = float(saved.get("made_s", 0.0))  # a checkpoint of before: none counted
            if not math.isfinite(self.spent_s + self._made_s):
                raise ValueError(f"{self.spent_s} seconds spent")  # noqa: TRY301 - as all damage
        except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as fault:
            raise _damaged(self.folder, fault) from fault

    def _restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.model.load_state_dict(_section(tensors, "model."))
        average, device = _section(tensors, "ema."), next(self.model.parameters()).device
        self._ema = {name: average[name].to(device) for name in self._floating_state()}
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in _section(tensors, "adam.").items():
            index, key = name.split(".", 1)
            moments.setdefault(int(index), {})[key] = value
        state = self._optimiser.state_dict()
        learns = sum(len(group["params"]) for group in state["param_groups"])
        if max(moments, default=0) >= learns:  # torch would give them to others than they are of
            raise ValueError(f"it learnt other weights than the {learns} that are to be learnt")
        self._optimiser.load_state_dict({**state, "state": moments})

    def _demand_finite(self, what: str, value: torch.Tensor) -> None:
        if not math.isfinite(float(value)):
            kept = (self.folder / _STATE).exists()
            before = "is kept, run again to go on from it" if kept else "was not made yet"
            raise DivergedError(
                f"{self.folder}: the {what} is no number at step {self.step}; a checkpoint {before}"
            )

    def _tell(self, fraction: float, text: str) -> None:
        if ranks.is_first():
            self.progress(fraction, text)

    def _fraction(self) -> float:
        return min(1.0, self.spent_s / (self.recipe.minutes * 60))

    def _learning_rate(self) -> float:
        rise = min(1.0, (self.step + 1) / self.recipe.warmup_steps)
        learnt_s, all_s = (s - self._made_s for s in (self.spent_s, self.recipe.minutes * 60))
        fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, learnt_s / all_s)))
        return self.recipe.learning_rate * rise * fall

    def _floating_state(self) -> dict[str, torch.Tensor]:
        return {k: v for k, v in self.model.state_dict().items() if v.is_floating_point()}

    @torch.no_grad()
    def _move_ema(self) -> None:
        # The early average is short, so that the first, bad weights are soon forgotten.
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        for name, value in self._floating_state().items():
            self._ema[name].lerp_(value, 1 - decay)


def _said(folder: Path) -> dict[str, Any]:
    """What the checkpoint says of itself; one of before has it in the file for people alone."""
    with safe_open(folder / _STATE, framework="pt") as file:
        text = (file.metadata() or {}).get(_SAID)
    said = json.loads(text or (folder / "state.json").read_text(encoding="utf-8"))
    if not isinstance(said, dict):
        raise ValueError(f"what it says of itself is no object but {type(said).__name__}")  # noqa: TRY004 - damage, as a text that is no JSON is
    return said


def _damaged(folder: Path, fault: Exception) -> CheckpointError:
    return CheckpointError(
        f"{folder}: the run cannot go on from its checkpoint, which is damaged or of another "
        f"network ({_first_line(fault)}); move state.safetensors and state.json away to begin anew"
    )


def _forget_from(metrics: Path, step: int) -> None:
    """No line is left of steps that a kill took and that are made again, nor one that it cut."""
    if not metrics.is_file():
        return
    lines = metrics.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and _is_before(line, step)]
    if kept != lines:
        with files.whole(metrics) as scratch:
            scratch.write_text("".join(kept), encoding="utf-8")


def _is_before(line: str, step: int) -> bool:
    try:
        said = json.loads(line)
        return bool(said["step"] < step)
    except (ValueError, LookupError, TypeError):
        return False


def _first_line(fault: Exception) -> str:
    return (str(fault).splitlines() or [type(fault).__name__])[0]


def _section(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
