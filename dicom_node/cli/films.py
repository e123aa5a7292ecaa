"""Commands about films and results as files; they need no PACS."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.options import AsObject
from pipeline.types import Mode

app = typer.Typer()


@app.command()
def attribute(
    files: Annotated[list[Path], typer.Argument(help="DICOM, PNG or JPEG.")],
    out: Annotated[Path, typer.Option(help="Folder for DIR/STEM/…")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Take the model from here.")
    ] = None,
    mode: Annotated[Mode | None, typer.Option(help="How to make the counterpart.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the noise.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object a file.")] = False,
) -> None:
    """Make the normal counterpart and the map of files; needs no PACS."""
    from dicom_node.admin import attribution

    settings = attribution.choose(config, os.environ, mode=mode, seed=seed)
    good = attribution.attribute(files, out, settings, as_json=as_json)
    sys.exit(0 if good else 1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for all that the demo makes.")] = Path(
        "demo-out"
    ),
) -> None:
    """Send a synthetic film through a node and a small PACS on this machine; show what returns."""
    from dicom_node.admin import demonstration

    demonstration.run(out)


@app.command()
def render(
    objects: Annotated[list[Path], typer.Argument(help="Results as DICOM files.")],
    out: Annotated[Path, typer.Option(help="Folder for STEM.png, .txt or .html.")] = Path(),
    film: Annotated[
        Path | None, typer.Option(help="The film; maps and outlines are drawn over it.")
    ] = None,
    html: Annotated[bool, typer.Option("--html", help="Reports as HTML, not text.")] = False,
) -> None:
    """Show any result: images, maps and outlines as PNG, reports as text or HTML."""
    from dicom_node.admin import rendering

    for written in rendering.render(objects, out, film, html=html):
        typer.echo(str(written))


@app.command()
def gallery(
    out: Annotated[Path, typer.Option(help="The picture, as PNG.")] = Path("gallery.png"),
    model: Annotated[str, typer.Option(help='"embedded" or a folder.')] = "embedded",
    seed: Annotated[int, typer.Option(help="Of the first film; the others have the next.")] = 1,
) -> None:
    """Draw films of no patient, induce a finding in each zone, and show what is made of them."""
    from dicom_node.admin import gallery as drawing

    drawing.write(out, model, seed)
    typer.echo(str(out))


@app.command()
def induce(
    image: Annotated[Path, typer.Argument(help="DICOM, PNG or JPEG.")],
    prompt: Annotated[str, typer.Option(help='Such as "right lower lobe opacity".')],
    out: Annotated[Path, typer.Option(help="Folder for what is made.")],
    mask: Annotated[Path | None, typer.Option(help="PNG: white is where it may change.")] = None,
    region: Annotated[
        str | None, typer.Option(help="x0,y0,x1,y1 in pixels of the film: instead of a mask.")
    ] = None,
    model: Annotated[str, typer.Option(help="A model folder, or embedded.")] = "embedded",
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    as_json: AsObject = False,
) -> None:
    """Induce a finding in a film by prompt: for research and teaching, marked as synthetic."""
    from dicom_node.admin import inducing

    wanted = inducing.Wanted(prompt=prompt, mask=mask, region=region, model=model, seed=seed)
    inducing.induce(image, out, wanted, as_json=as_json)
