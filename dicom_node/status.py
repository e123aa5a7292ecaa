"""DIMSE statuses by name (PS3.7 Annex C; PS3.4 B.2.3 for the Storage Service Class)."""

from enum import IntEnum


class StoreStatus(IntEnum):
    """What the node answers to a C-STORE-RQ."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_DOES_NOT_MATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


class CommitmentStatus(IntEnum):
    """What the node answers to an N-EVENT-REPORT-RQ, and is answered to an N-ACTION-RQ.

    PS3.7 10.1.1.1.8 and 10.1.4.1.10.
    """

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    INVALID_ARGUMENT = 0x0115
    RESOURCE_LIMITATION = 0x0213


ECHO_SUCCESS = 0x0000
"""What the node answers to a C-ECHO-RQ, and is answered (PS3.7 9.1.5.1.4)."""

COMMENT_CHARS = 64
"""Error Comment (0000,0902) is an LO."""
