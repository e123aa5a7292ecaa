"""DIMSE statuses by name (PS3.7 Annex C; PS3.4 B.2.3 for the Storage Service Class)."""

from enum import IntEnum


class StoreStatus(IntEnum):
    """What the node answers to a C-STORE-RQ."""

    SUCCESS = 0x0000
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_DOES_NOT_MATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


ECHO_SUCCESS = 0x0000
"""What the node answers to a C-ECHO-RQ (PS3.7 9.1.5.1.4)."""

COMMENT_CHARS = 64
"""Error Comment (0000,0902) is an LO."""
