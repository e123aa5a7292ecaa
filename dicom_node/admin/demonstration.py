"""`vald-node demo`: a synthetic film goes through a whole node and comes back, on this machine."""

import os
import queue
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image as Pillow
from pydicom import Dataset
from pydicom.uid import ComprehensiveSRStorage, SecondaryCaptureImageStorage
from pynetdicom import AE, evt
from pynetdicom.events import Event
from rich.console import Console
from rich.panel import Panel

from dicom_node.admin import sample
from dicom_node.errors import NodeError
from dicom_node.results import reading

_HOST = "127.0.0.1"
_PACS, _SENDER = "DEMO_PACS", "DEMO_CR"
_SEED = 1
_EXPECTED = {SecondaryCaptureImageStorage: "sc.dcm", ComprehensiveSRStorage: "sr.dcm"}
_START_S, _RESULT_S, _STOP_S = 60.0, 300.0, 60.0
_PAUSE_S = 0.1


def run(out: Path, config: Path) -> None:
    """Sample, node and PACS are started, the film is sent, and what comes back is shown.

    Raises:
        NodeError: the node did not start, did not take the film, or sent nothing back.
    """
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    film = out / "sample.dcm"
    with console.status("the model makes a synthetic film with an opacity"):
        sample.write(film, "embedded", _SEED, datetime.now(UTC))
    console.print(f"made      {film}")
    arrived: queue.Queue[Path] = queue.Queue()
    with _pacs(out, arrived) as pacs_port, _node(out, config, pacs_port) as node_port:
        with console.status("the node starts"):
            _wait_until_listening(node_port)
        _send(film, node_port)
        console.print("sent      by C-STORE, answered 0x0000")
        with console.status("the node works; the result comes by C-STORE"):
            found = _results(arrived)
    _show(console, out, found)


@contextmanager
def _pacs(out: Path, arrived: "queue.Queue[Path]") -> Iterator[int]:
    """A small receiving PACS: keeps what it is sent in `out`; yields its port."""

    def keep(event: Event) -> int:
        ds = event.dataset
        ds.file_meta = event.file_meta
        path = out / _EXPECTED.get(ds.SOPClassUID, f"{ds.SOPInstanceUID}.dcm")
        ds.save_as(path, enforce_file_format=True)
        arrived.put(path)
        return 0x0000

    ae = AE(ae_title=_PACS)
    for kind in _EXPECTED:
        ae.add_supported_context(kind)
    server = ae.start_server((_HOST, 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    if server is None:
        raise NodeError("the demo's PACS did not start")
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


@contextmanager
def _node(out: Path, config: Path, pacs_port: int) -> Iterator[int]:
    """The node as a user starts it, its state under `out`; yields its port.

    Everything is as config.yaml says but addresses and folders, and the guard that keeps synthetic
    films out, which is waived by name: the sample is one.
    """
    port = _free_port()
    overrides = {
        "VALD_NODE__HOST": _HOST,
        "VALD_NODE__PORT": str(port),
        "VALD_STORAGE__DATABASE": f"sqlite:///{(out / 'var' / 'vald.db').resolve()}",
        "VALD_STORAGE__OBJECTS": str((out / "var" / "objects").resolve()),
        "VALD_DESTINATIONS__PACS__AE_TITLE": _PACS,
        "VALD_DESTINATIONS__PACS__HOST": _HOST,
        "VALD_DESTINATIONS__PACS__PORT": str(pacs_port),
        "VALD_RULES__0__WAIVE": "[synthetic]",
    }
    command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(config)]
    with (out / "node.log").open("w", encoding="utf-8") as log:
        child = subprocess.Popen(command, env={**os.environ, **overrides}, stderr=log)  # noqa: S603
        try:
            yield port
        finally:
            child.terminate()
            child.wait(_STOP_S)


def _wait_until_listening(port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((_HOST, port)) == 0:
                return
        time.sleep(_PAUSE_S)
    raise NodeError("the node did not start; its log is node.log in the demo's folder")


def _send(film: Path, port: int) -> None:
    ds = pydicom.dcmread(film)
    ae = AE(ae_title=_SENDER)
    ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
    assoc = ae.associate(_HOST, port, ae_title="VALD")
    if not assoc.is_established:
        raise NodeError("the node does not accept the association; see node.log")
    status = assoc.send_c_store(ds).get("Status")
    assoc.release()
    if status != 0x0000:
        raise NodeError(f"the node answered {status!r} to the film; see node.log")


def _results(arrived: "queue.Queue[Path]") -> dict[str, Path]:
    found: dict[str, Path] = {}
    while len(found) < len(_EXPECTED):
        try:
            path = arrived.get(timeout=_RESULT_S)
        except queue.Empty:
            raise NodeError("no result came back; see node.log") from None
        found[path.stem] = path
    return found


def _show(console: Console, out: Path, found: dict[str, Path]) -> None:
    picture = out / "sc.png"
    _write_picture(pydicom.dcmread(found["sc"]), picture)
    console.print(f"came back {found['sc']}  Secondary Capture")
    console.print(f"came back {found['sr']}  Structured Report (TID 1500)")
    console.print(f"picture   {picture}")
    report = reading.as_text(pydicom.dcmread(found["sr"]))
    console.print(
        Panel(report, title="the Structured Report as text", expand=False), highlight=False
    )


def _write_picture(capture: Dataset, path: Path) -> None:
    shape = (capture.Rows, capture.Columns, capture.SamplesPerPixel)
    pixels = np.frombuffer(capture.PixelData, np.uint8)[: int(np.prod(shape))].reshape(shape)
    Pillow.fromarray(pixels).save(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
