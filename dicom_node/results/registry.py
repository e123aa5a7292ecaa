"""The result objects by name, how each is made, and its Part 10 bytes."""

from collections.abc import Callable
from io import BytesIO

from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset

from dicom_node import identity
from dicom_node.errors import EncodingError
from dicom_node.results import conformity, secondary_capture, structured_report
from dicom_node.results.names import KINDS
from dicom_node.results.provenance import ResultContext

__all__ = ["KINDS", "ResultContext", "build", "encode"]

_BUILDERS: dict[str, Callable[[ResultContext], Dataset]] = {
    secondary_capture.SERIES.kind: secondary_capture.build,
    structured_report.SERIES.kind: structured_report.build,
}


def build(kind: str, context: ResultContext) -> Dataset:
    """The result object of this kind; the same context gives the same object.

    Raises:
        InputError: the source cannot be referred to.
        KeyError: there is no such kind; `KINDS` has all.
    """
    return _BUILDERS[kind](context)


def encode(dataset: Dataset) -> bytes:
    """A Part 10 file in Explicit VR Little Endian, checked.

    Raises:
        EncodingError: the object is not conformant, and how; or cannot be encoded.
    """
    if faults := conformity.check(dataset):
        raise EncodingError(f"The result object is not conformant: {'; '.join(faults)}")
    buffer = BytesIO()
    whole = Dataset(dataset)
    whole.file_meta = _file_meta(dataset)
    try:
        whole.save_as(buffer, enforce_file_format=True)
    except (ValueError, TypeError, AttributeError, UnicodeError, OverflowError) as error:
        raise EncodingError("The result object cannot be encoded.") from error
    return buffer.getvalue()


def _file_meta(ds: Dataset) -> FileMetaDataset:
    """File Meta Information (PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid.UID(identity.IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = identity.IMPLEMENTATION_VERSION_NAME
    return meta
