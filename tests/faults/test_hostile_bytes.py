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
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import

from dicom_node import node as wiring
from tests.faults.conftest import LONG
from tests.intake.films import CLASS, data_set_of, encoded, film
from tests.intake.sender import Told, association, store
from tests.peers import nodes, tools
from tests.peers.nodes import Node

pytestmark = [pytest.mark.peer, pytest.mark.timeout(7200 if LONG else 300)]

_CASES = 20_000 if LONG else 300
_WARM_UP = 100
_SEED = int(os.environ.get("VALD_SEED", "7"))
_MOST_GROWTH_MB = 64
_SENDERS, _BOMBS = 4, 5
_ECHO_S = 5.0
"""So long a modality waits at least before it says that the node is not there."""
_STATUS = re.compile(rb"\x00\x00\x00\x09\x02\x00\x00\x00(..)", re.DOTALL)  # (0000,0900), US
_MALFORMED = (
    *("badVR.dcm", "MR_truncated.dcm", "rtplan_truncated.dcm", "no_meta.dcm", "UN_sequence.dcm"),
    *("no_meta_group_length.dcm", "meta_missing_tsyntax.dcm", "ExplVR_BigEndNoMeta.dcm"),
    *("ExplVR_LitEndNoMeta.dcm", "nested_priv_SQ.dcm", "reportsi_with_empty_number_tags.dcm"),
    *("empty_charset_LEI.dcm", "JPEG2000-embedded-sequence-delimiter.dcm", "image_dfl.dcm"),
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
        at = chance.randrange(len(changed) or 1)
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


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def is_alive(node: Node) -> bool:
    with association(node.port) as assoc:
        return bool(assoc.is_established)


def attack(node: Node, chance: random.Random, n: int, asked: bytes) -> bytes | None:
    """One mutated conversation; the data set that the node says it has kept, if it does."""
    uid = f"1.2.826.0.1.{n}"
    data_set = encoded(film(uid))
    kind = chance.randrange(3)
    if kind == 0:
        said_to(node.port, [mutated(asked, chance)], 0)
        return None
    if kind == 1:
        said_to(node.port, [asked, mutated(store_pdus(uid, data_set), chance)], 1)
        return None
    data_set = mutated(data_set, chance) if chance.random() < 0.9 else data_set
    heard = said_to(node.port, [asked, store_pdus(uid, data_set)], 2)
    statuses = _STATUS.findall(heard)
    return data_set if statuses and statuses[-1] == b"\x00\x00" else None


def kept(node: Node) -> set[bytes]:
    """The data sets of every film that the node has recorded."""
    settings = wiring.read_config(node.config, {})
    rows = wiring.open_store(settings)
    objects = wiring.open_objects(settings, rows)
    found = {data_set_of(objects.read(f.object)) for f in rows.received(100_000)}
    rows.close()
    return found


def test_mutated_pdus_and_data_sets_harm_nothing(node: Node) -> None:
    print(f"seed {_SEED}")
    chance, asked = random.Random(_SEED), request()
    assert node.process is not None
    accepted: set[bytes] = set()
    before_mb = 0.0
    for n in range(_CASES):
        if n == _WARM_UP:
            before_mb = resident_mb(node.process.pid)
        taken = attack(node, chance, n, asked)
        if taken is not None:
            accepted.add(taken)
    assert is_alive(node)
    assert "process died" not in node.log()
    assert "reception failed" not in node.log()
    assert "Traceback" not in node.log()
    assert len(accepted) > _CASES // 100
    assert accepted <= kept(node)
    assert resident_mb(node.process.pid) - before_mb < _MOST_GROWTH_MB


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

    before_mb = resident_mb(node.process.pid)
    senders = [threading.Thread(target=send) for _ in range(_SENDERS)]
    for sender in senders:
        sender.start()
    echoes = [echo_s(node.port)]
    while any(sender.is_alive() for sender in senders):
        echoes.append(echo_s(node.port))
    print(f"{len(echoes)} echoes, the slowest {max(echoes):.2f} s; alone {echo_s(node.port):.2f} s")
    assert [told and told.status for told in refused] == [0xC000] * (_BOMBS * _SENDERS)
    assert max(echoes) < _ECHO_S
    assert resident_mb(node.process.pid) - before_mb < _MOST_GROWTH_MB


@pytest.mark.parametrize("name", _MALFORMED)
def test_malformed_files_are_answered_and_the_node_lives(node: Node, name: str) -> None:
    path = get_testdata_file(name, download=False)
    assert path is not None
    ds = pydicom.dcmread(path, force=True)
    raw = Path(path).read_bytes()
    data_set = data_set_of(raw) if raw[132:140] == b"\x02\x00\x00\x00UL\x04\x00" else raw
    meta = getattr(ds, "file_meta", None)
    syntax = str(meta.get("TransferSyntaxUID", "") or "") if meta is not None else ""
    with association(node.port, syntax or ExplicitVRLittleEndian) as assoc:
        if assoc.is_established:
            told = store(assoc, data_set, sop_instance_uid=str(ds.get("SOPInstanceUID", "1.2")))
            assert told is not None
            assert told.status in (0x0000, 0xA900, 0xC000)
    assert is_alive(node)
