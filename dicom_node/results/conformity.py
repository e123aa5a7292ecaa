"""The self-check of a result object before it is kept: what a PACS could refuse it for."""

import re
from collections.abc import Iterator

from pydicom import DataElement, Dataset, config, uid
from pydicom.datadict import keyword_for_tag
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName, validate_value

from dicom_node.results import carried

# PS3.3 C.7.1.1, C.7.2.1, C.7.3.1, C.7.5.1, C.12.1: Type 1 must have a value, Type 2 be present.
_COMMON_1 = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "SpecificCharacterSet",
    "SyntheticData",
    "ContentQualification",
    "ContributingEquipmentSequence",
)
_COMMON_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "SeriesNumber",
    "InstanceNumber",
    "Manufacturer",
)
_IMAGE = (  # C.7.6.1, C.7.6.3
    "ImageType",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "SourceImageSequence",
)
_STORED_BITS = ("BitsStored", "HighBit", "PixelRepresentation", "PixelData")
_FRAMES = (  # C.7.6.16, C.7.6.17
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "DimensionOrganizationSequence",
    "DimensionIndexSequence",
    "ContentLabel",
    "LossyImageCompression",
)
_DOCUMENT = (  # C.17.2, C.17.3
    "InstanceNumber",
    "ContentDate",
    "ContentTime",
    "ValueType",
    "ConceptNameCodeSequence",
    "ContinuityOfContent",
    "ContentSequence",
    "CurrentRequestedProcedureEvidenceSequence",
)
_REPORT = (*_DOCUMENT, "CompletionFlag", "VerificationFlag")
_TYPE_1: dict[str, tuple[str, ...]] = {
    uid.SecondaryCaptureImageStorage: (
        *_IMAGE,
        *_STORED_BITS,
        "ConversionType",  # C.8.6.1
        "BurnedInAnnotation",
    ),
    uid.ComprehensiveSRStorage: _REPORT,
    uid.BasicTextSRStorage: _REPORT,
    uid.KeyObjectSelectionDocumentStorage: _DOCUMENT,
    uid.GrayscaleSoftcopyPresentationStateStorage: (
        "InstanceNumber",  # C.11.10, C.11.11, C.10.4, C.11.6
        "ContentLabel",
        "PresentationCreationDate",
        "PresentationCreationTime",
        "ReferencedSeriesSequence",
        "DisplayedAreaSelectionSequence",
        "PresentationLUTShape",
        "GraphicLayerSequence",
    ),
    uid.SegmentationStorage: (
        *_IMAGE,
        *_STORED_BITS,
        *_FRAMES,
        "SegmentationType",  # C.8.20.2
        "SegmentSequence",
    ),
    uid.ParametricMapStorage: (
        *_IMAGE,
        *_FRAMES,
        "FloatPixelData",  # C.7.6.24
        "FrameOfReferenceUID",  # C.7.4.1
        "PresentationLUTShape",  # C.8.23.1
    ),
}
_TYPE_2: dict[str, tuple[str, ...]] = {
    uid.SecondaryCaptureImageStorage: ("PatientOrientation",),
    uid.ComprehensiveSRStorage: (
        "ReferencedPerformedProcedureStepSequence",
        "PerformedProcedureCodeSequence",
    ),
    uid.BasicTextSRStorage: (
        "ReferencedPerformedProcedureStepSequence",
        "PerformedProcedureCodeSequence",
    ),
    uid.KeyObjectSelectionDocumentStorage: ("ReferencedPerformedProcedureStepSequence",),
    uid.GrayscaleSoftcopyPresentationStateStorage: ("ContentCreatorName",),
    uid.SegmentationStorage: ("ContentDescription", "ContentCreatorName"),
    uid.ParametricMapStorage: ("ContentDescription", "ContentCreatorName"),
}
_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")
_OWN_UIDS = ("SOPInstanceUID", "SeriesInstanceUID")


def check(dataset: Dataset) -> tuple[str, ...]:
    """What is wrong with a result object; empty where nothing is. No patient data is named."""
    sop_class = str(dataset.get("SOPClassUID", ""))
    if sop_class not in _TYPE_1:
        return (f"SOP class {sop_class or '(none)'} is not one this node writes",)
    faults = [*_missing(dataset, sop_class), *_invalid(dataset)]
    faults += [f"{keyword} is no UID" for keyword in _OWN_UIDS if not _is_own_uid(dataset, keyword)]
    faults += [*_pixel_faults(dataset), *_graphic_faults(dataset)]
    return tuple(faults)


def _missing(ds: Dataset, sop_class: str) -> Iterator[str]:
    for keyword in (*_COMMON_1, *_TYPE_1[sop_class]):
        if keyword not in ds or ds[keyword].is_empty:
            yield f"{keyword} (Type 1) has no value"
    for keyword in (*_COMMON_2, *_TYPE_2[sop_class]):
        if keyword not in ds:
            yield f"{keyword} (Type 2) is absent"


def _invalid(ds: Dataset) -> Iterator[str]:
    """Values, at any depth, that break their VR (PS3.5 6.2)."""
    for element in ds:
        keyword = keyword_for_tag(element.tag) or str(element.tag)
        if element.VR == "SQ":
            for item in element.value:
                yield from (f"{keyword} > {fault}" for fault in _invalid(item))
        elif fault := _value_fault(element, keyword):
            yield f"{keyword}: {fault}"


def _value_fault(element: DataElement, keyword: str) -> str:
    """Why the value is invalid, without the value. A length that the source broke is not ours."""
    if element.is_empty or keyword in carried.VERBATIM:
        return ""
    values = element.value if isinstance(element.value, MultiValue | list) else [element.value]
    for value in values:
        if element.VR == "UI":
            valid = _UID.fullmatch(str(value)) is not None
        else:
            valid = _is_valid(element.VR, value)
        if not valid:
            return f"not a valid {element.VR}"
    return ""


def _is_valid(vr: str, value: object) -> bool:
    plain = str(value) if vr in ("DS", "IS") or isinstance(value, PersonName) else value
    try:
        validate_value(vr, plain, config.RAISE)
    except (ValueError, TypeError):
        return False
    return True


def _is_own_uid(ds: Dataset, keyword: str) -> bool:
    return uid.UID(str(ds.get(keyword, ""))).is_valid


def _pixel_faults(ds: Dataset) -> Iterator[str]:
    """Uncompressed pixels are as many as Rows, Columns and frames say (PS3.5 8.1.1, A.4)."""
    keyword = "FloatPixelData" if "FloatPixelData" in ds else "PixelData"
    if keyword not in ds or _is_compressed(ds):
        return
    try:
        frames = int(ds.get("NumberOfFrames") or 1)
        bits = ds.Rows * ds.Columns * ds.SamplesPerPixel * frames * ds.BitsAllocated
        found = len(ds[keyword].value)
    except (AttributeError, TypeError):
        return  # already said to be missing
    expected = -(-bits // 8)
    if found != expected + expected % 2:
        yield f"{keyword} has {found} bytes, not {expected + expected % 2}"


def _is_compressed(ds: Dataset) -> bool:
    syntax = getattr(ds, "file_meta", Dataset()).get("TransferSyntaxUID")
    return bool(syntax) and uid.UID(syntax).is_compressed


def _graphic_faults(ds: Dataset) -> Iterator[str]:
    """Every outline is a closed POLYLINE (PS3.3 C.18.6.1.1) that fits its length field."""
    for item in ds.get("ContentSequence", ()):
        if item.get("ValueType") == "SCOORD":
            data = list(item.get("GraphicData") or ())
            if item.get("GraphicType") != "POLYLINE" or len(data) < 8 or len(data) % 2:
                yield "SCOORD is no POLYLINE of at least three points and its closing one"
            elif data[:2] != data[-2:]:
                yield "SCOORD POLYLINE is not closed"
            if 4 * len(data) > 65_534:
                yield "GraphicData is longer than an explicit VR FL can be"
        yield from _graphic_faults(item)
