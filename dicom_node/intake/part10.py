"""A received data set as a Part 10 file: the same data set always gives the same bytes."""

from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from dicom_node import identity

_PREAMBLE = bytes(128) + b"DICM"  # PS3.10 7.1


def head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """What stands before the data set: preamble, prefix and File Meta Information (PS3.10 7.1).

    Neither sender nor time nor version is in it, so that a resend is the same file.
    """
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # written as it is
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    meta.ImplementationClassUID = UID(identity.IMPLEMENTATION_CLASS_UID)
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, meta, enforce_standard=False)
    return _PREAMBLE + buffer.getvalue()
