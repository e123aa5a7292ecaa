"""Trains the U-Net: a paired edit in latent space with a gate, from a pool of pasted pairs.

InstructPix2Pix's form (2211.09800): the network sees [z_t, z_source] and a sentence and predicts
the velocity of the aim; one more channel, the gate, says where the source must be changed. The
plain form, the paper's (2401.01414), sees z_t and a sentence that is true of the film, and no
source; it has no gate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch.nn import functional

from pipeline import prompts, schedule
from pipeline.schedule import TRAIN_STEPS, Schedule
from pipeline.training.autoencoder import LATENT_CHANNELS
from pipeline.training.pools import Pool
from pipeline.training.session import Progress, Recipe, Session, autocast

_TEXT_WIDTH = 256
_STAGES = (64, 128, 192)
_DROP_TEXT = 0.10
_DROP_IMAGE = 0.10
_START_AT_NOISE = 0.5  # share of pairs at t = T, where the edit begins and the gate is read
_GATE_WEIGHT = 0.25
_LABEL_WEIGHT = 0.03
_LESION_WEIGHT = 8.0  # of a pixel that is to change: most of a film is copied, and soon learnt
_LABEL_SHARE = 0.05  # of the lungs' cells: so much of a sick film's lungs must be told
_PLAIN = 0.6  # the distance of latents, of mean 0 and SD 1, that is to change altogether
_RECORD_EVERY = 50

Task = tuple[str, float, str]
"""What is asked of a network: a kind in the pool, its share of a batch, and what to do with it."""


class Form(StrEnum):
    """What a U-Net is given beside z_t and the text: the source's latent, or nothing."""

    PAIRED = "paired"
    PLAIN = "plain"


_TASKS: dict[Form, tuple[Task, ...]] = {
    Form.PAIRED: (
        ("pasted", 0.46, "heal"),
        ("pasted", 0.12, "induce"),
        ("boxed", 0.17, "find"),
        ("healthy", 0.12, "keep"),
        ("abnormal", 0.05, "keep"),
        ("labelled", 0.08, "tell"),
    ),
    # As many films without a finding as with one, each under what is true of it.
    Form.PLAIN: (
        ("pasted", 0.25, "heal"),
        ("pasted", 0.25, "induce"),
        ("boxed", 0.15, "keep"),
        ("healthy", 0.20, "keep"),
        ("abnormal", 0.10, "keep"),
        ("labelled", 0.05, "keep"),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a U-Net predicts, along which schedule, and what it sees beside z_t."""

    steps: Schedule
    prediction: str = "v_prediction"
    form: Form = Form.PAIRED


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A batch: what is seen, aimed at and said; where the velocity and the gate are judged.

    `gate` is NaN where nobody knows it. `sick` is 1 or 0 for a film of which no more is known
    than its label, with its lungs, and NaN for the others.
    """

    source: torch.Tensor
    aim: torch.Tensor
    words: torch.Tensor
    gate: torch.Tensor
    judged: torch.Tensor
    only_noise: torch.Tensor
    lungs: torch.Tensor
    sick: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Of one batch: the prediction's error weighted by min-SNR; cross-entropy and Dice of the gate;
    cross-entropy of labels told by the gate. The last two are 0 for a U-Net without a gate.
    """

    edit: torch.Tensor
    gate: torch.Tensor
    label: torch.Tensor

    def numbers(self) -> dict[str, float]:
        """For the metrics file."""
        return {name: float(getattr(self, name).detach()) for name in ("edit", "gate", "label")}


def build(latents: int = LATENT_CHANNELS, form: Form = Form.PAIRED) -> UNet2DConditionModel:
    """A new, untrained U-Net of the embedded model's shape: twice the latents' channels in, as many
    and the gate out. Of the plain form: as many in as out, and no gate.
    """
    paired = form is Form.PAIRED
    return UNet2DConditionModel(
        sample_size=28,
        in_channels=2 * latents if paired else latents,
        out_channels=latents + 1 if paired else latents,
        block_out_channels=_STAGES,
        layers_per_block=2,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=_TEXT_WIDTH,
        attention_head_dim=8,
        norm_num_groups=16,
    )


def train(
    pool: Pool,
    embeddings: torch.Tensor,
    recipe: Recipe,
    folder: Path,
    progress: Progress,
    form: Form = Form.PAIRED,
) -> UNet2DConditionModel:
    """Train on the pool; `embeddings` [captions, tokens, width] are those of pool.captions."""
    torch.manual_seed(recipe.seed)
    model = build(pool.source.shape[1], form)
    return learn(model, _TASKS[form], pool, embeddings, recipe, folder, progress, form)


def learn(
    model: UNet2DConditionModel,
    tasks: Sequence[Task],
    pool: Pool,
    embeddings: torch.Tensor,
    recipe: Recipe,
    folder: Path,
    progress: Progress,
    form: Form = Form.PAIRED,
) -> UNet2DConditionModel:
    """What of `model` is to learn does so by these tasks; returns it with its averaged weights."""
    model = model.to(recipe.device, memory_format=torch.channels_last).train()
    session = Session(model=model, recipe=recipe, folder=folder, progress=progress)
    rng = np.random.default_rng(session.seed)
    lessons = Lessons(pool, rng, form, tasks)
    objective = Objective(steps=schedule.zero_terminal(), form=form)
    for step in session.steps():
        lesson = lessons.take(recipe.batch)
        loss = losses(model, lesson, embeddings[lesson.words], recipe.device, objective)
        session.learn(loss.edit + _GATE_WEIGHT * loss.gate + _LABEL_WEIGHT * loss.label)
        if step % _RECORD_EVERY == 0:
            session.record(loss.numbers())
    session.ema_into(model)
    return model.eval()


class Lessons:
    """Draws batches from a pool in the tasks' shares, the same ones for the same generator.

    Without `tasks` they are those of the form.
    """

    def __init__(
        self,
        pool: Pool,
        rng: np.random.Generator,
        form: Form = Form.PAIRED,
        tasks: Sequence[Task] = (),
    ) -> None:
        self._pool, self._rng, self._form = pool, rng, form
        tasks = tasks or _TASKS[form]
        self._places = {kind: pool.of(kind) for kind, _, _ in tasks}
        self._tasks = [task for task in tasks if len(self._places[task[0]])]
        self._empty = pool.captions.index("")
        self._normal = paraphrases(pool.captions)

    def take(self, size: int) -> Lesson:
        """A batch of `size`."""
        weights = np.array([share for _, share, _ in self._tasks])
        chosen = self._rng.choice(len(self._tasks), size, p=weights / weights.sum())
        lesson = _stack([self._one(*self._tasks[i]) for i in chosen])
        return lesson if self._form is Form.PAIRED else self._captioned(lesson)

    def _captioned(self, lesson: Lesson) -> Lesson:
        """Films under what is true of them; a tenth of all, not of the normal alone, under nothing.

        What guidance and inversion take for "any film" is learnt there.
        """
        wordless = torch.from_numpy(self._rng.random(len(lesson.words)) < _DROP_TEXT)
        nowhere = torch.full_like(lesson.gate, torch.nan)
        return replace(
            lesson,
            words=lesson.words.where(~wordless, self._empty),
            gate=nowhere,
            judged=torch.ones_like(lesson.judged),
        )

    def _one(self, kind: str, _share: float, task: str) -> Lesson:
        pool, places = self._pool, self._places[kind]
        i = int(places[self._rng.integers(len(places))])
        source, aim, mask = pool.source[i].float(), pool.aim[i].float(), pool.mask[i].float()
        # Every paraphrase of "normal" is taught: the draws of an explanation take them in turn.
        normal = int(self._rng.choice(self._normal[int(pool.normal[i])]))
        words = int(pool.words[i]) if task in ("induce", "keep") else normal
        judged, lungs, sick = torch.ones_like(mask), torch.zeros_like(mask), torch.nan
        paired = self._form is Form.PAIRED  # else there is no source, and all alike drop words
        if task in ("heal", "induce"):
            judged = 1 + _LESION_WEIGHT * mask
        if task == "restore":
            mask = need(source, aim)
            judged = 1 + _LESION_WEIGHT * mask
        if task == "induce":
            source, aim = aim, source
        if task == "find":
            # Nobody knows what lies under a real lesion: judge the edit around it only, and only
            # from pure noise, since a noised aim would show the lesion again.
            judged = 1 - mask
        if task == "keep":
            mask = torch.zeros_like(mask)
        if task == "tell":
            # What lies under a sick film's lesions is not known, nor where they are.
            sick = float(pool.words[i] != pool.normal[i])
            lungs, judged = mask, judged * (1 - sick)
            mask = torch.full_like(mask, torch.nan if sick else 0)
        elif paired and self._rng.random() < _DROP_IMAGE and task not in ("find", "restore"):
            source = torch.zeros_like(source)
            words = normal if task == "heal" else int(pool.words[i])
            mask = torch.full_like(mask, torch.nan)
        elif paired and self._rng.random() < _DROP_TEXT and task == "heal":
            words = self._empty
        return Lesson(
            source=source,
            aim=aim,
            words=torch.tensor(words),
            gate=mask,
            judged=judged,
            # What is restored is asked for in one step, from noise: no other time need be learnt.
            only_noise=torch.tensor(task in ("find", "tell", "restore")),
            lungs=lungs,
            sick=torch.tensor(sick),
        )


def need(source: torch.Tensor, aim: torch.Tensor) -> torch.Tensor:
    """How much of each cell is to change, [1, h, w] in 0 .. 1: the distance of latents [c, h, w],
    root mean square over the channels and the cells around, as a share of a plain lesion's.
    """
    apart = (source - aim).square().mean(0, keepdim=True)
    around = functional.avg_pool2d(apart[None], 3, stride=1, padding=1)[0]
    return (around.sqrt() / _PLAIN).clamp(max=1)


def paraphrases(captions: Sequence[str]) -> dict[int, list[int]]:
    """For the first "normal" sentence of each view, the places of all that say the same."""
    words = prompts.load()
    sentences = [words.normal_prompts(view) for view in prompts.VIEWS]
    return {captions.index(s[0]): [captions.index(text) for text in s] for s in sentences}


def losses(
    model: UNet2DConditionModel,
    lesson: Lesson,
    text: torch.Tensor,
    device: str,
    objective: Objective | None = None,
) -> Losses:
    """What is wrong with the model's answers to one batch.

    The default objective is the embedded model's.
    """
    objective = objective or Objective(steps=schedule.zero_terminal())
    paired = objective.form is Form.PAIRED
    aim, source = lesson.aim.to(device), lesson.source.to(device)
    t = torch.randint(0, TRAIN_STEPS, (len(aim),), device=device)
    noise_first = lesson.only_noise.to(device) | (
        torch.rand(len(aim), device=device) < (_START_AT_NOISE if paired else 0)
    )
    t = torch.where(noise_first, TRAIN_STEPS - 1, t)
    alpha, sigma = objective.steps.at(t)
    eps = torch.randn_like(aim)
    z_t = alpha * aim + sigma * eps
    with autocast(aim.device):
        seen = torch.cat([z_t, source], 1) if paired else z_t
        out = model(seen, t, text.to(device)).sample.float()
    said, gate = out[:, : aim.shape[1]], out[:, aim.shape[1] :]
    # At t = T min-SNR gives no weight, yet the first step is taken there, and it is the only one
    # that sees no trace of the aim: what it leaves of a lesion, later steps take for the aim's own.
    weight = schedule.min_snr_weight(alpha, sigma, objective.prediction)
    weight = torch.where((t == TRAIN_STEPS - 1).view_as(weight), 1.0, weight)
    error = (said - schedule.aim_of(objective.prediction, aim, eps, alpha, sigma)).square()
    edit = (weight * lesson.judged.to(device) * error).mean()
    if not gate.shape[1]:
        return Losses(edit=edit, gate=edit.new_zeros(()), label=edit.new_zeros(()))
    return Losses(
        edit=edit,
        gate=gate_loss(gate, lesson.gate.to(device)),
        label=label_loss(gate, lesson.lungs.to(device), lesson.sick.to(device)),
    )


def gate_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus 1 - Dice over the samples that have a gate to learn (others are NaN)."""
    known = ~truth.isnan().flatten(1).any(1)
    if not known.any():
        return logits.sum() * 0
    logits, truth = logits[known], truth[known]
    p = logits.sigmoid()
    dice = (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
    return functional.binary_cross_entropy_with_logits(logits, truth) + 0.5 * (1 - dice)


def label_loss(logits: torch.Tensor, lungs: torch.Tensor, sick: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of a film's label, told by the gate where it is largest in the lungs.

    Multiple-instance learning: a sick film has its lesion somewhere in the lungs, a normal one
    nowhere. The film's logit is the mean over the largest cells, a share of the lungs' area; the
    lungs' alone, so that letters and borders cannot tell the label.
    """
    known = ~sick.isnan() & (lungs > 0.5).flatten(1).any(1)
    if not known.any():
        return logits.sum() * 0
    told = []
    for cells, inside in zip(logits[known], lungs[known] > 0.5, strict=True):
        within = cells[inside]
        told.append(within.topk(max(1, round(_LABEL_SHARE * len(within)))).values.mean())
    return functional.binary_cross_entropy_with_logits(torch.stack(told), sick[known])


def _stack(lessons: Sequence[Lesson]) -> Lesson:
    names = ("source", "aim", "words", "gate", "judged", "only_noise", "lungs", "sick")
    return Lesson(
        **{name: torch.stack([getattr(lesson, name) for lesson in lessons]) for name in names}
    )
