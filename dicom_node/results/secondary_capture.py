"""The picture of a result as a Secondary Capture Image (PS3.3 A.8.1), which every viewer shows."""

from pydicom import Dataset, uid

from dicom_node import orientation
from dicom_node.results import carried, derivation, picture, provenance, wording
from dicom_node.results.colour import Pixels
from dicom_node.results.provenance import ResultContext, Series

SERIES = Series(
    kind="secondary_capture",
    sop_class_uid=uid.SecondaryCaptureImageStorage,
    # Neither CR nor DX, and last in the study: no hanging protocol takes it for a film.
    modality="OT",
    title="attribution",
    template="1",
)


def build(context: ResultContext) -> Dataset:
    """Film, counterpart and attribution in one picture, in the source's study.

    Raises:
        InputError: the source cannot be referred to.
    """
    said = (
        "Film, its normal counterpart synthesised by latent diffusion, and their difference in "
        "colour over the film."
    )
    pixels = picture.panels(context.radiograph, context.attribution)
    return capture(context, SERIES, pixels, said)


def alone(context: ResultContext, series: Series, pixels: Pixels, said: str) -> Dataset:
    """A Secondary Capture of one upright picture of the film's anatomy, with a banner below it.

    It has the film's orientation and calibrated spacing, as far as the film states them.

    Raises:
        InputError: the source cannot be referred to.
    """
    ds = capture(context, series, picture.with_banner(pixels), said)
    directions = orientation.upright(context.header.dataset)
    carried.put(ds, "PatientOrientation", "\\".join(directions))
    film, scale = context.radiograph, picture.layout(context.radiograph).scale
    if film.spacing_mm is not None and film.spacing_plane == "calibrated":
        sides = zip(film.spacing_mm, scale, strict=True)
        ds.PixelSpacing = [wording.number(side / factor) for side, factor in sides]
    return ds


def capture(context: ResultContext, series: Series, pixels: Pixels, said: str) -> Dataset:
    """A Secondary Capture of any picture of this analysis; `said` is how it was derived.

    Raises:
        InputError: the source cannot be referred to.
    """
    ds = provenance.new_object(context, series)
    _put_image(ds, context)
    derivation.put(ds, context, said)
    _put_pixels(ds, pixels)
    return ds


def _put_image(ds: Dataset, context: ResultContext) -> None:
    """General Image (PS3.3 C.7.6.1) and SC Equipment (C.8.6.1)."""
    ds.ConversionType = "WSD"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    provenance.put_content_time(ds, context)
    provenance.put_general_series(ds)
    carried.put(ds, "PatientOrientation", "")  # Type 2C; panels and words have none
    ds.BurnedInAnnotation = "YES"
    ds.ImageComments = f"{wording.RESEARCH_WORDS}. Status {context.attribution.status.value}."


def _put_pixels(ds: Dataset, pixels: Pixels) -> None:
    """Image Pixel (PS3.3 C.7.6.3): 8-bit RGB by pixel."""
    ds.SamplesPerPixel = 3
    ds.PhotometricInterpretation = "RGB"
    ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelRepresentation = 0
    raw = pixels.tobytes()
    ds.add_new("PixelData", "OB", raw + bytes(len(raw) % 2))
