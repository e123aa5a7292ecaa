"""The picture of a result as a Secondary Capture Image (PS3.3 A.8.1), which every viewer shows."""

from pydicom import Dataset, uid

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


def capture(
    context: ResultContext, series: Series, pixels: Pixels, said: str, orientation: str = ""
) -> Dataset:
    """A Secondary Capture of any picture of this analysis; `said` is how it was derived.

    `orientation` is the picture's Patient Orientation; "" where panels and words have none.

    Raises:
        InputError: the source cannot be referred to.
    """
    ds = provenance.new_object(context, series)
    _put_image(ds, context, orientation)
    derivation.put(ds, context, said)
    _put_pixels(ds, pixels)
    return ds


def _put_image(ds: Dataset, context: ResultContext, orientation: str) -> None:
    """General Image (PS3.3 C.7.6.1) and SC Equipment (C.8.6.1)."""
    ds.ConversionType = "WSD"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    provenance.put_content_time(ds, context)
    provenance.put_general_series(ds)
    carried.put(ds, "PatientOrientation", orientation)  # Type 2C
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
