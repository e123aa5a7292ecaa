"""The film with its attribution in colour as a Secondary Capture Image (PS3.3 A.8.1)."""

from pydicom import Dataset, uid

from dicom_node.results import picture, secondary_capture
from dicom_node.results.provenance import ResultContext, Series

SERIES = Series(
    kind="overlay_capture",
    sop_class_uid=uid.SecondaryCaptureImageStorage,
    modality="OT",
    title="attribution over the film",
    template="1",
)


def build(context: ResultContext) -> Dataset:
    """The film, upright, its regions coloured, outlined and numbered, with a banner below it.

    Raises:
        InputError: the source cannot be referred to.
    """
    shown = picture.overlay(context.radiograph, context.attribution)
    said = "The film with its difference from a synthesised normal counterpart in colour."
    return secondary_capture.alone(context, SERIES, shown, said)
