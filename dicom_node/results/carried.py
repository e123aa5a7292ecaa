"""What a result takes over from its source: patient and study, as text that is valid in UTF-8.

A value that breaks its VR is repaired where its meaning is certain, else left out; but what a PACS
files by (_VERBATIM) is carried whatever its length, since a changed one would name someone else.
"""

import re

from pydicom import DataElement, Dataset, Sequence, config
from pydicom.charset import decode_bytes
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.valuerep import PN_DELIMS, PersonName, validate_value

from dicom_node import attributes
from dicom_node.errors import InputError

# Type 2 of Patient (PS3.3 C.7.1.1) and General Study (C.7.2.1): present, empty where unknown.
_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
# Type 3 of the same and of Patient Study (C.7.2.2): present only where the source has a value.
_TYPE_3 = (
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "PatientBirthTime",
    "PatientComments",
    "EthnicGroup",
    "PatientIdentityRemoved",
    "LongitudinalTemporalInformationModified",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyDescription",
    "TimezoneOffsetFromUTC",
)
_SEQUENCES: dict[str, tuple[str, ...]] = {
    "IssuerOfPatientIDQualifiersSequence": (
        "UniversalEntityID",
        "UniversalEntityIDType",
    ),
    "IssuerOfAccessionNumberSequence": (
        "LocalNamespaceEntityID",
        "UniversalEntityID",
        "UniversalEntityIDType",
    ),
    "DeidentificationMethodCodeSequence": (
        "CodeValue",
        "CodingSchemeDesignator",
        "CodeMeaning",
    ),
}
VERBATIM = frozenset(
    {
        "PatientName",
        "PatientID",
        "IssuerOfPatientID",
        "AccessionNumber",
        "StudyID",
        "ReferringPhysicianName",
    }
)
"""Carried character for character, also where too long for its VR."""

_FILED_BY = ("PatientID", "IssuerOfPatientID", "AccessionNumber")
_UNDECODABLE = "\ufffd"
_REFERENCES = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")  # leading zeros are invalid but name a study
_LO_LENGTH = 64  # characters (PS3.5 6.2)
# Switches of character set that a decoder leaves (ISO 2022; PS3.5 6.1.2.5), as of ISO 2022 IR 58.
_ESCAPES = re.compile(r"\x1b[\x20-\x2f]+[\x30-\x7e]")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_LAYOUT = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")  # LT, ST and UT may have lines (PS3.5 6.2)
_TEXTS = frozenset({"LT", "ST", "UT"})
_SEXES = frozenset({"M", "F", "O"})
_OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")  # -1200 to +1400 (PS3.3 C.12.1.1.8)


def demand_references(source: Dataset) -> None:
    """The source can be referred to.

    Raises:
        InputError: it has no study, series or instance UID, or the patient's ID cannot be read, so
            that no result could be filed.
    """
    for keyword in _REFERENCES:
        if not _UID.fullmatch(text(source, keyword)):
            raise InputError(f"The film has no valid {keyword}: a result could not be filed.")
    for keyword in _FILED_BY:
        if _UNDECODABLE in text(source, keyword):
            raise InputError(
                f"{keyword} cannot be read in the character set that the film states: "
                "a result could be filed under someone else."
            )


def put_patient_and_study(target: Dataset, source: Dataset) -> None:
    """`target` has the source's Patient, General Study and Patient Study attributes, in UTF-8."""
    target.SpecificCharacterSet = "ISO_IR 192"
    target.StudyInstanceUID = text(source, "StudyInstanceUID")
    for keyword in _TYPE_2:
        put(target, keyword, valid_text(source, keyword))
    for keyword in _TYPE_3:
        if value := valid_text(source, keyword):
            put(target, keyword, value)
    for keyword, inner in _SEQUENCES.items():
        if items := _items(source, keyword, inner):
            setattr(target, keyword, Sequence(items))
    _put_deidentification(target, source)


def _put_deidentification(target: Dataset, source: Dataset) -> None:
    """How identity was removed: any number of LO, cut to what one holds (PS3.3 C.7.1.1).

    Without method and code that it was removed cannot be said (both are Type 1C then).
    """
    stated = _repaired(text(source, "DeidentificationMethod"), "LO").split("\\")
    if methods := [cut for value in stated if (cut := value.strip()[:_LO_LENGTH].strip())]:
        put(target, "DeidentificationMethod", methods)
    elif "DeidentificationMethodCodeSequence" not in target:
        target.pop("PatientIdentityRemoved", None)


def put(target: Dataset, keyword: str, value: str | list[str]) -> None:
    """Sets an attribute without pydicom's opinion on its length; conformity.py has its own."""
    target[keyword] = DataElement(
        keyword, dictionary_VR(keyword), value, validation_mode=config.IGNORE
    )


def valid_text(source: Dataset, keyword: str) -> str:
    """The attribute's one value as text, repaired; "" where absent or beyond repair."""
    vr = dictionary_VR(keyword)
    value = _repaired(text(source, keyword), vr)
    if keyword == "PatientSex" and value not in _SEXES:
        return ""
    if keyword == "TimezoneOffsetFromUTC" and not _OFFSET.fullmatch(value):
        return ""
    return value if keyword in VERBATIM or is_valid(value, vr) else ""


def text(source: Dataset, keyword: str) -> str:
    """The attribute's value as it reads, several joined by backslashes; "" where unreadable."""
    try:
        value = source.get(keyword)
        if isinstance(value, MultiValue):
            return _joined(value)
        return "" if value is None else str(value).strip(" \0")
    except attributes.UNREADABLE:
        return ""


def _joined(values: MultiValue) -> str:  # type: ignore[type-arg]  # the items' type varies
    """pydicom parts a name at each byte 5C, which in GB18030 and GBK may be half a character
    (PS3.5 6.1.2.3): join the bytes and decode the whole."""
    names = [value for value in values if isinstance(value, PersonName)]
    if names and len(names) == len(values):
        raw = b"\\".join(name.original_string or b"" for name in names)
        return str(decode_bytes(raw, list(names[0].encodings or ()), PN_DELIMS)).strip(" \0")
    return "\\".join(str(value) for value in values)


def _repaired(value: str, vr: str) -> str:
    value = _ESCAPES.sub("", value)
    value = (_LAYOUT if vr in _TEXTS else _CONTROLS).sub("", value).strip()
    match vr:
        case "DA":  # the form before 1993, still in archives: yyyy.mm.dd (PS3.5 6.2, note on DA)
            return value.replace(".", "")
        case "TM":  # likewise hh:mm:ss
            return value.replace(":", "")
        case "CS":
            return value.upper()
    return value


def is_valid(value: str, vr: str) -> bool:
    """Whether one value keeps to its representation (PS3.5 6.2)."""
    if "\\" in value and vr not in _TEXTS:
        return False  # every attribute judged here has one value
    try:
        validate_value(vr, value, config.RAISE)
    except ValueError:
        return False
    return True


def _items(source: Dataset, keyword: str, inner: tuple[str, ...]) -> list[Dataset]:
    """Copies of a sequence's items with their `inner` attributes; items with none are left out."""
    try:
        found = list(source.get(keyword) or ())
    except attributes.UNREADABLE:
        return []
    return [copy for item in found if len(copy := _item(item, inner))]


def _item(source: Dataset, inner: tuple[str, ...]) -> Dataset:
    copy = Dataset()
    for keyword in inner:
        if value := valid_text(source, keyword):
            put(copy, keyword, value)
    return copy
