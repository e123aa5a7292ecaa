"""Commands that make a model of one's own: train, assemble, calibrate, evaluate."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.types import Mode

app = typer.Typer()
DataPath = Annotated[Path, typer.Option(help="Folder with cxr256/, localised/ and reports/.")]
WorkPath = Annotated[Path, typer.Option(help="Folder for checkpoints; a run goes on from there.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]


class Part(StrEnum):
    """What can be trained, in the order in which each needs those before it."""

    SEGMENTER = "segmenter"
    AUTOENCODER = "autoencoder"
    LANGUAGE_MODEL = "language-model"
    VIEW = "view"
    DIFFUSION = "diffusion"
    GATE = "gate"
    WHOLE_LUNG = "whole-lung"
    CLASSIFIER = "classifier"
    RIVAL = "rival"


class UnetForm(StrEnum):
    """What a U-Net is given beside z_t and the text."""

    PAIRED = "paired"
    PLAIN = "plain"


@app.command()
def train(
    part: Annotated[Part, typer.Argument(help="What to train; see docs/training.md.")],
    data: DataPath,
    work: WorkPath,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Time to make what is learnt from, and to learn, over all resumed runs; "
            "without, see docs/training.md."
        ),
    ] = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    channels: Annotated[
        int | None,
        typer.Option(help="autoencoder: of its latents, 8 without; all that follows has as many."),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="diffusion: fine-tune this Stable-Diffusion-class folder. "
            "whole-lung: begin with this model folder's adapter.",
        ),
    ] = None,
    form: Annotated[
        UnetForm, typer.Option(help="diffusion: see the source beside z_t, or not.")
    ] = UnetForm.PAIRED,
    text_encoder: Annotated[
        bool, typer.Option("--text-encoder", help="With --from: train it too.")
    ] = False,
    lora: Annotated[
        int, typer.Option(help="With --from: the rank of adapters; 0 is none.", min=0)
    ] = 0,
) -> None:
    """Train a part of a model of your own."""
    from dicom_node.admin import training

    if channels is not None and part is not Part.AUTOENCODER:
        raise typer.BadParameter("--channels goes with: train autoencoder")
    if form is not UnetForm.PAIRED and part is not Part.DIFFUSION:
        raise typer.BadParameter("--form goes with: train diffusion")
    tunes = base is not None and part is Part.DIFFUSION
    if not tunes and (lora or text_encoder):
        raise typer.BadParameter("--text-encoder and --lora go with: train diffusion --from")
    if base is None or part is Part.WHOLE_LUNG:
        training.train(part.value, data, work, minutes, device, seed, base, channels, form.value)
        return
    if part is not Part.DIFFUSION:
        raise typer.BadParameter("--from goes with: train diffusion, train whole-lung")
    plan = training.plan(form.value, train_text=text_encoder, lora_rank=lora)
    training.fine_tune(base, data, work, minutes, device, seed, plan)


@app.command()
def assemble(
    data: DataPath,
    work: WorkPath,
    version: Annotated[str, typer.Option(help="The model's version.")],
) -> None:
    """Put the trained parts together as WORK/model, with digests; then calibrate."""
    from dicom_node.admin import training

    training.assemble(data, work, version)


@app.command()
def calibrate(
    data: Annotated[Path | None, typer.Option(help="Folder with cxr256/.")] = None,
    work: Annotated[Path | None, typer.Option(help="WORK/model is calibrated.")] = None,
    films: Annotated[int, typer.Option(help="Healthy films to use; 0 is all.", min=0)] = 0,
    healthy: Annotated[
        Path | None, typer.Option(help="Folder of a site's own films without a finding.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="With --healthy: calibrate a copy of it.")
    ] = "embedded",
    out: Annotated[Path | None, typer.Option(help="With --healthy: where the copy goes.")] = None,
    device: Device = "auto",
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Time for this call: then it stops after a film; run again, it goes on. "
            "Without, until it is done."
        ),
    ] = None,
) -> None:
    """Set how maps are read: by --data and --work, or for a site by --healthy and --out."""
    from dicom_node.admin import training

    ours, sites = (data, work), (healthy, out)
    if any(ours) and any(sites):
        raise typer.BadParameter("give --data and --work, or --healthy and --out, not of both")
    if healthy is not None and films:
        raise typer.BadParameter("--films goes with --data: of a site's own films all are used")
    if healthy is not None and out is not None:
        training.calibrate_site(healthy, model, out, device, minutes)
    elif data is not None and work is not None:
        training.calibrate(data, work, films, device, minutes)
    else:
        raise typer.BadParameter("give --data and --work, or --healthy and --out")


@app.command()
def evaluate(
    data: DataPath,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for evaluation.json, evaluation.md, evaluation.html."),
    ] = None,
    part: Annotated[str, typer.Option(help="dev to choose, test to report.")] = "dev",
    mode: Annotated[Mode, typer.Option(help="How the counterpart is made.")] = Mode.CALIBRATED,
    model: Annotated[str, typer.Option(help="A model folder, or embedded.")] = "embedded",
    judges: Annotated[
        Path | None, typer.Option(help="Folder with a classifier of your own (docs/training.md).")
    ] = None,
    inception: Annotated[
        Path | None,
        typer.Option(
            help="torchvision's inception_v3 for FID and KID, its .pth saved as safetensors."
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="Folder for the edits (3 MB each), so that a stopped run goes on."),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(help="Films a group, and a source and label, at most; 0 is all.", min=0),
    ] = 0,
    maps_only: Annotated[
        bool, typer.Option("--maps-only", help="Where maps point and which normal films they mark.")
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave this section out (oracle, induction and seeds take longest); repeatable."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line.")] = False,
) -> None:
    """Measure a model against baselines on films with boxes, masks and labels."""
    from dicom_node.admin import measuring

    measuring.run(
        *(data, part, limit, mode, model, judges, out, keep, inception),
        maps_only=maps_only,
        without=without or (),
        as_json=as_json,
    )
