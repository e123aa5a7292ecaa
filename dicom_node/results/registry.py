"""The result objects by name, how each is made, and its Part 10 bytes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO

from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset

from dicom_node import identity
from dicom_node.errors import EncodingError
from dicom_node.results import (
    compression,
    conformity,
    counterpart_capture,
    key_object_selection,
    not_analysed,
    overlay_capture,
    parametric_map,
    presentation_state,
    provenance,
    secondary_capture,
    segmentation_map,
    segmentation_regions,
    structured_report,
)
from dicom_node.results.names import KINDS
from dicom_node.results.provenance import ResultContext

__all__ = ["KINDS", "ResultContext", "build", "encode", "encode_checked", "kinds_for"]


_UNWRITABLE = (
    ValueError,
    TypeError,
    AttributeError,
    UnicodeError,
    OverflowError,
    RuntimeError,  # of a codec
)


def _always(_: ResultContext) -> bool:
    return True


def _shown(context: ResultContext) -> bool:
    return not provenance.is_withheld(context)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """How an object is made, and of which analyses."""

    build: Callable[[ResultContext], Dataset]
    applies: Callable[[ResultContext], bool] = _always


_KINDS: dict[str, _Kind] = {
    secondary_capture.SERIES.kind: _Kind(build=secondary_capture.build),
    structured_report.SERIES.kind: _Kind(build=structured_report.build),
    presentation_state.SERIES.kind: _Kind(
        build=presentation_state.build, applies=presentation_state.applies
    ),
    segmentation_regions.SERIES.kind: _Kind(
        build=segmentation_regions.build, applies=segmentation_regions.applies
    ),
    segmentation_map.SERIES.kind: _Kind(
        build=segmentation_map.build, applies=segmentation_map.applies
    ),
    parametric_map.SERIES.kind: _Kind(build=parametric_map.build, applies=parametric_map.applies),
    counterpart_capture.SERIES.kind: _Kind(build=counterpart_capture.build, applies=_shown),
    overlay_capture.SERIES.kind: _Kind(build=overlay_capture.build, applies=_shown),
    key_object_selection.SERIES.kind: _Kind(
        build=key_object_selection.build, applies=key_object_selection.applies
    ),
    not_analysed.SERIES.kind: _Kind(build=not_analysed.build, applies=not_analysed.applies),
}


def kinds_for(context: ResultContext, wanted: Iterable[str] = KINDS) -> tuple[str, ...]:
    """Of the wanted kinds those that this analysis gives, in their own order.

    A withheld result has no picture of its map, a plain radiograph no Parametric Map, a film
    without regions no flag.
    """
    asked = frozenset(wanted)
    return tuple(kind for kind in KINDS if kind in asked and _KINDS[kind].applies(context))


def build(kind: str, context: ResultContext) -> Dataset:
    """The result object of this kind; the same context gives the same object.

    Raises:
        InputError: the source cannot be referred to.
        KeyError: there is no such kind; `KINDS` has all.
    """
    return _KINDS[kind].build(context)


def encode(dataset: Dataset, pictures: str = compression.NONE) -> bytes:
    """A Part 10 file in Explicit VR Little Endian; `pictures` names how they are compressed.

    Raises:
        EncodingError: the object cannot be encoded.
    """
    buffer = BytesIO()
    whole = Dataset(dataset)
    whole.file_meta = _file_meta(dataset)
    try:
        compression.compressed(whole, pictures).save_as(buffer, enforce_file_format=True)
    except _UNWRITABLE as error:
        raise EncodingError("The result object cannot be encoded.") from error
    return buffer.getvalue()


def encode_checked(dataset: Dataset) -> bytes:
    """The same of an object without a fault.

    Raises:
        EncodingError: the object is not conformant, and how; or cannot be encoded.
    """
    if faults := conformity.check(dataset):
        raise EncodingError(f"The result object is not conformant: {'; '.join(faults)}")
    return encode(dataset)


def _file_meta(ds: Dataset) -> FileMetaDataset:
    """File Meta Information (PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid.UID(identity.IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = identity.IMPLEMENTATION_VERSION_NAME
    return meta
