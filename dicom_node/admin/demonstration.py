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
import yaml
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
_NODE, _PACS, _SENDER = "VALD", "DEMO_PACS", "DEMO_CR"
_LOG = "node.log"
_SEED = 2  # of the first eight all but the first come back VALID: the usual case is shown
_EXPECTED = {SecondaryCaptureImageStorage: "sc.dcm", ComprehensiveSRStorage: "sr.dcm"}
_START_S, _RESULT_S, _STOP_S = 60.0, 300.0, 60.0
_PAUSE_S = 0.1


def run(out: Path) -> None:
    """Sample, node and PACS are started, the film is sent, and what comes back is shown.

    The node has a configuration of its own, `out`/config.yaml; the site's is not looked at.

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
    with _pacs(out, arrived) as pacs_port:
        found = _round_trip(console, film, pacs_port, arrived)
    _show(console, out, found)


def _round_trip(
    console: Console, film: Path, pacs_port: int, arrived: "queue.Queue[Path]"
) -> dict[str, Path]:
    out, port = film.parent, _free_port()
    with _node(out, _write_config(out, port, pacs_port)) as node:
        with console.status("the node starts"):
            _wait_until_listening(node, port)
        _send(film, port)
        console.print("sent      by C-STORE, answered 0x0000")
        with console.status("the node works; the result comes by C-STORE"):
            return _results(arrived)


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


def _write_config(out: Path, port: int, pacs_port: int) -> Path:
    """What a site would write; the guard against synthetic films is waived for the sample."""
    path = out / "config.yaml"
    rule = {
        "name": "demo",
        "results": "basic",
        "destinations": ["pacs"],
        "waive": ["synthetic"],
    }
    keys = {
        "node": {"ae_title": _NODE, "host": _HOST, "port": port, "accept": "any"},
        "storage": {"database": "sqlite:///var/vald.db", "objects": "var/objects"},
        "destinations": {"pacs": {"ae_title": _PACS, "host": _HOST, "port": pacs_port}},
        "rules": [rule],
    }
    path.write_text(yaml.safe_dump(keys, sort_keys=False), encoding="utf-8")
    return path


@contextmanager
def _node(out: Path, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The node as a user starts it, its log and state under `out`."""
    command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(config)]
    own = {name: value for name, value in os.environ.items() if not name.startswith("VALD_")}
    with (out / _LOG).open("w", encoding="utf-8") as log:
        child = subprocess.Popen(command, env=own, stderr=log)  # noqa: S603
        try:
            yield child
        finally:
            child.terminate()
            child.wait(_STOP_S)


def _wait_until_listening(node: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and node.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((_HOST, port)) == 0:
                return
        time.sleep(_PAUSE_S)
    ended = "" if node.returncode is None else f" (it ended with {node.returncode})"
    raise NodeError(f"the node did not start{ended}; see {_LOG} in the demo's folder")


def _send(film: Path, port: int) -> None:
    ds = pydicom.dcmread(film)
    ae = AE(ae_title=_SENDER)
    ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
    assoc = ae.associate(_HOST, port, ae_title=_NODE)
    if not assoc.is_established:
        raise NodeError(f"the node does not accept the association; see {_LOG}")
    status = assoc.send_c_store(ds).get("Status")
    assoc.release()
    if status != 0x0000:
        raise NodeError(f"the node answered {status!r} to the film; see {_LOG}")


def _results(arrived: "queue.Queue[Path]") -> dict[str, Path]:
    found: dict[str, Path] = {}
    while len(found) < len(_EXPECTED):
        try:
            path = arrived.get(timeout=_RESULT_S)
        except queue.Empty:
            raise NodeError(f"no result came back; see {_LOG}") from None
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
