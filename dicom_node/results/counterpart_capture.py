"""The normal counterpart alone as a Secondary Capture Image (PS3.3 A.8.1), marked as synthetic."""

from pydicom import Dataset, uid

from dicom_node.results import picture, secondary_capture
from dicom_node.results.provenance import ResultContext, Series

SERIES = Series(
    kind="counterpart_capture",
    sop_class_uid=uid.SecondaryCaptureImageStorage,
    modality="OT",
    title="normal counterpart",
    template="1",
)


def build(context: ResultContext) -> Dataset:
    """The counterpart, upright, in the film's own grey scale, with a banner below it.

    Raises:
        InputError: the source cannot be referred to.
    """
    shown = picture.counterpart(context.radiograph, context.attribution)
    said = "The film's normal counterpart, synthesised by latent diffusion."
    return secondary_capture.alone(context, SERIES, shown, said)
