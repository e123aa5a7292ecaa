"""Pictures as files that say of themselves, in their text chunks, that a model made them."""

from pathlib import Path

from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from dicom_node.results import wording
from dicom_node.results.colour import Pixels
from pipeline.training import files


def save(pixels: Pixels, path: Path, said: str) -> None:
    """`path` is a PNG of [rows, cols] or [rows, cols, 3] uint8 that says `said`, and what for.

    Raises:
        FullDiskError: there is no space for it.
    """
    chunks = PngInfo()
    chunks.add_text("Description", said)
    chunks.add_text("Warning", wording.RESEARCH_WORDS)
    with files.writing(path):
        Pillow.fromarray(pixels).save(path, format="PNG", pnginfo=chunks)
