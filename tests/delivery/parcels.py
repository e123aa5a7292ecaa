"""Result files, and a store in which they are due."""

from datetime import UTC, datetime
from io import BytesIO

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from storage.jobs import Decision, NewJob, NewReceived, ObjectRef, Result
from storage.objects import ObjectStore
from storage.store import JobStore

NOW = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
CAPTURE, REPORT = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.33"


def data_set(uid: str, sop_class: str = CAPTURE) -> bytes:
    """An encoded data set that pydicom would encode otherwise."""
    head = b"\x08\x00\x16\x00UI" + _uid(sop_class) + b"\x08\x00\x18\x00UI" + _uid(uid)
    # An undefined-length sequence with one empty item, and text with two trailing spaces.
    item = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" + b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    sequence = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff" + item
    return head + sequence + b"\x10\x00\x10\x00PN\x06\x00A^B   "


def _uid(uid: str) -> bytes:
    value = uid.encode() + b"\x00" * (len(uid) % 2)
    return len(value).to_bytes(2, "little") + value


def part10(uid: str, sop_class: str = CAPTURE, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The data set in a file."""
    empty = Dataset()
    empty.file_meta = FileMetaDataset()
    empty.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    empty.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    empty.file_meta.TransferSyntaxUID = UID(syntax)
    empty.file_meta.ImplementationClassUID = UID("1.2.3")
    buffer = BytesIO()
    empty.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue() + data_set(uid, sop_class)


def make_due(
    store: JobStore,
    objects: ObjectStore,
    uids: list[str],
    destinations: tuple[str, ...] = ("pacs",),
) -> str:
    """A produced job with one result a UID, due to the destinations; its key."""
    source = ObjectRef(name="received/x.dcm", digest="0" * 64, size_bytes=1)
    key = "a" * 64
    received = store.receive(
        NewReceived(
            sop_class_uid=CAPTURE,
            sop_instance_uid="1.2.3",
            transfer_syntax_uid=ExplicitVRLittleEndian,
            calling_ae_title="CR1",
            address="127.0.0.1",
            received_at=NOW,
            object=source,
        )
    )
    job = NewJob(
        key=key,
        sop_instance_uid="1.2.3",
        identity_digest="",
        object=source,
        calling_ae_title="CR1",
        rule="r",
        target="normal",
        model_digest="m",
        mode="calibrated",
        seed=0,
        results=("secondary_capture",),
        destinations=destinations,
        supersedes="",
        created_at=NOW,
    )
    store.route(received.number, Decision(text="analysed", job_key=key), job)
    claimed = store.claim("worker", NOW, 60)
    assert claimed is not None
    assert claimed.lease is not None
    results = [_result(objects, key, uid) for uid in uids]
    store.produce(key, claimed.lease.token, NOW, results, destinations)
    return key


def _result(objects: ObjectStore, key: str, uid: str) -> Result:
    return Result(
        job_key=key,
        kind="secondary_capture",
        sop_class_uid=CAPTURE,
        sop_instance_uid=uid,
        series_instance_uid="1.2.4",
        object=objects.keep(f"results/{uid}.dcm", part10(uid)),
    )
