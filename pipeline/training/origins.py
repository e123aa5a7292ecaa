"""What runs learn from, by names and digests, and whether finished parts belong together.

A pool may be made anew within a run, of more pairs, other words or better lungs. Films, or latents
and words of another autoencoder and language model, are another lesson altogether.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from pipeline import digest, prompts
from pipeline.errors import DatasetError
from pipeline.training import files, kept
from pipeline.training.bench import Bench
from pipeline.training.diffusion import Form
from pipeline.training.finetune import Plan
from pipeline.weights import WHOLE_LUNG

_FILE = "origin.json"

Origin = Mapping[str, str]


def labelled(bench: Bench) -> Origin:
    """Of what learns from the training films, their labels and boxes."""
    said = [(row.label, row.source, row.view, row.paediatric) for row in bench.material.rows]
    return films(bench) | {"labels": kept.digest_of(repr(said), repr(bench.material.boxes))}


def films(bench: Bench) -> dict[str, str]:
    """Of what learns from the training films alone."""
    return {"films": bench.films_digest}


def edit(bench: Bench, form: Form = Form.PAIRED) -> Origin:
    """Of a network that edits latents under words."""
    return {**labelled(bench), **_seen_by(bench), "form": form.value}


def answers(bench: Bench) -> Origin:
    """Of what the U-Net says of films that are called normal."""
    taught = {"diffusion": bench.digest_of("diffusion"), "encoder": bench.encoder_digest}
    words = {"language-model": bench.digest_of("language-model"), "words": prompts.load().digest}
    return {**taught, **words}


def adapter(bench: Bench, start: Path | None) -> Origin:
    """Of the whole-lung adapter, begun with that in the file `start`, where one is given."""
    first = kept.digest_of(start) if start and start.is_file() else ""
    return {**edit(bench), "diffusion": bench.digest_of("diffusion"), "--from": first}


def tuning(bench: Bench, base: Path, plan: Plan) -> Origin:
    """Of what is made of the model folder `base` by the plan."""
    parts = repr(sorted(digest.file_digests(base).items()))
    return {**labelled(bench), "--from": kept.digest_of(parts), "plan": repr(plan)}


def write(folder: Path, origin: Origin) -> None:
    """What lies in `folder` is said to be of this origin."""
    with files.whole(folder / _FILE) as scratch:
        scratch.write_text(json.dumps(dict(origin), indent=1) + "\n", encoding="utf-8")


def demand_unet(bench: Bench) -> None:
    """The U-Net was taught with the autoencoder, latents and words that are here.

    Raises:
        DatasetError: it was taught with others.
    """
    _demand(bench, "diffusion", bench.final("diffusion"), films(bench) | _seen_by(bench))


def demand_paired(bench: Bench) -> None:
    """The U-Net sees the source, and says by its gate where to change it.

    Raises:
        DatasetError: it is of the plain form.
    """
    if not bench.is_paired:
        raise DatasetError(
            f"{bench.work}: its diffusion is of the plain form, which has no gate: what follows it "
            f"is assemble; for gate and whole-lung remove {bench.work / 'diffusion'} and train "
            "diffusion --form paired"
        )


def demand_together(bench: Bench) -> None:
    """The U-Net, and the whole-lung adapter that goes with it, belong to the parts beside them.

    With the plain form none goes: an adapter there is of a U-Net that was, and is left where it is.

    Raises:
        DatasetError: one does not.
    """
    demand_unet(bench)
    folder = bench.work / "whole-lung"
    if bench.is_paired and (folder / WHOLE_LUNG).exists():
        _demand(bench, "whole-lung", folder, {"diffusion": bench.digest_of("diffusion")})


def _seen_by(bench: Bench) -> dict[str, str]:
    return {part: bench.digest_of(part) for part in ("autoencoder", "language-model")}


def _demand(bench: Bench, part: str, folder: Path, here: Origin) -> None:
    if not (folder / _FILE).exists():  # trained before this was written down
        return
    taught = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    if other := [name for name in here if taught.get(name, here[name]) != here[name]]:
        raise DatasetError(
            f"{bench.work}: its {part} was trained with other {', '.join(other)} than are here; "
            f"remove {bench.work / part} and train it again"
        )
