"""From a radiograph to its attribution: encode, edit, decode both, compare, find regions."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from pipeline import (
    anatomy,
    checks,
    difference,
    editing,
    framing,
    guidance,
    inversion,
    preprocess,
    probe,
    prompts,
    regions,
)
from pipeline.anatomy import Mask
from pipeline.errors import ModelError, UnlikeTrainingError
from pipeline.evidence import Evidence, attribution_map, findings
from pipeline.framing import Frame
from pipeline.models import Claim, Denoiser
from pipeline.preprocess import Letterbox
from pipeline.probe import Traits
from pipeline.settings import Settings
from pipeline.types import (
    Attribution,
    Image,
    Mode,
    ModelIdentity,
    Radiograph,
    Status,
    Target,
    Unlike,
)
from pipeline.weights import LoadedModel

METHOD_VERSION = "8"
"""Raised whenever the same weights would give another map."""

EDIT_VERSION = "7"
"""Raised whenever they would give other Evidence, of which a map is made."""

_NEXT_PASS = 7_919
"""Between the seeds of two passes: a prime, so that those of neighbouring seeds do not meet."""

_NO_GATE = "the model has no image gate: nothing tells whether this is a chest radiograph"
_NO_SEGMENTER = "the model has no lung segmenter: where the map points could not be checked"


class Explainer:
    """Makes the normal counterpart of films and the map of what differs, by one model.

    Deterministic: the same film, target, mode and seed give the same map, bit for bit on the same
    device and thread count, within 1e-4 on another.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    @property
    def settings(self) -> Settings:
        """What the model folder says of itself."""
        return self._model.settings

    def explain(
        self,
        film: Radiograph,
        mode: Mode,
        seed: int,
        target: Target | None = None,
        unlike: Unlike = Unlike.REFUSE,
    ) -> Attribution:
        """The film's normal counterpart and attribution.

        Args:
            film: upright, [rows, cols] float32, 0 black .. 1 white.
            mode: `calibrated` (paired edit, or inversion where the model knows no pairs) or
                `paper` (img2img and subtraction).
            seed: of the noise.
            target: what to edit towards; None means normal.
            unlike: what becomes of a picture that looks like no frontal chest radiograph.

        Raises:
            UnlikeTrainingError: it looks like none, and was to be refused.
            ModelError: what the model makes of it is no number.
        """
        box = preprocess.letterbox(film, self.settings.grid)
        plane = preprocess.to_grid(film, box)
        gate = self._model.image_gate
        objection = "" if gate is None else gate.refusal(plane)
        if objection and unlike is Unlike.REFUSE:
            raise UnlikeTrainingError(objection)
        made = self._read(film, box, self.evidence(plane, mode, seed, target), mode, seed)
        if gate is None:
            return _doubted(made, _NO_GATE, Status.LOW_CONFIDENCE)
        return _doubted(made, objection, Status.WITHHELD) if objection else made

    def evidence(
        self,
        plane: Image,
        mode: Mode,
        seed: int,
        target: Target | None = None,
        *,
        free: bool = False,
    ) -> Evidence:
        """The edit of a film that lies on the grid already, not yet read; see Evidence.

        Raises:
            ModelError: what the model makes of it is no number.
        """
        if mode is Mode.PAPER:
            made = self._paper(plane, seed, target)
        elif self._model.denoiser.paired:
            made = self._paired(plane, seed, target, free=free)
        else:
            made = self._inverted(plane, seed, target)
        _demand_numbers(made.maps, made.changes, made.traits)
        return made

    def _paired(self, plane: Image, seed: int, target: Target | None, *, free: bool) -> Evidence:
        """d_k = D(z_k) - D(z_cf,k) over K draws: both decoded, so that D's own error cancels.

        Each draw sees the film in a frame of its own; where something else than "normal" is asked
        for, which has one place only, all see the whole film.
        """
        model, said, lungs = self._model, self.settings, self.lungs(plane)
        alike = [framing.whole(said.grid)] * said.draws
        frames = alike if target else framing.frames(lungs, said.draws)
        second = None if target else self._second_gate(plane, lungs)
        z, text = self._latents(plane, frames), self._text(target)
        noise = self._noise(z, seed, range(1 if target else said.passes))
        made = editing.counterpart(model.denoiser, z, text, noise, said.steps)
        still = editing.remaining(model.denoiser, made.latent, text, noise[0])
        own = self._decoded(z)
        gates = _back(frames, self._on_grid(made.first.gate))
        # The first pass alone has seen the film; what later ones add points less well (decision 7).
        seen = _back(frames, own - self._decoded(editing.gated(z, made.first)))
        maps = [
            difference.weighted(
                difference.magnitude(change, said.blur_px),
                [gate] if second is None else [gate, second],
            )
            for change, gate in zip(seen, gates, strict=True)
        ]
        ungated = _back(frames, own - self._decoded(made.first.latent)) if free else None
        local = _back(frames, own - self._decoded(made.latent))
        adapted = None if target else model.whole_lung
        looked = None if target else self._look(z, text, noise[0])
        changes = local
        if adapted is not None and looked is not None and looked.gate is not None:
            clear = self._clear(adapted, made.latent, text, seed, looked.gate)
            whole = _back(frames, own - self._decoded(clear))
            changes = local + difference.held(whole - local, lungs)
        return Evidence(
            plane=plane,
            lungs=lungs,
            changes=changes,
            local=local,
            maps=difference.held(np.stack(maps), lungs),
            gate=gates,
            second=second,
            free=None if ungated is None else np.abs(ungated).mean(0),
            first=None if still is None else self._on_grid(made.first.first_gate),
            still=None if still is None else self._on_grid(still),
            traits=None if looked is None else _traits(looked, frames[-1], lungs),
        )

    def traits(self, plane: Image, seed: int) -> Traits:
        """What Evidence has of a film on the grid, without the rest of it.

        Raises:
            ModelError: the model takes no source beside the noise: it looks at no film; or what it
                makes of it is no number.
        """
        if not self._model.denoiser.paired:
            raise ModelError("only a model that edits in pairs has traits for a probe to read")
        lungs = self.lungs(plane)
        frame = framing.frames(lungs, self.settings.draws)[-1]
        z, text = self._latents(plane, [frame]), self._text(None)[-1:]
        noise = self._noise(z, seed, range(1))[0][-1:]
        made = _traits(self._looked(z, text, noise), frame, lungs)
        _demand_numbers(made)
        return made

    def opening(self, plane: Image, seed: int, target: Target | None = None) -> float | None:
        """How far the gate opens at the first step of an edit of the whole film: its mean, 0 .. 1.

        Towards what a film shows already, an edit that follows its words opens nothing (the null
        edit). None of a model without a gate.
        """
        z, text = self._latent(plane), self._text(target)[:1]
        gate = editing.remaining(
            self._model.denoiser, z, text, self._noise(z, seed, range(1))[0][:1]
        )
        return None if gate is None else float(gate.mean())

    def _look(self, z: torch.Tensor, text: torch.Tensor, noise: torch.Tensor) -> Claim | None:
        """What is looked at beside the edit: for the sake of whole lungs, or of a probe."""
        wanted = self._model.whole_lung or self._model.probe
        return self._looked(z, text, noise) if wanted else None

    def _looked(self, z: torch.Tensor, text: torch.Tensor, noise: torch.Tensor) -> Claim:
        network = self._model.whole_lung or self._model.denoiser
        return editing.first_look(network, z, text, noise)

    def _clear(
        self,
        adapted: Denoiser,
        z: torch.Tensor,
        text: torch.Tensor,
        seed: int,
        opened: torch.Tensor,
    ) -> torch.Tensor:
        """The counterpart without what covers whole lungs.

        One step a pass, from noise alone: what normal lungs have in common, and no new texture. The
        gate stays as open as it was to the film itself: local passes may have hidden from it what
        it saw there.
        """
        first = self.settings.passes
        noise = self._noise(z, seed, range(first, first + self.settings.whole_lung_passes))
        return editing.counterpart(adapted, z, text, noise, 1, open_to=opened).latent

    def _second_gate(self, plane: Image, lungs: Mask) -> Image | None:
        gate = self._model.lesion_gate
        return None if gate is None else gate.probability(plane, lungs)

    def _noise(self, z: torch.Tensor, seed: int, passes: range) -> list[torch.Tensor]:
        """[draws, c, h, w] for each of these passes; pass 0 has that of an edit of one pass."""
        seeds = [seed + _NEXT_PASS * n for n in passes]
        draws = self.settings.draws
        return [editing.noises(z.shape[1:], s, draws).to(self._model.device) for s in seeds]

    def _inverted(self, plane: Image, seed: int, target: Target | None) -> Evidence:
        """The same comparison by a model that was not trained in pairs: edit-friendly inversion.

        Outside the hull of the lungs the source stays, at each step at its own level of noise.
        """
        model, said = self._model, self.settings
        z, text = self._latent(plane).repeat(said.draws, 1, 1, 1), self._text(target)
        nothing = model.text_encoder.encode([""]).repeat(said.draws, 1, 1)
        times = inversion.times(said.paper_steps, said.inversion_start)
        noises = editing.noises((len(times), *z.shape[1:]), seed, said.draws).to(model.device)
        inverted = inversion.invert(model.denoiser, z, nothing, noises.unbind(1), times)
        keep = self._outside_lungs(plane, z)
        edited = inversion.edit(model.denoiser, inverted, text, nothing, said.guidance, keep)
        made = self._ungated(plane, self._changes(z, edited), said.blur_px)
        return replace(made, maps=difference.held(made.maps, made.lungs))

    def _outside_lungs(self, plane: Image, z: torch.Tensor) -> torch.Tensor:
        """[1, 1, h, w] of latents: 1 outside the hull of the lungs; 0 where none were found."""
        hull = torch.from_numpy(anatomy.hull(self.lungs(plane)))[None, None]
        keep = 1 - functional.adaptive_avg_pool2d(hull, (z.shape[-2], z.shape[-1]))
        return keep.to(z)

    def _paper(self, plane: Image, seed: int, target: Target | None) -> Evidence:
        """M = I - I_n (2401.01414): the film minus its normal counterpart, unsmoothed."""
        model, said = self._model, self.settings
        z = self._latent(plane)
        noise = editing.noises(z.shape[1:], seed, 1).to(model.device)
        normal = guidance.image_to_image(
            model.denoiser,
            z,
            self._text(target)[:1],
            model.text_encoder.encode([""]),
            noise,
            strength=said.strength,
            guidance=said.guidance,
            steps=said.paper_steps,
        )
        counterpart = self._decoded(normal).clip(0, 1)
        return self._ungated(plane, plane - counterpart, blur_px=0.0)

    def _ungated(self, plane: Image, changes: Image, blur_px: float) -> Evidence:
        maps = np.stack([difference.magnitude(change, blur_px) for change in changes])
        return Evidence(
            plane=plane,
            lungs=self.lungs(plane),
            changes=changes,
            local=changes,
            maps=maps,
            gate=np.ones_like(maps),
            second=None,
            free=np.abs(changes).mean(0),
            first=None,
            still=None,
            traits=None,
        )

    def _latent(self, plane: Image) -> torch.Tensor:
        x = torch.from_numpy(plane)[None, None].to(self._model.device) * 2 - 1
        return self._model.autoencoder.encode(x)

    def _latents(self, plane: Image, frames: Sequence[Frame]) -> torch.Tensor:
        """[draws, c, h, w]: the film as each frame sees it; frames that are the same once."""
        latents = {frame: self._latent(frame.see(plane)) for frame in set(frames)}
        return torch.cat([latents[frame] for frame in frames])

    def _decoded(self, z: torch.Tensor) -> Image:
        """[n, side, side] about 0 black .. 1 white, not clipped."""
        film: Image = (self._model.autoencoder.decode(z)[:, 0] / 2 + 0.5).float().cpu().numpy()
        return film

    def _changes(self, z: torch.Tensor, edited: torch.Tensor) -> Image:
        return self._decoded(z[:1]) - self._decoded(edited)

    def _on_grid(self, gate: torch.Tensor) -> Image:
        size = (self.settings.grid, self.settings.grid)
        large = functional.interpolate(gate.float(), size, mode="bilinear")
        planes: Image = large[:, 0].cpu().numpy()
        return planes

    @torch.inference_mode()
    def lungs(self, plane: Image) -> Mask:
        """The lungs of a film on the grid, or nothing where the model has no segmenter."""
        segmenter = self._model.lung_segmenter
        if segmenter is None:
            return np.zeros(plane.shape, bool)
        logits = segmenter(torch.from_numpy(plane)[None, None] * 2 - 1)
        return anatomy.tidy(logits[0, 0].numpy() > 0)

    def _text(self, target: Target | None) -> torch.Tensor:
        """The target's prompt, or "normal" in its first words, for every draw.

        The draws differ by their noise alone: paraphrases were measured, and are worse
        (docs/decisions/0004-what-the-map-is.md).
        """
        prompt = target.prompt if target else prompts.load().normal_prompts()[0]
        return self._model.text_encoder.encode([prompt] * self.settings.draws)

    def _read(
        self, film: Radiograph, box: Letterbox, made: Evidence, mode: Mode, seed: int
    ) -> Attribution:
        reading = self.settings.reading(mode)
        plane, spread = difference.mean_and_sd(made.maps)
        whole = attribution_map(made, reading.threshold, self.settings.blur_px)
        signed = box.to_film(made.changes.mean(0, dtype=np.float32))
        # What is shown is the patient's own film less the difference, at its native resolution:
        # outside the edit every pixel is the patient's, and the decoder's blur is not seen.
        counterfactual = (film.pixels - signed).clip(0, 1)
        marked = plane >= reading.threshold
        peak = float(plane.max())
        healthy = self._model.healthy if mode is Mode.CALIBRATED else None
        opinion = probe.reading(self._model.probe, made.traits)
        status, reasons = self.judged(made, mode)
        return Attribution(
            counterfactual=counterfactual,
            difference=film.pixels - counterfactual,
            attribution_map=box.to_film(whole).clip(0),
            threshold=reading.threshold,
            scale_max=reading.scale_max,
            regions=regions.find(plane, reading.threshold, box),
            score=min(1.0, peak / reading.scale_max),
            uncertainty=float(
                spread[marked].mean() if marked.any() else spread.flat[plane.argmax()]
            ),
            status=status,
            reasons=reasons,
            model=self._identity(mode, seed),
            probability=None if healthy is None else healthy.probability(peak, opinion),
            conformal_p=None if healthy is None else healthy.conformal_p(peak),
        )

    def judged(self, made: Evidence, mode: Mode) -> tuple[Status, tuple[str, ...]]:
        """How far a result may be relied on, and why."""
        status, reasons = self._checked(made, mode)
        if not (why := self._model.uncalibrated):
            return status, reasons
        return _at_best(status, Status.LOW_CONFIDENCE), (why, *reasons)

    def _checked(self, made: Evidence, mode: Mode) -> tuple[Status, tuple[str, ...]]:
        """By the checks of the edit; `paper` mode, the paper's, has none."""
        if mode is Mode.PAPER:
            return Status.VALID, ()
        if self._model.lung_segmenter is None:
            return Status.LOW_CONFIDENCE, (_NO_SEGMENTER,)
        found = findings(made, self.settings.reading(mode).threshold)
        return checks.judge(found, self.settings.limits)

    def _identity(self, mode: Mode, seed: int) -> ModelIdentity:
        return ModelIdentity(
            name=self.settings.name,
            version=self.settings.version,
            digest=self._model.digest,
            mode=mode,
            seed=seed,
            method_version=METHOD_VERSION,
        )


def _doubted(made: Attribution, objection: str, at_best: Status) -> Attribution:
    """The result with the image gate's objection."""
    status = _at_best(made.status, at_best)
    return replace(made, status=status, reasons=(objection, *made.reasons))


def _at_best(status: Status, other: Status) -> Status:
    """No status becomes better by an objection."""
    return Status.WITHHELD if status is Status.WITHHELD else other


def _demand_numbers(*made: Image | Traits | None) -> None:
    """Weights that are numbers may still overflow; a NaN would be read as "nothing found"."""
    if not all(part is None or np.isfinite(part).all() for part in made):
        raise ModelError(
            "the model's map of this film holds what is no number: do not use this model; train or "
            "install it again"
        )


def _back(frames: Sequence[Frame], seen: Image) -> Image:
    """[draws, side, side], each draw's from its frame to its place in the film."""
    return np.stack([frame.back(plane) for frame, plane in zip(frames, seen, strict=True)])


def _traits(looked: Claim, frame: Frame, lungs: Mask) -> Traits:
    """Of the last draw, which sees the lungs larger."""
    return probe.pooled([state[-1] for state in looked.states], frame.see(anatomy.hull(lungs)))
