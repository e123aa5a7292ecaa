"""What every training run shares: a time budget, checkpoints, EMA and a metrics file.

A run's folder holds `state.safetensors` (weights, their EMA, the optimiser's moments) with
`state.json` (step, seconds spent), both replaced whole, `metrics.jsonl` and `loss.png`. No pickle
anywhere. Under `accelerate launch` every process draws its own lessons, gradients are averaged, and
the first process alone writes.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from pipeline.errors import PipelineError
from pipeline.training import plots

EMA_DECAY = 0.999
_CHECKPOINT_EVERY_S = 120.0
_REPORT_EVERY_S = 15.0
_GRADIENT_NORM = 1.0

Progress = Callable[[float, str], None]
"""Called with the fraction of the budget spent and one line of text."""


class DivergedError(PipelineError):
    """The loss is no longer a number; the last good checkpoint is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How long and how fast to learn.

    `minutes` counts training time over all resumed runs; the learning rate rises over
    `warmup_steps` and falls as a cosine to 1 % at the end of the budget.
    """

    minutes: float
    batch: int
    learning_rate: float
    warmup_steps: int = 200
    weight_decay: float = 1e-3
    seed: int = 0
    device: str = "cpu"


@dataclass(slots=True)
class Session:
    """One model being trained under one recipe, resumable from its folder after any kill."""

    model: torch.nn.Module
    recipe: Recipe
    folder: Path
    progress: Progress
    step: int = 0
    spent_s: float = 0.0
    _ema: dict[str, torch.Tensor] = field(default_factory=dict)
    _optimiser: torch.optim.AdamW = field(init=False)
    _world: Accelerator = field(init=False)

    def __post_init__(self) -> None:
        recipe = self.recipe
        self._world = Accelerator(cpu=recipe.device == "cpu")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._optimiser = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=recipe.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=recipe.weight_decay,
        )
        self._ema = {k: v.detach().clone() for k, v in self._floating_state().items()}
        if (self.folder / "state.json").exists():
            self._load()

    def steps(self) -> Iterator[int]:
        """Yield step numbers until the budget is spent; checkpoints and reports on the way."""
        began, saved, reported = time.monotonic(), time.monotonic(), time.monotonic()
        before, first_step = self.spent_s, self.step
        while self.spent_s < self.recipe.minutes * 60:
            yield self.step
            self.step += 1
            now = time.monotonic()
            self.spent_s = before + now - began
            if now - saved > _CHECKPOINT_EVERY_S:
                self.save()
                saved = now
            if now - reported > _REPORT_EVERY_S:
                rate = (self.step - first_step) * self.recipe.batch / (now - began)
                self.progress(self._fraction(), f"step {self.step}, {rate:.0f} images/s")
                reported = now
        self.save()
        self.progress(1.0, f"step {self.step}, done")

    def learn(self, loss: torch.Tensor) -> None:
        """Take one optimiser step down `loss` (a scalar) and move the EMA.

        Raises:
            DivergedError: the loss is not finite.
        """
        if not math.isfinite(float(loss.detach())):
            raise DivergedError(f"loss is not finite at step {self.step}; kept {self.folder}")
        for group in self._optimiser.param_groups:
            group["lr"] = self._learning_rate()
        self._optimiser.zero_grad(set_to_none=True)
        self._world.backward(loss)
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _GRADIENT_NORM)
        self._optimiser.step()
        self._move_ema()

    def record(self, metrics: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl."""
        if not self._world.is_main_process:
            return
        line = {"step": self.step, "spent_s": round(self.spent_s, 1), **metrics}
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def ema_into(self, model: torch.nn.Module) -> None:
        """Load the averaged weights into `model`, which has this session's shape."""
        model.load_state_dict({**model.state_dict(), **self._ema})

    def save(self) -> None:
        """Write the checkpoint, whole or not at all, and the picture of the loss so far."""
        if not self._world.is_main_process:
            return
        plots.losses(self.folder / "metrics.jsonl", self.folder / "loss.png")
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self._ema.items()}
        for index, moments in self._optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{k}": v for k, v in moments.items()}
        scratch = self.folder / "state.safetensors.part"
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, scratch)
        scratch.replace(self.folder / "state.safetensors")
        said = self.folder / "state.json.part"
        said.write_text(json.dumps({"step": self.step, "spent_s": self.spent_s}), encoding="utf-8")
        said.replace(self.folder / "state.json")

    def _load(self) -> None:
        tensors = load_file(self.folder / "state.safetensors")
        self.model.load_state_dict(_section(tensors, "model."))
        device = next(self.model.parameters()).device
        self._ema = {k: v.to(device) for k, v in _section(tensors, "ema.").items()}
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in _section(tensors, "adam.").items():
            index, key = name.split(".", 1)
            moments.setdefault(int(index), {})[key] = value
        state = self._optimiser.state_dict()
        self._optimiser.load_state_dict({**state, "state": moments})
        saved = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        self.step, self.spent_s = int(saved["step"]), float(saved["spent_s"])

    def _average_gradients(self) -> None:
        if self._world.num_processes == 1:
            return
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad = self._world.reduce(parameter.grad, reduction="mean")

    def _fraction(self) -> float:
        return min(1.0, self.spent_s / (self.recipe.minutes * 60))

    def _learning_rate(self) -> float:
        rise = min(1.0, (self.step + 1) / self.recipe.warmup_steps)
        fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self._fraction()))
        return self.recipe.learning_rate * rise * fall

    def _floating_state(self) -> dict[str, torch.Tensor]:
        return {k: v for k, v in self.model.state_dict().items() if v.is_floating_point()}

    @torch.no_grad()
    def _move_ema(self) -> None:
        # The early average is short, so that the first, bad weights are soon forgotten.
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        for name, value in self._floating_state().items():
            self._ema[name].lerp_(value, 1 - decay)


def _section(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
