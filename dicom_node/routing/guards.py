"""What a header says against analysing its film: one guard a reason, each may be waived by a rule.

A guard refuses only what the header states. Where it states nothing, or a word that only its site
knows, the film is let in, and what the picture shows decides later.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date
from types import MappingProxyType

from pydicom import Dataset

from dicom_node import attributes, identity

_SYNTHESIZING_EQUIPMENT = "109100"
Guard = Callable[[Dataset], str]
"""Why the film of this header is not to be analysed, or ""."""

_ADULT_YEARS = 18  # the model was trained on adults' films
_DAYS_A_YEAR = 365.25
_DAYS = {"D": 1.0, "W": 7.0, "M": _DAYS_A_YEAR / 12, "Y": _DAYS_A_YEAR}
_AGE = re.compile(r"(\d{3})([DWMY])")  # PS3.5 6.2, VR AS

_CHEST_WORDS = frozenset({"CHEST", "THORAX", "LUNG", "LUNGS"})
# PS3.16 annex L and what devices write instead. A rib film is exposed for bone and often oblique.
_OTHER_WORDS = frozenset(
    """
    ABDOMEN ABDOMENPELVIS ANKLE ARM BACK BREAST CALCANEUS CERVICALSPINE CLAVICLE COCCYX CSPINE EAR
    ELBOW EXTREMITY EYE FACE FACIALBONES FEMUR FIBULA FINGER FOOT FOREARM HAND HEAD HEEL HIP
    HUMERUS JAW KIDNEY KNEE LEG LOWERLEG LOWERLIMB LSPINE LUMBARSPINE MANDIBLE MAXILLA NASALBONE
    NECK ORBIT PATELLA PELVIS RADIUS RIB RIBCAGE RIBS SACRUM SCAPULA SHOULDER SINUS SKULL SPINE
    SSPINE STERNUM TESTICLE THIGH THORACICSPINE THUMB TIBIA TOE TSPINE ULNA UPPERARM UPPERLIMB
    WRIST ZYGOMA
    """.split()  # noqa: SIM905 - as a list it fills a page
)
# PS3.16 CID 4031: SNOMED CT, then the SNOMED-RT identifiers that older devices write.
_CHEST_CODES = frozenset(
    {
        *("816094009", "51185008", "39607008", "72410000", "86598002", "80891009"),
        *("T-D3000", "T-28000", "T-D3300"),
    }
)
_OTHER_CODES = frozenset(
    {
        *("818981001", "113345001", "818982008", "70258002", "40983000", "76752008"),
        *("80144004", "122494005", "51299004", "64688005", "16953009", "66019005", "91397008"),
        *("71341001", "87342007", "7569003", "56459004", "14975008", "85562004", "69536005"),
        *("29836001", "24136001", "85050009", "661005", "72696002", "30021000", "61685007"),
        *("122496007", "91609006", "70925003", "45048000", "64234005", "816092008", "12921003"),
        *("113197003", "54735007", "79601000", "16982005", "89546000", "421060004", "56873002"),
        *("68367000", "122495006", "76505004", "29707007", "53120007", "74670003"),
        *("T-D4000", "T-D1100", "T-D6000", "T-D1600", "T-D8700", "T-D9700", "T-D9200"),
        *("T-15710", "T-15750", "T-15460", "T-15430", "T-D2220", "T-12280"),
    }
)

# PS3.3 C.8.11.5.1.1: RL and LL are lateral, RLO and LLO oblique. LLD and RLD are the patient lying
# on a side, a frontal view with a horizontal beam.
_SIDE_VIEWS = frozenset({"LL", "RL", "LATERAL", "LAT", "XTABLE LATERAL"})
_OBLIQUE_VIEWS = frozenset({"RLO", "LLO", "RAO", "LAO", "RPO", "LPO", "OBLIQUE"})
# PS3.16 CID 4010, and SNOMED-RT as above.
_SIDE_CODES = frozenset(
    {
        *("399067008", "399173006", "399198007", "399352003", "399260004", "30730003"),
        *("R-10236", "R-10232", "R-10228"),
    }
)
_OBLIQUE_CODES = frozenset(
    {
        *("399135007", "399356000", "399006002", "399038007", "399182000", "399184004"),
        *("399236003", "260427002", "260426006", "399059000", "399312000", "399160007"),
    }
)
# PS3.6 table A-1: DX, Mammography and Intra-Oral X-Ray Image Storage - For Processing.
_FOR_PROCESSING_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1.1.1",
        "1.2.840.10008.5.1.4.1.1.1.2.1",
        "1.2.840.10008.5.1.4.1.1.1.3.1",
    }
)


def first_reason(header: Dataset, waived: Collection[str] = ()) -> str:
    """The first reason of a guard that is not waived, with the name to waive it by, or ""."""
    asked = ((name, guard(header)) for name, guard in GUARDS.items() if name not in waived)
    return next((f"{reason} (guard {name})" for name, reason in asked if reason), "")


def may_be_told_of(header: Dataset) -> bool:
    """Whether a note may say why the film is not analysed: never of what is itself a result.

    Results come back where a PACS routes all it stores, and so would notes of them, for ever.
    """
    return not synthetic(header)


def synthetic(header: Dataset) -> str:
    """Generated pictures, above all our own results coming back (PS3.3 C.12.1, SyntheticData)."""
    if any(_is_ours(item) for item in _items(header, "ContributingEquipmentSequence")):
        return "it is a result of this node or of another one like it"
    if any(_is_synthesizer(item) for item in _items(header, "ContributingEquipmentSequence")):
        return "it says that it was synthesized: it is no picture of a patient"
    secondary = attributes.codes(header, "ImageType")[:2] == ("DERIVED", "SECONDARY")
    if secondary and _is_ours(header):
        return "it is a result of this node or of another one like it"
    if attributes.code(header, "SyntheticData") == "YES":
        return "SyntheticData is YES: it is no picture of a patient"
    return ""


def for_processing(header: Dataset) -> str:
    """The raw twin of a film that comes For Presentation too (PS3.3 C.8.11.8.1.1)."""
    intent = attributes.code(header, "PresentationIntentType")
    if intent == "FOR PROCESSING" or _text(header, "SOPClassUID") in _FOR_PROCESSING_CLASSES:
        return "it is FOR PROCESSING: its twin FOR PRESENTATION is the one to analyse"
    return ""


def body_part(header: Dataset) -> str:
    """Another part of the body than the chest, by BodyPartExamined or AnatomicRegionSequence."""
    if states_chest(header):
        return ""
    word = attributes.code(header, "BodyPartExamined")
    if _squeezed(word) in _OTHER_WORDS:
        return f"BodyPartExamined is {word}, not the chest"
    if any(map(_is_other, _items(header, "AnatomicRegionSequence"))):
        return "AnatomicRegionSequence names another part of the body than the chest"
    return ""


def states_chest(header: Dataset) -> bool:
    """Whether the header itself says chest: what looks like none is withheld then, not refused."""
    word = _squeezed(attributes.code(header, "BodyPartExamined"))
    return word in _CHEST_WORDS or any(map(_is_chest, _items(header, "AnatomicRegionSequence")))


def lateral(header: Dataset) -> str:
    """A view from the side or oblique, by ViewPosition or ViewCodeSequence."""
    view = attributes.code(header, "ViewPosition")
    views = {_text(item, "CodeValue") for item in _items(header, "ViewCodeSequence")}
    if view in _SIDE_VIEWS or views & _SIDE_CODES:
        return "it is a lateral view; frontal views are analysed"
    if view in _OBLIQUE_VIEWS or views & _OBLIQUE_CODES:
        return "it is an oblique view; frontal views are analysed"
    return ""


def paediatric(header: Dataset) -> str:
    """A patient known to be under 18; an age that is not valid counts as unknown."""
    age = _stated_age_years(header)
    if age is None:
        age = _age_by_dates_years(header)
    if age is not None and age < _ADULT_YEARS:
        return f"the patient is under {_ADULT_YEARS}; films of adults are analysed"
    return ""


GUARDS: Mapping[str, Guard] = MappingProxyType(
    {
        "synthetic": synthetic,
        "for_processing": for_processing,
        "body_part": body_part,
        "lateral": lateral,
        "paediatric": paediatric,
    }
)
"""Every guard by the name a rule waives it by, in the order they are asked."""


def _stated_age_years(header: Dataset) -> float | None:
    match = _AGE.fullmatch(_text(header, "PatientAge").upper())
    if match is None:
        return None
    number, unit = match.groups()
    return int(number) * _DAYS[unit] / _DAYS_A_YEAR


def _age_by_dates_years(header: Dataset) -> int | None:
    born, examined = _date(header, "PatientBirthDate"), _date(header, "StudyDate")
    if born is None or examined is None or examined < born:
        return None
    before_birthday = (examined.month, examined.day) < (born.month, born.day)
    return examined.year - born.year - before_birthday


def _date(header: Dataset, keyword: str) -> date | None:
    """The date of a DA value (PS3.5 6.2: YYYYMMDD), or None where it is none."""
    text = _text(header, keyword)
    if not re.fullmatch(r"\d{8}", text):
        return None
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None


def _is_chest(region: Dataset) -> bool:
    return (
        _text(region, "CodeValue") in _CHEST_CODES
        or _squeezed(_text(region, "CodeMeaning")) in _CHEST_WORDS
    )


def _is_other(region: Dataset) -> bool:
    return (
        _text(region, "CodeValue") in _OTHER_CODES
        or _squeezed(_text(region, "CodeMeaning")) in _OTHER_WORDS
    )


def _is_ours(equipment: Dataset) -> bool:
    return (
        _text(equipment, "Manufacturer") == identity.MANUFACTURER
        and _text(equipment, "ManufacturerModelName") == identity.MODEL_NAME
    )


def _is_synthesizer(equipment: Dataset) -> bool:
    """Synthesizing Equipment, whoever's (PS3.16 CID 7005, 109100 DCM)."""
    purposes = _items(equipment, "PurposeOfReferenceCodeSequence")
    return any(_text(code, "CodeValue") == _SYNTHESIZING_EQUIPMENT for code in purposes)


def _items(header: Dataset, keyword: str) -> Iterator[Dataset]:
    try:
        value = header.get(keyword) or ()
        yield from (item for item in value if isinstance(item, Dataset))
    except attributes.UNREADABLE:
        return


def _text(header: Dataset, keyword: str) -> str:
    try:
        return str(header.get(keyword) or "").strip(" \0")
    except attributes.UNREADABLE:
        return ""


def _squeezed(word: str) -> str:
    """Capitals without blanks and dashes: "C-Spine" is CSPINE."""
    return re.sub(r"[\s_-]", "", word).upper()
