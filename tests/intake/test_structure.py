"""What can be parsed to its end is taken, in every transfer syntax; what cannot is refused."""

import struct
import sys
import threading
import zlib
from functools import partial
from pathlib import Path

import pydicom
import pytest
from pydicom import uid

from dicom_node import structure
from dicom_node.errors import InputError
from dicom_node.intake.scp import TRANSFER_SYNTAXES
from tests.intake.films import CLASS, INSTANCE, encoded, film
from tests.peers import tools

EXPLICIT = uid.ExplicitVRLittleEndian
_NOT_WHOLE = {"MR_truncated.dcm", "rtplan_truncated.dcm", "meta_missing_tsyntax.dcm"}
PYDICOM_S = [
    path
    for path in sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))
    if path.read_bytes()[128:140] == b"DICM\x02\x00\x00\x00UL\x04\x00"
    and path.name not in _NOT_WHOLE
]
NATIVE = [
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
]


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_a_whole_data_set_says_what_it_is(syntax: uid.UID) -> None:
    said = structure.check(encoded(film(), syntax), syntax)
    assert said.sop_class_uid == CLASS
    assert said.sop_instance_uid == INSTANCE


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_a_data_set_without_its_last_bytes_is_refused(syntax: uid.UID) -> None:
    whole = encoded(film(), syntax)
    with pytest.raises(InputError):
        structure.check(whole[:-20], syntax)


@pytest.mark.parametrize("syntax", NATIVE[:3], ids=lambda syntax: syntax.keyword)
def test_a_data_set_cut_anywhere_is_refused(syntax: uid.UID) -> None:
    whole = encoded(film(rows=8), syntax)
    tolerated = []
    for length in range(len(whole)):
        try:
            structure.check(whole[:length], syntax)
        except InputError:
            continue
        tolerated.append(length)
    # A cut between two elements leaves a data set that is whole, if poorer; zeros are padding.
    assert all(
        _is_between_elements(whole, at, syntax)
        or (whole[at - 1] == 0 and _is_between_elements(whole, at - 1, syntax))
        for at in tolerated
    )


def _is_between_elements(whole: bytes, at: int, syntax: uid.UID) -> bool:
    rest = whole[at : at + 4]
    order = "<HH" if syntax.is_little_endian else ">HH"
    return len(rest) == 4 and struct.unpack(order, rest) in {
        (e.tag.group, e.tag.elem) for e in film(rows=8)
    }


def test_elements_behind_the_pixels_are_walked_too() -> None:
    padding = b"\xfc\xff\xfc\xffOB\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00"
    whole = encoded(film()) + padding
    assert structure.check(whole, EXPLICIT).sop_instance_uid == INSTANCE
    with pytest.raises(InputError):
        structure.check(whole[:-2], EXPLICIT)


def test_bytes_that_are_no_data_set_are_refused() -> None:
    for rubbish in (b"\xff" * 999, b"GET / HTTP/1.1\r\n\r\n" * 9, bytes(range(256))):
        with pytest.raises(InputError):
            structure.check(rubbish, EXPLICIT)


def test_an_explicit_data_set_that_claims_to_be_big_endian_is_refused() -> None:
    with pytest.raises(InputError):
        structure.check(encoded(film(), EXPLICIT), uid.ExplicitVRBigEndian)


def test_nothing_says_that_it_is_nothing() -> None:
    said = structure.check(b"", EXPLICIT)
    assert (said.sop_class_uid, said.sop_instance_uid) == ("", "")


def test_sequences_nested_without_end_are_refused() -> None:
    opening = b"\x08\x00\x18\x22SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(InputError):
        structure.check(opening * 20_000, EXPLICIT)


ITEM, DELIMITER = b"\xfe\xff\x00\xe0\x00\x00\x00\x00", b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
SEQUENCE = b"\x08\x00\x18\x22SQ\x00\x00"
MANY = 2_000_000
"""16 MB of them."""


_MEASURED = """
import sys, tracemalloc
from pathlib import Path
from dicom_node import structure
from dicom_node.errors import InputError

bomb = Path(sys.argv[1]).read_bytes()
tracemalloc.start()
try:
    structure.check(bomb, sys.argv[2])
except InputError as fault:
    print(fault, tracemalloc.get_traced_memory()[1], sep="\\n")
"""
"""In a process of its own: threads of tests before may want memory here, now and then."""


@pytest.mark.parametrize(
    "bomb",
    [
        SEQUENCE + b"\xff\xff\xff\xff" + ITEM * MANY + DELIMITER,
        SEQUENCE + struct.pack("<L", 8 * MANY) + ITEM * MANY,
        b"\x09\x00\x10\x00LO\x00\x00" * MANY,
    ],
    ids=["items", "items of known length", "elements"],
)
def test_what_would_take_its_readers_memory_is_refused_at_once(bomb: bytes, tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(bomb)
    done = tools.run(sys.executable, "-c", _MEASURED, tmp_path / "bomb", EXPLICIT)
    said, peak = done.stdout.splitlines()
    assert "too many elements" in said
    assert int(peak) < 1 << 20


def test_nesting_of_known_length_is_refused_too() -> None:
    nested = b""
    for _ in range(100):
        inner = ITEM[:4] + struct.pack("<L", len(nested)) + nested
        nested = SEQUENCE + struct.pack("<L", len(inner)) + inner
    with pytest.raises(InputError, match="nested too deeply"):
        structure.check(nested, EXPLICIT)


def test_a_sequence_of_known_length_may_be_badly_made() -> None:
    """Nobody may ever look into it: a private one of another vendor, for one."""
    bad = ITEM + b"\x08\x00\x18\x22LO\xff\xff"
    sequence = SEQUENCE + struct.pack("<L", len(bad)) + bad
    assert structure.check(encoded(film()) + sequence, EXPLICIT).sop_instance_uid == INSTANCE


def test_a_sequence_of_unknown_vr_has_implicit_items() -> None:
    """PS3.5 6.2.2, note 2: whoever did not know its VR left it encoded as it came."""
    undefined = b"\xff\xff\xff\xff"
    element = b"\x10\x00\x20\x00\x02\x00\x00\x00\x31\x20"  # (0010,0020), 2 bytes
    item = ITEM[:4] + undefined + element + b"\xfe\xff\x0d\xe0" + bytes(4)
    unknown = b"\x09\x00\x10\x10UN\x00\x00" + undefined + item + DELIMITER
    uids = encoded(film())
    assert structure.check(uids + unknown, EXPLICIT).sop_instance_uid == INSTANCE
    for length in range(1, len(unknown)):
        with pytest.raises(InputError):
            structure.check(uids + unknown[:length], EXPLICIT)


def test_what_stands_behind_the_pixels_does_not_say_what_a_film_is() -> None:
    other = b"\x08\x00\x18\x00UI\x02\x001\x00"
    assert structure.check(encoded(film()) + other, EXPLICIT).sop_instance_uid == INSTANCE


@pytest.mark.parametrize("path", PYDICOM_S, ids=lambda path: path.name)
def test_pydicom_s_own_test_files_are_what_they_say(path: Path) -> None:
    ds = pydicom.dcmread(path)
    raw = path.read_bytes()
    data_set = raw[144 + struct.unpack("<L", raw[140:144])[0] :]  # PS3.10 7.1
    said = structure.check(data_set, str(ds.file_meta.TransferSyntaxUID))
    assert said.sop_instance_uid == str(ds.get("SOPInstanceUID") or "")
    assert said.sop_class_uid == str(ds.get("SOPClassUID") or "")


def test_a_deflation_bomb_is_refused() -> None:
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = b"".join(deflater.compress(bytes(1 << 20)) for _ in range(300)) + deflater.flush()
    with pytest.raises(InputError, match="too large"):
        structure.check(bomb, uid.DeflatedExplicitVRLittleEndian)


def test_the_message_holds_nothing_of_the_patient() -> None:
    with pytest.raises(InputError) as refusal:
        structure.check(encoded(film())[:-1], EXPLICIT)
    assert "Doe" not in str(refusal.value)
    assert len(str(refusal.value)) <= 64


def test_an_empty_uid_is_none() -> None:
    empty = b"\x08\x00\x16\x00UI\x00\x00\x08\x00\x18\x00UI\x00\x00"
    assert structure.check(empty, EXPLICIT).sop_class_uid == ""


def test_deflated_data_sets_are_inflated_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may have 256 MB, and there are as many threads as associations."""
    there, most = threading.Semaphore(1), []
    inflated = structure._inflated

    def counted(data_set: bytes) -> bytes:
        most.append(there.acquire(blocking=False))
        try:
            threading.Event().wait(0.05)  # so that another would come in
            return inflated(data_set)
        finally:
            there.release()

    monkeypatch.setattr(structure, "_inflated", counted)
    data = encoded(film(), uid.DeflatedExplicitVRLittleEndian)
    check = partial(structure.check, data, uid.DeflatedExplicitVRLittleEndian)
    threads = [threading.Thread(target=check) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [True] * 4
