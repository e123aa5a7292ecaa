"""The picture of a result as a Secondary Capture Image (PS3.3 A.8.1), which every viewer shows."""

from pydicom import Dataset, Sequence, uid
from pydicom.sr.codedict import codes as standard

from dicom_node import attributes
from dicom_node.radiograph import SourceHeader
from dicom_node.results import carried, codes, picture, provenance, wording
from dicom_node.results.colour import Pixels
from dicom_node.results.provenance import ResultContext, Series

SERIES = Series(
    kind="secondary_capture",
    sop_class_uid=uid.SecondaryCaptureImageStorage,
    # Neither CR nor DX, and last in the study: no hanging protocol takes it for a film.
    modality="OT",
    number=9001,
    description="VALD attribution, AI-generated, research use only",
    template="1",
)

_LOSSY_METHODS: dict[str, str] = {
    uid.JPEGBaseline8Bit: "ISO_10918_1",
    uid.JPEGExtended12Bit: "ISO_10918_1",
    uid.JPEGLSNearLossless: "ISO_14495_1",
}
"""Syntaxes that are never lossless, and their method (PS3.3 C.7.6.1.1.5.1)."""
_MAYBE_LOSSY_METHODS: dict[str, str] = {
    uid.JPEG2000: "ISO_15444_1",
    uid.HTJ2K: "ISO_15444_15",
}


def build(context: ResultContext) -> Dataset:
    """Film, counterpart and attribution in one picture, in the source's study.

    Raises:
        InputError: the source cannot be referred to.
    """
    ds = provenance.new_object(context, SERIES)
    _put_image(ds, context)
    _put_derivation(ds, context)
    _put_compression(ds, context.header)
    _put_pixels(ds, picture.panels(context.radiograph, context.attribution))
    return ds


def _put_image(ds: Dataset, context: ResultContext) -> None:
    """General Image (PS3.3 C.7.6.1) and SC Equipment (C.8.6.1)."""
    ds.ConversionType = "WSD"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    provenance.put_content_time(ds, context)
    # The same for every film of the series; a chest has no side, so no Laterality (C.7.3.1).
    ds.BodyPartExamined = "CHEST"
    carried.put(ds, "PatientOrientation", "")  # Type 2C: three panels and words have no direction
    ds.BurnedInAnnotation = "YES"
    ds.ImageComments = f"{wording.RESEARCH_WORDS}. Status {context.attribution.status.value}."


def _put_derivation(ds: Dataset, context: ResultContext) -> None:
    """What was derived from which image, and how (PS3.3 C.7.6.1.1.3, C.12.4; CID 7203)."""
    ds.DerivationDescription = (
        "Film, its normal counterpart synthesised by latent diffusion, and their difference in "
        f"colour over the film. {wording.model_line(context.attribution)}"
    )[:1024]
    ds.DerivationCodeSequence = Sequence(
        [codes.item(standard.DCM.PixelByPixelSubtraction), codes.item(codes.SYNTHESIS)]
    )
    reference = provenance.source_reference(context)
    reference.PurposeOfReferenceCodeSequence = Sequence(  # CID 7202
        [codes.item(standard.DCM.SourceImageForImageProcessingOperation)]
    )
    ds.SourceImageSequence = Sequence([reference])


def _put_compression(ds: Dataset, header: SourceHeader) -> None:
    """Once lossy, always lossy (PS3.3 C.7.6.1.1.5); where the source is silent, so is this."""
    stated = attributes.code(header.dataset, "LossyImageCompression")
    if stated == "01" or header.transfer_syntax_uid in _LOSSY_METHODS:
        ds.LossyImageCompression = "01"
        _put_ratios(ds, header)
    elif stated == "00":
        ds.LossyImageCompression = "00"


def _put_ratios(ds: Dataset, header: SourceHeader) -> None:
    """Ratios and methods of all compressions so far, as many of one as of the other."""
    ratios = attributes.numbers(header.dataset, "LossyImageCompressionRatio")
    methods = attributes.codes(header.dataset, "LossyImageCompressionMethod")
    if not all(ratio > 0 for ratio in ratios):
        ratios = ()
    if not all(carried.is_valid(method, "CS") for method in methods):
        methods = ()
    known = {**_LOSSY_METHODS, **_MAYBE_LOSSY_METHODS}
    method = known.get(header.transfer_syntax_uid)
    if not methods and method and len(ratios) <= 1:
        methods = (method,)
    if ratios:
        ds.LossyImageCompressionRatio = [wording.number(ratio) for ratio in ratios]
    if methods and len(ratios) in (0, len(methods)):
        ds.LossyImageCompressionMethod = list(methods)


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
