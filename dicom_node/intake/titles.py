"""The AE titles of an association request, before pynetdicom reads them.

It aborts where one is padded as no AE title may be, and nobody would know why (PS3.5 6.2, AE).
"""

from dicom_node.intake.admission import (
    CALLED_AE_NOT_RECOGNISED,
    CALLING_AE_NOT_RECOGNISED,
    Rejection,
)

_FIELDS = (
    (slice(4, 20), CALLED_AE_NOT_RECOGNISED),
    (slice(20, 36), CALLING_AE_NOT_RECOGNISED),
)
"""Of the body of an A-ASSOCIATE-RQ (PS3.8 table 9-11), and how one is refused there."""
_ALLOWED = bytes(byte for byte in range(0x20, 0x7F) if byte != ord("\\"))


def padded(body: bytearray) -> bytearray:
    """The body with titles padded by spaces: old devices, and C programs, pad with NULs."""
    whole = bytearray(body)
    for field, _ in _FIELDS:
        title = body[field]
        whole[field] = title.strip(b" \0").ljust(len(title))
    return whole


def refused(body: bytearray) -> tuple[Rejection, str] | None:
    """How it is rejected, and the title that is none, its bytes written in ASCII; or None."""
    for field, rejection in _FIELDS:
        title = bytes(body[field]).strip()
        if len(body) >= field.stop and (not title or title.translate(None, _ALLOWED)):
            return rejection, title.decode("ascii", "backslashreplace")
    return None
