"""The node as a user starts it: `vald-node serve` in a subprocess."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dicom_node.admin import listing
from tests.peers import tools
from tests.peers.orthanc import AE_TITLE

_VALD = [sys.executable, "-m", "dicom_node"]


@dataclass(slots=True, kw_only=True)
class Node:
    """A node with its configuration in `folder`; may be killed and started again."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def config(self) -> Path:
        """Its configuration file."""
        return self.folder / "config.yaml"

    def start(self, **variables: str) -> None:
        """It listens; its processes are a group of their own."""
        with (self.folder / "node.log").open("a") as log:
            self.process = subprocess.Popen(
                [*_VALD, "serve", "--config", str(self.config)],
                stderr=log,
                env=environment(**variables),
                start_new_session=True,
            )
        tools.wait_until(lambda: tools.listens(self.port), 120, "the node to listen")

    def kill(self) -> None:
        """SIGKILL to the receiver; its children end by themselves."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def cut_power(self) -> None:
        """SIGKILL to all its processes at once."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(90)

    def log(self) -> str:
        """What it has logged."""
        return (self.folder / "node.log").read_text()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another vald-node command with the same configuration."""
        command = [*_VALD, *arguments, "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def results(self) -> list[Path]:
        """The files of results that it keeps."""
        return list((self.folder / "var" / "objects" / "results").rglob("*.dcm"))

    def jobs(self, limit: int = 100) -> list[dict[str, Any]]:
        """As `vald-node jobs --json` prints them, without a new interpreter at every look."""
        found = listing.films(self.config, os.environ, limit=limit, state=None)
        lines: list[dict[str, Any]] = json.loads(json.dumps([line.as_json() for line in found]))
        return lines

    def all_of(self, sop_instance_uid: str) -> list[dict[str, Any]]:
        """The lines of one SOP Instance UID: more than one where its headers differed."""
        return [j for j in self.jobs() if j["source_sop_instance_uid"] == sop_instance_uid]

    def of(self, sop_instance_uid: str) -> dict[str, Any]:
        """The newest line of one film; empty where there is none yet."""
        found = self.all_of(sop_instance_uid)
        return found[0] if found else {}

    def wait_for(
        self, sop_instance_uid: str, *states: str, within_s: float = 120
    ) -> dict[str, Any]:
        """The film's line once it is in one of the states."""
        tools.wait_until(
            lambda: self.of(sop_instance_uid).get("state") in states,
            within_s,
            f"{sop_instance_uid} to be {' or '.join(states)}; {self.of(sop_instance_uid)}",
        )
        return self.of(sop_instance_uid)


def write_config(
    folder: Path,
    pacs_port: int,
    *,
    model: Path | str = "embedded",
    database: str = "",
    edge: dict[str, Any] | None = None,
    **more: Any,
) -> Node:
    """A node configured in `folder`, not started; `edge` is more of its section `node`."""
    folder.mkdir(parents=True, exist_ok=True)
    port = tools.free_port()
    keys = {
        "node": {
            "ae_title": "VALD",
            "host": "127.0.0.1",
            "port": port,
            "accept": "any",
            **(edge or {}),
        },
        "storage": {"database": database or "sqlite:///var/vald.db", "objects": "var/objects"},
        "model": {"path": str(model), "device": "cpu"},
        "destinations": {"pacs": {"ae_title": AE_TITLE, "host": "127.0.0.1", "port": pacs_port}},
        "rules": [
            {
                "name": "frontal-chest",
                "match": {"Modality": ["CR", "DX", "RG"]},
                "results": ["secondary_capture", "structured_report"],
                "destinations": ["pacs"],
            }
        ],
        **more,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(keys))
    return Node(folder=folder, port=port)


@contextmanager
def running(node: Node) -> Iterator[Node]:
    """The node, started, and stopped in the end whatever happened."""
    node.start()
    try:
        yield node
    finally:
        if node.process is not None and node.process.poll() is None:
            node.stop()


def environment(**overrides: str) -> dict[str, str]:
    """This environment with some variables more."""
    return {**os.environ, **overrides}
