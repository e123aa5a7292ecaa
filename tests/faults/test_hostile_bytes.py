"""Bytes that no sender should send: the node lives, leaks nothing and loses no film it accepted."""

import contextlib
import os
import random
import re
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pydicom
import pydicom.data
import pytest
from pydicom import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import

from dicom_node import wiring
from dicom_node.decoder import BROKE, Decoder
from dicom_node.errors import InputError
from tests.faults.conftest import LONG
from tests.faults.hospital import children_of
from tests.intake.films import CLASS, data_set_of, encoded
from tests.intake.sender import Told, association, store
from tests.peers import films, nodes, tools
from tests.peers.nodes import Node
from tests.radiograph import readers

pytestmark = [pytest.mark.peer, pytest.mark.timeout(4 * 3600 if LONG else 300)]

_CASES = int(os.environ.get("VALD_CASES", "20000" if LONG else "150"))
_WARM_UP = 50
_SEED = int(os.environ.get("VALD_SEED", "7"))
_MOST_GROWTH_MB = 64
_SENDERS, _BOMBS = 4, 5
_ECHO_S = 5.0
"""So long a modality waits at least before it says that the node is not there."""
_STORED = re.compile(
    rb"\x00\x00\x00\x09\x02\x00\x00\x00\x00\x00"  # (0000,0900) Status, US: success
    rb"\x00\x00\x00\x10.\x00\x00\x00([0-9.]+)",  # (0000,1000) Affected SOP Instance UID
    re.DOTALL,
)
"""Of a C-STORE-RSP (PS3.7 9.3.1.2)."""
_SIDE = 128
"""As few pixels as are looked at: of those that the node takes, some come to be decoded."""
_HEAD_BYTES, _IN_PIXELS = 2048, 0.2
_ANALYSED_WITHIN_S = 3600 if LONG else 240
_UNDER_WAY = ("RECEIVED", "RUNNING")
_FINAL = (0x0000, 0xA900, 0xC000)
_LEAST_FILES = 30
_TROUBLES = (
    *("process died", "thread died", "reception failed", "status page failed"),
    *(BROKE, "Traceback"),
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    from pipeline import testing

    folder = tmp_path_factory.mktemp("hostile")
    testing.write_tiny_model(folder / "model")
    limits = {"timeouts": {"association_s": 5}, "max_associations_per_address": 64}
    configured = nodes.write_config(
        folder / "node", tools.free_port(), model=folder / "model", edge=limits
    )
    with nodes.running(configured) as started:
        yield started


def request() -> bytes:
    """An A-ASSOCIATE-RQ as pynetdicom encodes it: one context, Explicit VR Little Endian."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ae = AE(ae_title="FUZZ")
        ae.acse_timeout = 0.2
        ae.add_requested_context(CLASS, ExplicitVRLittleEndian)
        port = listening.getsockname()[1]
        asking = threading.Thread(target=ae.associate, args=("127.0.0.1", port))
        asking.start()
        connection, _ = listening.accept()
        with connection:
            whole = connection.recv(65536)
        asking.join(10)
    return whole


def store_pdus(uid: str, data_set: bytes) -> bytes:
    """A C-STORE-RQ with its data set, as P-DATA-TF PDUs."""
    primitive = C_STORE()
    primitive.MessageID, primitive.Priority = 1, 2
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = CLASS, uid
    primitive.DataSet = BytesIO(data_set)
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    pdus: list[bytes] = []
    for piece in message.encode_msg(1, 16382):
        pdu = P_DATA_TF()
        pdu.from_primitive(piece)
        pdus.append(pdu.encode())
    return b"".join(pdus)


def mutated(whole: bytes, chance: random.Random) -> bytes:
    """With one to eight faults: flipped, missing, repeated or foreign bytes, absurd lengths."""
    changed = bytearray(whole)
    for _ in range(chance.randint(1, 8)):
        reach = len(changed) if chance.random() < _IN_PIXELS else min(len(changed), _HEAD_BYTES)
        at = chance.randrange(reach or 1)
        match chance.randrange(6):
            case 0:
                changed[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del changed[at : at + chance.randint(1, 64)]
            case 2:
                changed[at:at] = chance.randbytes(chance.randint(1, 64))
            case 3:
                changed[at:at] = changed[at : at + chance.randint(1, 256)]
            case 4:
                changed[at : at + 4] = struct.pack(
                    chance.choice("<>") + "L", chance.choice((0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF))
                )
            case 5:
                del changed[at:]
    return bytes(changed)


def said_to(port: int, pieces: list[bytes], answers: int) -> bytes:
    """What the node answers to these pieces, one answer each."""
    heard = b""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    with connection, contextlib.suppress(OSError):
        for n, piece in enumerate(pieces):
            connection.sendall(piece)
            connection.settimeout(2.0 if n < answers else 0.2)
            heard += connection.recv(65536)
    return heard


def resident_mb(node: Node) -> float:
    """Of all its processes together."""
    assert node.process is not None
    pids = [node.process.pid, *children_of(node)]
    found = [re.search(r"VmRSS:\s+(\d+) kB", status) for status in map(status_of, pids)]
    return sum(int(said[1]) for said in found if said is not None) / 1024


def status_of(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a decoder that has ended
        return Path(f"/proc/{pid}/status").read_text()
    return ""


def film(uid: str) -> bytes:
    """The data set of a film that the node analyses."""
    pixels = (films.chest_like(_SIDE) * 4095).round().astype("<u2").tobytes()
    whose = {"PatientID": uid[-16:], "SOPClassUID": CLASS, "SOPInstanceUID": uid, "Modality": "CR"}
    return encoded(films.dx(Rows=_SIDE, Columns=_SIDE, PixelData=pixels, **whose))


def is_alive(node: Node) -> bool:
    with association(node.port) as assoc:
        return bool(assoc.is_established)


@dataclass(slots=True)
class Accepted:
    """What the node says it has kept: data sets, and those of messages that nobody knows.

    A mutated message may bear another UID: it is the one that the answer names.
    """

    data_sets: set[bytes] = field(default_factory=set)
    messages: set[str] = field(default_factory=set)


def attack(node: Node, chance: random.Random, n: int, asked: bytes, accepted: Accepted) -> None:
    """One mutated conversation: the request, the message, or the data set, which may be whole."""
    uid = f"1.2.826.0.1.{n}"
    data_set = film(uid)
    match chance.randrange(3):
        case 0:
            said_to(node.port, [mutated(asked, chance)], 0)
        case 1:
            heard = said_to(node.port, [asked, mutated(store_pdus(uid, data_set), chance)], 2)
            accepted.messages |= stored(heard)
        case 2:
            data_set = mutated(data_set, chance) if chance.random() < 0.9 else data_set
            if stored(said_to(node.port, [asked, store_pdus(uid, data_set)], 2)):
                accepted.data_sets.add(data_set)


def stored(heard: bytes) -> set[str]:
    """The SOP Instance UIDs that are answered with success."""
    return {uid.decode() for uid in _STORED.findall(heard)}


def kept(node: Node) -> dict[bytes, str]:
    """The data sets of every film that the node has recorded, and its UID."""
    settings = wiring.read_config(node.config, {})
    rows = wiring.open_store(settings)
    objects = wiring.open_objects(settings, rows)
    recorded = rows.received(100_000)
    found = {data_set_of(objects.read(f.object)): f.sop_instance_uid for f in recorded}
    rows.close()
    return found


def test_mutated_pdus_and_data_sets_harm_nothing(node: Node) -> None:
    chance, asked, accepted = random.Random(_SEED), request(), Accepted()
    before_mb = 0.0
    for n in range(_CASES):
        if n == _WARM_UP:
            wait_until_all_is_decided(node)
            before_mb = resident_mb(node)
        attack(node, chance, n, asked, accepted)
    assert is_alive(node)
    wait_until_all_is_decided(node)
    states = Counter(str(line["state"]) for line in node.jobs(limit=100_000))
    print(f"seed {_SEED}: {len(accepted.data_sets)} + {len(accepted.messages)} accepted, {states}")
    assert troubles(node.log()) == []
    assert len(accepted.data_sets) > _CASES // 100
    assert len(accepted.messages) > _CASES // 300
    found = kept(node)
    assert accepted.data_sets <= found.keys()
    assert accepted.messages <= set(found.values())
    assert states["PRODUCED"] > _CASES // 300
    assert resident_mb(node) - before_mb < _MOST_GROWTH_MB


def troubles(log: str) -> list[str]:
    """What a fault of ours leaves in a log."""
    return [trouble for trouble in _TROUBLES if trouble in log]


def test_a_decoder_that_breaks_leaves_what_is_looked_for(
    capfd: pytest.CaptureFixture[str],
) -> None:
    decoder = Decoder(timeout_s=30, memory_bytes=256 << 20, reader=readers.misbehave)
    with pytest.raises(InputError):
        decoder.read(Path("bug"))
    decoder.close()
    assert troubles(capfd.readouterr().err) == [BROKE]


def wait_until_all_is_decided(node: Node) -> None:
    """Every film is decided about, and analysed or refused: no PACS is there to take results."""
    tools.wait_until(
        lambda: not any(line["state"] in _UNDER_WAY for line in node.jobs(limit=100_000)),
        _ANALYSED_WITHIN_S,
        "all films to be decided about",
        every_s=1,
    )


def deflated_bomb() -> bytes:
    """A sequence of two million empty items: 16 MB, in 24 KB."""
    sequence, item = b"\x08\x00\x18\x22SQ\x00\x00\xff\xff\xff\xff", b"\xfe\xff\x00\xe0" + bytes(4)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(sequence + item * 2_000_000) + deflater.flush()


def echo_s(port: int) -> float:
    """How long association, C-ECHO and release take."""
    began = time.monotonic()
    with association(port, sop_class_uid=Verification, within_s=60) as assoc:
        assert assoc.is_established
        assert assoc.send_c_echo().Status == 0x0000
    return time.monotonic() - began


def test_a_c_echo_is_answered_in_time_while_bombs_of_elements_are_refused(node: Node) -> None:
    """Each would take its reader a minute and a GB (see dicom_node.structure)."""
    assert node.process is not None
    bomb = deflated_bomb()
    refused: list[Told | None] = []

    def send() -> None:
        with association(node.port, DeflatedExplicitVRLittleEndian) as assoc:
            refused.extend(store(assoc, bomb) for _ in range(_BOMBS))

    before_mb = resident_mb(node)
    senders = [threading.Thread(target=send) for _ in range(_SENDERS)]
    for sender in senders:
        sender.start()
    echoes = [echo_s(node.port)]
    while any(sender.is_alive() for sender in senders):
        echoes.append(echo_s(node.port))
    print(f"{len(echoes)} echoes, the slowest {max(echoes):.2f} s; alone {echo_s(node.port):.2f} s")
    assert [told and told.status for told in refused] == [0xC000] * (_BOMBS * _SENDERS)
    assert max(echoes) < _ECHO_S
    assert resident_mb(node) - before_mb < _MOST_GROWTH_MB


def test_pydicom_s_own_files_are_answered_and_what_is_taken_is_kept(node: Node) -> None:
    """Whole ones of many kinds, and malformed ones: each as an object of the class that it says."""
    paths = sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm"))
    assert len(paths) > _LEAST_FILES
    told = {path.name: answer_to(node, path) for path in paths}
    print(Counter(told.values()))
    assert set(told.values()) <= {*_FINAL, None}
    taken = {path for path in paths if told[path.name] == 0x0000}
    assert len(taken) > _LEAST_FILES
    assert {sent_of(path) for path in taken} <= kept(node).keys()
    assert is_alive(node)
    assert "reception failed" not in node.log()


def answer_to(node: Node, path: Path) -> int | None:
    """The status that the file gets; None where its class or transfer syntax is not taken."""
    ds = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    syntax = getattr(ds, "file_meta", Dataset()).get("TransferSyntaxUID")
    syntax, kind = str(syntax or ExplicitVRLittleEndian), str(ds.get("SOPClassUID") or CLASS)
    with association(node.port, syntax, sop_class_uid=kind) as assoc:
        if not assoc.is_established:
            return None
        uid = str(ds.get("SOPInstanceUID") or "1.2")
        told = store(assoc, sent_of(path), sop_instance_uid=uid, sop_class_uid=kind)
        assert told is not None, path
        return told.status


def sent_of(path: Path) -> bytes:
    """The file's data set; a file that is not Part 10, or malformed, as it is."""
    raw = path.read_bytes()
    return data_set_of(raw) if raw[132:140] == b"\x02\x00\x00\x00UL\x04\x00" else raw
