"""A real Orthanc in a subprocess, asked by its REST interface."""

import json
import subprocess
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom import Dataset, uid

from tests.peers import tools

AE_TITLE = "ORTHANC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Orthanc:
    """Where it listens, and what it holds."""

    dicom_port: int
    http_port: int

    def get(self, path: str) -> Any:
        """The JSON at a path of the REST interface."""
        return json.loads(self._bytes(path))

    def instances(self, modality: str) -> list[Dataset]:
        """The objects of one modality, whole."""
        found: list[Dataset] = []
        for name in self.get("/instances"):
            if self.get(f"/instances/{name}/simplified-tags")["Modality"] == modality:
                found.append(pydicom.dcmread(BytesIO(self._bytes(f"/instances/{name}/file"))))
        return found

    def uids(self) -> list[str]:
        """The SOP Instance UID of every instance."""
        held = self.get("/instances?expand")
        return [instance["MainDicomTags"]["SOPInstanceUID"] for instance in held]

    def files(self) -> Iterator[bytes]:
        """Every instance as it is kept, one after the other."""
        return self._files(self.get("/instances"))

    def files_of_study(self, study_instance_uid: str) -> Iterator[bytes]:
        """Those of one study, of whichever patients."""
        for found in self._post("/tools/lookup", study_instance_uid.encode()):
            held = self.get(f"/studies/{found['ID']}/instances")
            yield from self._files(instance["ID"] for instance in held)

    def _files(self, names: Iterable[str]) -> Iterator[bytes]:
        return (self._bytes(f"/instances/{name}/file") for name in names)

    def counts(self) -> dict[str, int]:
        """How many instances of each modality."""
        tags = [self.get(f"/instances/{i}/simplified-tags") for i in self.get("/instances")]
        modalities = [tag["Modality"] for tag in tags]
        return {modality: modalities.count(modality) for modality in sorted(set(modalities))}

    def classes(self) -> Counter[str]:
        """How many instances of each SOP Class, by its name."""
        held = [self.get(f"/instances/{name}/simplified-tags") for name in self.get("/instances")]
        return Counter(uid.UID(tags["SOPClassUID"]).name for tags in held)

    def post(self, dicom: bytes) -> str:
        """Orthanc holds the object; its name there."""
        return str(self._post("/instances", dicom)["ID"])

    def shown(self, name: str) -> npt.NDArray[np.uint8] | None:
        """What Orthanc's own viewer draws of an instance; None where it has no picture of it."""
        try:
            with Image.open(BytesIO(self._bytes(f"/instances/{name}/rendered"))) as image:
                return np.asarray(image)
        except urllib.error.HTTPError as fault:
            if fault.code != HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
                raise
            return None

    def _post(self, path: str, body: bytes) -> Any:
        url = f"http://127.0.0.1:{self.http_port}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as answer:
            return json.load(answer)

    def _bytes(self, path: str) -> bytes:
        url = f"http://127.0.0.1:{self.http_port}{path}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            data: bytes = answer.read()
            return data


@contextmanager
def running(
    folder: Path, dicom_port: int = 0, reports_to: int = 0, plugins: Sequence[str | Path] = ()
) -> Iterator[Orthanc]:
    """An empty Orthanc that keeps its state in `folder`.

    It answers storage commitment by associations of its own, to VALD at the port `reports_to`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    orthanc = Orthanc(dicom_port=dicom_port or tools.free_port(), http_port=tools.free_port())
    settings = folder / "orthanc.json"
    settings.write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder),
                "IndexDirectory": str(folder),
                "HttpPort": orthanc.http_port,
                "DicomPort": orthanc.dicom_port,
                "DicomAet": AE_TITLE,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "Plugins": [str(plugin) for plugin in plugins],
                "DicomModalities": {"vald": ["VALD", "127.0.0.1", reports_to or dicom_port + 1]},
            }
        )
    )
    command = [tools.find("Orthanc", "/usr/sbin"), str(settings)]
    with (folder / "log").open("w") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            tools.wait_until(lambda: _answers(orthanc), 120, "Orthanc to start")
            yield orthanc
        finally:
            child.terminate()
            child.wait(120)


def _answers(orthanc: Orthanc) -> bool:
    try:
        return bool(orthanc.get("/system"))
    except OSError:
        return False
