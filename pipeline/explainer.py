"""From a radiograph to its attribution: encode, edit, decode both, compare, find regions."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline import difference, editing, guidance, preprocess, prompts, regions
from pipeline.errors import FilmError, ModelError
from pipeline.preprocess import Letterbox
from pipeline.settings import Settings
from pipeline.types import Attribution, Image, Mode, ModelIdentity, Radiograph, Status, Target
from pipeline.weights import LoadedModel

METHOD_VERSION = "1"
"""Raised whenever the same weights would give another map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A film and its counterpart on the grid: signed difference, map and its seed SD."""

    difference: Image
    attribution_map: Image
    spread: Image


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
        self, film: Radiograph, mode: Mode, seed: int, target: Target | None = None
    ) -> Attribution:
        """The film's normal counterpart and attribution.

        Args:
            film: upright, [rows, cols] float32, 0 black .. 1 white.
            mode: `calibrated` (paired edit) or `paper` (img2img and subtraction).
            seed: of the noise.
            target: what to edit towards; None means normal.

        Raises:
            FilmError: the picture does not look like a frontal chest radiograph.
            ModelError: the model cannot work in this mode.
        """
        box = preprocess.letterbox(film, self.settings.grid)
        plane = preprocess.to_grid(film, box)
        self._admit(plane)
        compare = self._paper if mode is Mode.PAPER else self._paired
        return self._attribution(film, box, compare(plane, seed, target), mode, seed)

    def _admit(self, plane: Image) -> None:
        gate = self._model.image_gate
        refusal = "" if gate is None else gate.refusal(plane)
        if refusal:
            raise FilmError(refusal)

    def _paired(self, plane: Image, seed: int, target: Target | None) -> Comparison:
        """d_k = D(z) - D(z_cf,k) over K draws: both decoded, so that D's own error cancels."""
        model, said = self._model, self.settings
        if not model.denoiser.paired:
            raise ModelError(
                "mode calibrated needs a paired-edit U-Net (twice the latent channels in); "
                "use mode: paper with this model, or fine-tune it into the paired form"
            )
        z = model.autoencoder.encode(self._tensor(plane)).repeat(said.draws, 1, 1, 1)
        noise = editing.noises(z.shape[1:], seed, said.draws).to(model.device)
        edit = editing.paired_edit(model.denoiser, z, self._text(target), noise, said.steps)
        own = model.autoencoder.decode(z[:1])
        healed = model.autoencoder.decode(editing.gated(z, edit))
        draws = ((own - healed)[:, 0] / 2).float().cpu().numpy()
        maps = np.stack([difference.magnitude(d, said.blur_px) for d in draws])
        mean, spread = difference.mean_and_sd(maps)
        return Comparison(difference=draws.mean(0), attribution_map=mean, spread=spread)

    def _paper(self, plane: Image, seed: int, target: Target | None) -> Comparison:
        """M = I - I_n (2401.01414): the film minus its normal counterpart, unsmoothed."""
        model, said = self._model, self.settings
        z = model.autoencoder.encode(self._tensor(plane))
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
        counterpart = model.autoencoder.decode(normal)[0, 0].float().cpu().numpy() / 2 + 0.5
        signed = plane - counterpart.clip(0, 1)
        return Comparison(
            difference=signed, attribution_map=np.abs(signed), spread=np.zeros_like(signed)
        )

    def _text(self, target: Target | None) -> torch.Tensor:
        """One prompt's states a draw: the target's, or "normal" in turn of its paraphrases."""
        words = (target.prompt,) if target else prompts.load().normal_prompts()
        chosen = [words[draw % len(words)] for draw in range(self.settings.draws)]
        return self._model.text_encoder.encode(chosen)

    def _tensor(self, plane: Image) -> torch.Tensor:
        return torch.from_numpy(plane)[None, None].to(self._model.device) * 2 - 1

    def _attribution(
        self, film: Radiograph, box: Letterbox, made: Comparison, mode: Mode, seed: int
    ) -> Attribution:
        reading = self.settings.reading(mode)
        found = regions.find(made.attribution_map, reading.threshold, box)
        signed = box.to_film(made.difference)
        # What is shown is the patient's own film less the difference, at its native resolution:
        # outside the edit every pixel is the patient's, and the decoder's blur is not seen.
        counterfactual = (film.pixels - signed).clip(0, 1)
        marked = made.attribution_map >= reading.threshold
        spread = made.spread[marked] if marked.any() else made.spread
        return Attribution(
            counterfactual=counterfactual,
            difference=film.pixels - counterfactual,
            attribution_map=box.to_film(made.attribution_map).clip(0),
            threshold=reading.threshold,
            scale_max=reading.scale_max,
            regions=found,
            score=float(min(1.0, made.attribution_map.max() / reading.scale_max)),
            uncertainty=float(spread.mean()),
            status=Status.VALID,
            reasons=(),
            model=self._identity(mode, seed),
        )

    def _identity(self, mode: Mode, seed: int) -> ModelIdentity:
        return ModelIdentity(
            name=self.settings.name,
            version=self.settings.version,
            digest=self._model.digest,
            mode=mode,
            seed=seed,
            method_version=METHOD_VERSION,
        )
