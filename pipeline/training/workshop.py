"""The order of work: from data folders to a model folder, each step resumable by itself.

A data folder holds `cxr256/` (manifest.csv and archives), `localised/` (boxes, lung outlines) and
`reports/`; a work folder gets one folder a step and, from `assemble`, the finished `model/`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC, UNet2DConditionModel
from safetensors.torch import save_file
from torch.nn import functional

from pipeline import digest, prompts, settings, weights
from pipeline.explainer import Explainer
from pipeline.settings import Settings
from pipeline.training import (
    assembly,
    autoencoder,
    calibrate,
    classifier,
    diffusion,
    fidelity,
    files,
    finetune,
    kept,
    language_model,
    lesion_gate,
    origins,
    pools,
    probing,
    ranks,
    rival,
    samples,
    segmenter,
    session,
    view,
    whole_lung,
)
from pipeline.training.assembly import save_network
from pipeline.training.bench import Bench
from pipeline.training.budget import Budget
from pipeline.training.calibrate import Places
from pipeline.training.diffusion import Form
from pipeline.training.fidelity import Fidelity
from pipeline.training.finetune import Plan
from pipeline.training.kept import FilmByFilm
from pipeline.training.origins import Origin
from pipeline.training.pairs import Counts, PairMaker, Sample
from pipeline.training.pictures import Films
from pipeline.training.pools import Encode, Pool
from pipeline.training.session import Progress, Recipe
from pipeline.types import Image
from pipeline.weights import CLASSIFIER, IMAGE_GATE, LESION_GATE, RIVAL, WHOLE_LUNG, LoadedModel

_PROBED = 600  # films of a class of a source: more were not better (docs/decisions/0011)
_RECIPES = {
    "autoencoder": Recipe(minutes=0, batch=16, learning_rate=1.5e-3),
    "segmenter": Recipe(minutes=0, batch=8, learning_rate=2e-3, warmup_steps=50),
    "view": Recipe(minutes=0, batch=64, learning_rate=2e-3, warmup_steps=50),
    "language-model": Recipe(minutes=0, batch=96, learning_rate=6e-4),
    "diffusion": Recipe(minutes=0, batch=32, learning_rate=5e-4),
    "whole-lung": Recipe(minutes=0, batch=24, learning_rate=1.5e-3, warmup_steps=50),
    "fine-tuning": Recipe(minutes=0, batch=32, learning_rate=1e-5),
    "classifier": Recipe(minutes=0, batch=48, learning_rate=2e-3, warmup_steps=100),
    "lesion-gate/first": Recipe(minutes=0, batch=32, learning_rate=2e-3, warmup_steps=100),
    "rival": Recipe(minutes=0, batch=24, learning_rate=2e-3, warmup_steps=100),
}
"""How each run learns, but for its time."""


class Workshop:
    """Trains the parts of a model from `data` into `work` on `device`, each in the `budget`.

    Raises:
        OutOfTimeError: by every step, where its minutes are spent before it has learnt or made all.
    """

    def __init__(
        self, *, data: Path, work: Path, device: str, seed: int, progress: Progress, budget: Budget
    ) -> None:
        self._seed, own = seed, ranks.join(device)
        self._progress: Progress = progress if ranks.is_first() else lambda *_: None
        self._budget = budget
        self._bench = Bench(
            data=data, work=work, device=own, progress=self._progress, budget=budget
        )

    def train_autoencoder(self, channels: int = autoencoder.LATENT_CHANNELS) -> Fidelity:
        """The autoencoder, with so many channels of latents, is trained on the films of train;
        returns what it keeps of those of val, which it says in its folder too.
        """
        held_out, films = self._bench.films_of("val"), self._bench.training_films
        folder, origin = self._bench.work / "autoencoder", origins.films(self._bench)
        recipe = self._recipe("autoencoder", origin | {"channels": str(channels)})
        model = autoencoder.train(films, recipe, folder, self._progress, channels)
        self._finish(model, "autoencoder", recipe.origin)
        normal, lungs = self._bench.normals("val", fidelity.MOST_LESIONS)
        found = fidelity.measure(model, held_out, normal, lungs, self._bench.device)
        if ranks.is_first():
            fidelity.write(found, folder)
            samples.round_trips(self._bench, held_out, folder)
        return found

    @property
    def fidelity(self) -> Fidelity | None:
        """What the trained autoencoder keeps of films; None where nobody has measured it."""
        return fidelity.read(self._bench.work / "autoencoder")

    def train_segmenter(self) -> None:
        """The lung segmenter is trained on the films that have lung outlines."""
        films, masks = self._bench.outlined()
        folder, origin = self._bench.work / "segmenter", {"films": kept.digest_of(films, masks)}
        recipe = self._recipe("segmenter", origin)
        model = segmenter.train(films, masks, recipe, folder, self._progress)
        self._keep(model, self._bench.segmenter)
        if ranks.is_first():
            samples.masks(model, films, masks, folder)

    def train_view(self) -> None:
        """The image gate's classifier is trained on the films of train."""
        films, folder = self._bench.training_films, self._bench.work / "view"
        recipe = self._recipe("view", origins.films(self._bench))
        model = view.train(films, recipe, folder, self._progress)
        self._keep(model, folder / IMAGE_GATE)

    def train_language_model(self) -> None:
        """The text encoder and its tokenizer are trained on the reports and the prompts."""
        folder = self._bench.work / "language-model"
        sentences = self._bench.sentences()
        texts = [*sentences, *(lesson.text for lesson in language_model.templates())]
        tokenizer = language_model.keep_tokenizer(texts, folder)
        recipe = self._recipe("language-model", {})
        model = language_model.train(sentences, tokenizer, recipe, folder, self._progress)
        if ranks.is_first():
            with files.whole_folder(self._bench.text_encoder) as scratch:
                model.encoder.save_pretrained(scratch)

    def train_diffusion(self, counts: Counts, form: Form = Form.PAIRED) -> None:
        """The U-Net is trained on a pool of pairs, made first where the run has none yet."""
        self._bench.demand("segmenter", "autoencoder", "language-model")
        folder, origin = self._bench.work / "diffusion", origins.edit(self._bench, form)
        self._demand_same("diffusion", origin)
        pool = self._pool("diffusion", counts, self._bench.encode, self._bench.encoder_digest)
        recipe, words = self._recipe("diffusion", origin), self._bench.embeddings(pool.captions)
        model = diffusion.train(pool, words, recipe, folder, self._progress, form)
        self._finish(model, "diffusion", recipe.origin)
        if ranks.is_first() and form is Form.PAIRED:
            samples.edits(self._bench, model, pool, "pasted", self._seed, folder)
        elif ranks.is_first():
            samples.paper_edits(self._bench, model, pool, self._seed, folder)

    def train_whole_lung(self, counts: Counts, base: Path | None = None) -> None:
        """The whole-lung adapter of the trained U-Net is trained on a pool of its own.

        A new run begins with the adapter of the model folder `base`, where one is given.

        Raises:
            ModelError: `base` has none, or that of another U-Net.
        """
        self._bench.demand("segmenter", "autoencoder", "language-model", "diffusion")
        origins.demand_unet(self._bench)
        origins.demand_paired(self._bench)
        folder, start = self._bench.work / "whole-lung", base / WHOLE_LUNG if base else None
        origin = origins.adapter(self._bench, start)
        self._demand_same("whole-lung", origin)
        pool = self._pool("whole-lung", counts, self._bench.encode, self._bench.encoder_digest)
        recipe, words = self._recipe("whole-lung", origin), self._bench.embeddings(pool.captions)
        unet = self._bench.unet()
        model = whole_lung.train(unet, pool, words, recipe, folder, self._progress, start)
        if ranks.is_first():
            with files.whole(folder / WHOLE_LUNG) as scratch:
                whole_lung.save(model, scratch)
            origins.write(folder, recipe.origin)
            samples.edits(self._bench, model, pool, "diffuse", self._seed, folder)

    def fine_tune(self, base: Path, plan: Plan, counts: Counts) -> Path:
        """`fine-tuned/` is a model folder made of `base` by the plan; returns where it lies.

        Raises:
            ModelError: `base` cannot be loaded, or its parts do not fit each other.
        """
        self._bench.demand("segmenter")
        folder = self._bench.work / "fine-tuning"
        origin = origins.tuning(self._bench, base, plan)
        self._demand_same("fine-tuning", origin)
        networks = weights.load_networks(base, torch.device(self._bench.device))
        finetune.demand_form(networks, plan)
        grid = int(networks.unet.config.sample_size) * 8
        encode = finetune.encoder_of(networks, grid, self._bench.device)
        files_of_it = repr(digest.file_digests(base / "vae"))
        encoder = kept.digest_of(files_of_it, repr(settings.read(base)), str(grid))
        pool = self._pool("fine-tuning", counts, encode, encoder)
        recipe = self._recipe("fine-tuning", origin)
        tuned = finetune.train(networks, plan, pool, recipe, folder, self._progress)
        said = replace(settings.read(base), name=base.name, version="fine-tuned", grid=grid)
        made = self._bench.work / "fine-tuned"
        if ranks.is_first():
            finetune.write(tuned, networks, plan, base, made, said)
            samples.counterparts(made, pool, self._bench.device, self._seed, folder)
        return made

    def train_classifier(self) -> None:
        """The independent classifier, a judge of edits, is trained on the films of train."""
        self._bench.demand("segmenter")
        folder, origin = self._bench.work / "classifier", origins.labelled(self._bench)
        recipe = self._recipe("classifier", origin)
        model = classifier.train(self._bench.material, recipe, folder, self._progress)
        if ranks.is_first():
            save_network(model, self._bench.work / "judges" / CLASSIFIER)

    def train_gate(self, counts: Counts) -> None:
        """The second gate is trained: half of the time on pairs, boxes and labels, half on these
        and on real films where it and the U-Net's gate agree.
        """
        self._bench.demand("segmenter", "autoencoder", "language-model", "diffusion")
        origins.demand_unet(self._bench)
        origins.demand_paired(self._bench)
        folder, origin = self._bench.work / "lesion-gate", origins.labelled(self._bench)
        self._demand_same("lesion-gate/first", origin)
        pool = self._seen_by_the_gate(counts)
        recipe = self._recipe("lesion-gate/first", origin)
        half = replace(recipe, minutes=recipe.minutes / 2, made_s=recipe.made_s / 2)
        taught = lesion_gate.lessons(pool)
        first = lesion_gate.train(taught, half, folder / "first", self._progress)
        taught += lesion_gate.agreed_with(first, pool)
        model = lesion_gate.train(taught, half, folder / "second", self._progress, first)
        if ranks.is_first():
            save_network(model, folder / LESION_GATE)
            samples.gates(model, taught, folder)

    def _seen_by_the_gate(self, counts: Counts) -> kept.Tensors:
        """Pairs in the frame of their lungs; the mask of a real film with a finding, of which
        nobody knows where, is what the U-Net's gate says.
        """
        unet = self._bench.unet().to(self._bench.device).eval()

        def keep(batch: Sequence[Sample]) -> kept.Tensors:
            found = lesion_gate.small(batch)
            if batch[0].kind == "abnormal":
                found["mask"] = self._open(unet, batch, found["mask"].shape[1:])
            return found

        maker = PairMaker(self._bench.material, self._seed, framed=1.0)
        shelf, made_of = self._bench.shelf("lesion-gate", "pool"), origins.answers(self._bench)
        return pools.make(maker, counts, keep, shelf, made_of)

    def _open(
        self, unet: UNet2DConditionModel, batch: Sequence[Sample], shape: torch.Size
    ) -> torch.Tensor:
        """How far the U-Net's gate is open to films, [n, *shape] uint8, 255 is 1."""
        source = self._bench.encode(pools.signed([sample.source for sample in batch]))
        normal = [prompts.load().normal_prompts(sample.view)[0] for sample in batch]
        open_to = self._bench.answers(unet, source, normal, self._seed)[:, -1:].sigmoid()
        fitted = functional.interpolate(open_to, shape, mode="bilinear")[:, 0]
        return (fitted * 255).round().to(torch.uint8)

    def train_rival(self, counts: Counts) -> None:
        """The plain segmenter is trained on pairs as the edit's gate is, but on others."""
        self._bench.demand("segmenter")
        folder, origin = self._bench.work / "rival", origins.labelled(self._bench)
        self._demand_same("rival", origin)
        maker = PairMaker(self._bench.material, self._seed + 1)
        shelf, chosen = self._bench.shelf("rival", "pool"), rival.counts(counts)
        taught = rival.lessons(pools.make(maker, chosen, lesion_gate.small, shelf, {}))
        recipe = self._recipe("rival", origin)
        model = rival.train(taught, recipe, folder, self._progress)
        if ranks.is_first():
            save_network(model, self._bench.work / "judges" / RIVAL)
            samples.marks(model, taught, self._bench.device, folder)

    def assemble(self, version: str) -> str:
        """`model/` holds the finished parts, not calibrated yet; returns its digest."""
        return assembly.assemble(self._bench, version)

    def calibrate(self, films: int) -> Settings:
        """`model/` says thresholds from so many films of the split calibration (0: all).

        Its probability is learnt from them and the adult films with findings of val; what its probe
        reads, if its U-Net edits in pairs, from films of train.
        """
        folder = self._bench.work / "model"
        files.put_back(folder)
        model = self._with_probe(weights.load(folder, torch.device(self._bench.device)), folder)
        healthy = self._bench.films_of("calibration")
        order = np.random.default_rng(self._seed).permutation(len(healthy))[: films or None]
        rows = [r for r in self._bench.rows if r.split == "val" and r.label != "Normal"]
        sick = self._bench.films([row for row in rows if not row.paediatric])
        return calibrate.calibrate(
            Places(model=folder, out=folder, notes=self._bench.work / "calibration"),
            model,
            [healthy[i].astype(np.float32) / 255 for i in order],
            [film.astype(np.float32) / 255 for film in sick],
            self._progress,
            self._budget,
        )

    def _with_probe(self, model: LoadedModel, folder: Path) -> LoadedModel:
        """The model with a probe, if it edits in pairs, that films of train teach."""
        if not model.denoiser.paired:
            return model
        train = [row for row in self._bench.rows if row.split == "train"]
        rows = probing.chosen(train, _PROBED, self._seed)
        traits = self._traits(Explainer(model), self._bench.films(rows), folder)
        sick = np.array([row.label != "Normal" for row in rows])
        sources = [row.source for row in rows]
        taught = probing.fit(probing.Taught(traits=traits, sources=sources, sick=sick))
        return replace(model, probe=taught)

    def _traits(self, explainer: Explainer, films: Films, folder: Path) -> np.ndarray:
        """What a probe reads of films; made once for each U-Net."""
        origin, shelf = kept.origin_of_edits(folder), self._bench.shelf("probe")
        kept_of, found = FilmByFilm(shelf, "films for the probe", len(films), origin), []
        for index, film in enumerate(films):
            seed, plane = self._seed + index, film.astype(np.float32) / 255

            def make(seed: int = seed, plane: Image = plane) -> kept.Tensors:
                return {"traits": torch.from_numpy(explainer.traits(plane, seed))}

            found.append(kept_of.of([film, str(seed)], make)["traits"].numpy())
        return np.stack(found)

    def _keep(self, model: torch.nn.Module, path: Path) -> None:
        if ranks.is_first():
            with files.whole(path) as scratch:
                save_file(model.state_dict(), scratch)

    def _finish(
        self, model: AutoencoderDC | UNet2DConditionModel, part: str, origin: Origin
    ) -> None:
        if ranks.is_first():
            with files.whole_folder(self._bench.final(part)) as scratch:
                model.save_pretrained(scratch)
                origins.write(scratch, origin)

    def _pool(self, run: str, counts: Counts, encode: Encode, encoder: str) -> Pool:
        """The pool of latent pairs kept with a run, made first where it has none of these."""
        maker, shelf = PairMaker(self._bench.material, self._seed), self._bench.shelf(run, "pool")
        return pools.make_pool(maker, counts, encode, shelf, encoder)

    def _demand_same(self, run: str, origin: Origin) -> None:
        """No pool is made for a run that was begun with something else."""
        session.demand_origin(self._bench.work / run, self._whole(origin))

    def _whole(self, origin: Origin) -> Origin:
        return {**origin, "seed": str(self._seed)}

    def _recipe(self, run: str, origin: Origin) -> Recipe:
        """Of a run for which all is made; refused if it was begun with something else."""
        self._demand_same(run, origin)
        return replace(
            _RECIPES[run],
            minutes=self._budget.minutes,
            made_s=self._budget.taken_from_learning_s(),
            seed=self._seed,
            device=self._bench.device,
            origin=self._whole(origin),
        )
