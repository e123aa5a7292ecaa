"""What an image among the results was derived from, and what compression it inherits."""

from pydicom import Dataset, Sequence, uid
from pydicom.sr.codedict import codes as standard

from dicom_node import attributes
from dicom_node.radiograph import SourceHeader
from dicom_node.results import carried, codes, provenance, wording
from dicom_node.results.provenance import ResultContext

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


def put(ds: Dataset, context: ResultContext, said: str) -> None:
    """What was derived from which image, and how (PS3.3 C.7.6.1.1.3, C.12.4; CID 7203)."""
    ds.DerivationDescription = f"{said} {wording.model_line(context.model)}"[:1024]
    ds.DerivationCodeSequence = Sequence(
        [codes.item(standard.DCM.PixelByPixelSubtraction), codes.item(codes.SYNTHESIS)]
    )
    reference = provenance.source_reference(context)
    reference.PurposeOfReferenceCodeSequence = Sequence(  # CID 7202
        [codes.item(standard.DCM.SourceImageForImageProcessingOperation)]
    )
    ds.SourceImageSequence = Sequence([reference])
    _put_compression(ds, context.header)


def _put_compression(ds: Dataset, header: SourceHeader) -> None:
    """Once lossy, always lossy (PS3.3 C.7.6.1.1.5); "00" where nothing says that it ever was."""
    stated = attributes.code(header.dataset, "LossyImageCompression")
    if stated == "01" or header.transfer_syntax_uid in _LOSSY_METHODS:
        ds.LossyImageCompression = "01"
        _put_ratios(ds, header)
    elif stated == "00" or header.transfer_syntax_uid not in _MAYBE_LOSSY_METHODS:
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
