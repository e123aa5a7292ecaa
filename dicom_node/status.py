"""DIMSE statuses by name (PS3.7 Annex C; PS3.4 Annex B.2.3 for the Storage Service Class)."""

from enum import IntEnum


class StoreStatus(IntEnum):
    """What the node answers to a C-STORE-RQ."""

    SUCCESS = 0x0000
    OUT_OF_RESOURCES = 0xA700
    CANNOT_UNDERSTAND = 0xC000
    NOT_AUTHORISED = 0x0124
