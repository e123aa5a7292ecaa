"""Pictures in fewer bytes, not one grey less: RLE (PS3.5 annex G), JPEG 2000 (A.4.4)."""

from copy import deepcopy
from types import MappingProxyType

from pydicom import Dataset, uid

NONE = "none"
SYNTAXES = MappingProxyType({"rle": uid.RLELossless, "jpeg2000": uid.JPEG2000Lossless})
"""Transfer syntax by the name that a destination's `compression:` has."""


def compressed(dataset: Dataset, name: str) -> Dataset:
    """A picture with its pixels compressed; anything else, or by "none", as it is.

    `dataset` has its File Meta Information, and is not changed.
    """
    if name == NONE or dataset.SOPClassUID != uid.SecondaryCaptureImageStorage:
        return dataset
    small = deepcopy(dataset)  # a shallow copy's elements would be changed in both
    syntax = SYNTAXES[name]
    if syntax == uid.JPEG2000Lossless:
        # The codec's reversible colour transform (PS3.5 8.2.4): half the bytes of three planes.
        small.PhotometricInterpretation = "YBR_RCT"
    small.compress(syntax, generate_instance_uid=False)
    return small
