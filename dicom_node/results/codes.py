"""Coded concepts: the standard's where it has one, else private ones, all in one table.

Private codes (designator 99VALD, PS3.16 8.2; described in every object by its Coding Scheme
Identification Sequence, PS3.3 C.12.1.1.2) are never given another meaning once released.
"""

from pydicom import Dataset, Sequence
from pydicom.sr.coding import Code

PRIVATE_SCHEME = "99VALD"
PRIVATE_SCHEME_VERSION = "1"

# fmt: off
PRIVATE: dict[str, str] = {
    "VALD001": "Region that differs from its normal counterpart",
    "VALD002": "Attribution: departure from the normal counterpart",
    "VALD003": "Attribution score of the film",
    "VALD004": "Attribution uncertainty: SD of its draws, of frame and noise",
    "VALD005": "Attribution threshold",
    "VALD006": "Result status",
    "VALD007": "Reason for the result status",
    "VALD008": "Film compared with its normal counterpart",
    "VALD009": "Conformal p: healthy films that score as high",
    "VALD010": "Valid",
    "VALD011": "Low confidence",
    "VALD012": "Withheld",
    "VALD013": "Probability of a finding at even prevalence",
    "VALD014": "Attribution: largest in the region",
    "VALD015": "Attribution: mean over the region",
    "VALD020": "Pixel count, spacing on the detector plane",
    "VALD021": "Pixel count, calibrated spacing",
    "VALD022": "Pixel count, spacing not known",
    "VALD030": "Synthesis of a normal counterpart by latent diffusion",
    "VALD040": "Film not analysed",
}
"""Every private code and its meaning (at most 64 characters, LO)."""
# fmt: on


def private(value: str) -> Code:
    """The private concept of this code value."""
    return Code(value, PRIVATE_SCHEME, PRIVATE[value])


REGION = private("VALD001")
ATTRIBUTION = private("VALD002")
SCORE = private("VALD003")
UNCERTAINTY = private("VALD004")
THRESHOLD = private("VALD005")
STATUS = private("VALD006")
REASON = private("VALD007")
COMPARED_FILM = private("VALD008")
CONFORMAL_P = private("VALD009")
PROBABILITY = private("VALD013")
PEAK = private("VALD014")
MEAN = private("VALD015")
STATUS_VALUES = {
    "VALID": private("VALD010"),
    "LOW_CONFIDENCE": private("VALD011"),
    "WITHHELD": private("VALD012"),
}
AREA_METHODS = {
    "detector": private("VALD020"),
    "calibrated": private("VALD021"),
    "": private("VALD022"),
}
SYNTHESIS = private("VALD030")
NOT_ANALYSED = private("VALD040")

PLAIN_CHEST_XRAY = Code("399208008", "SCT", "Plain chest X-ray")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
PIXELS = Code("{pixels}", "UCUM", "pixels")
ENGLISH = Code("en", "RFC5646", "English")


def item(code: Code) -> Dataset:
    """A code sequence item (PS3.3 8.8)."""
    ds = Dataset()
    ds.CodeValue = code.value
    ds.CodingSchemeDesignator = code.scheme_designator
    ds.CodeMeaning = code.meaning
    return ds


def scheme_identification() -> Sequence:
    """Coding Scheme Identification Sequence: whose 99VALD is (PS3.3 C.12.1.1.2)."""
    ds = Dataset()
    ds.CodingSchemeDesignator = PRIVATE_SCHEME
    ds.CodingSchemeName = "VALD Node private codes"
    ds.CodingSchemeVersion = PRIVATE_SCHEME_VERSION
    ds.CodingSchemeResponsibleOrganization = "VALD Node"
    return Sequence([ds])
