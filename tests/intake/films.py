"""Small films for reception, encoded in any transfer syntax."""

from io import BytesIO

from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

CLASS = "1.2.840.10008.5.1.4.1.1.1"  # Computed Radiography Image Storage
INSTANCE = "1.2.826.0.1.3680043.8.498.1"


def film(sop_instance_uid: str = INSTANCE, sop_class_uid: str = CLASS, rows: int = 16) -> Dataset:
    """A film with a nested sequence of undefined length and an odd private element."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, sop_instance_uid
    ds.PatientName, ds.PatientID = "Doe^Jane", "12345"
    ds.Modality = "CR"
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "51185008", "SCT", "Thorax"
    item.is_undefined_length_sequence_item = True
    ds.AnatomicRegionSequence = Sequence([item])
    ds["AnatomicRegionSequence"].is_undefined_length = True
    ds.add_new(0x00090010, "LO", "MAKER")
    ds.add_new(0x00091001, "OB", b"\x01\x02\x03\x04")
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = rows, 16
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = bytes(range(256)) * (rows * 16 * 2 // 256)
    ds["PixelData"].VR = "OW"
    return ds


def encoded(ds: Dataset, transfer_syntax_uid: str = uid.ExplicitVRLittleEndian) -> bytes:
    """The data set alone, without preamble and meta, in this transfer syntax."""
    syntax = uid.UID(transfer_syntax_uid)
    ds = Dataset(ds)
    if syntax.is_encapsulated:
        # Not a codestream: reception must not look into it. It holds what looks like delimiters.
        ds.PixelData = encapsulate([b"\xfe\xff\xdd\xe0\x00\x00\x00\x00" * 8])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return data_set_of(buffer.getvalue())


def data_set_of(part10: bytes) -> bytes:
    """What stands behind the File Meta Information (PS3.10 7.1)."""
    assert part10[128:132] == b"DICM"
    assert part10[132:140] == b"\x02\x00\x00\x00UL\x04\x00"
    return part10[144 + int.from_bytes(part10[140:144], "little") :]
