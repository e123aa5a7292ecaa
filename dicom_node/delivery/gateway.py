"""One way to every destination: by association, or by DICOMweb."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset

from dicom_node.config import Destination, DicomWeb
from dicom_node.delivery.dicomweb import WebSender
from dicom_node.delivery.outcome import Beginning, Outcome, nobody
from dicom_node.delivery.query import Finder, Series
from dicom_node.delivery.scu import Scu

Anywhere = Destination | DicomWeb


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Sends to, probes and asks destinations of either kind; contracts are those of `Scu`."""

    scu: Scu
    finder: Finder
    web: WebSender

    def send(
        self,
        destination: Anywhere,
        files: Sequence[Path],
        within_s: float,
        beginning: Beginning = nobody,
    ) -> list[Outcome]:
        """What became of each file, in their order; `beginning` is called before each."""
        if isinstance(destination, DicomWeb):
            return self.web.send(destination, files, within_s, beginning)
        return self.scu.send(destination, files, within_s, beginning)

    def probe(self, destination: Anywhere) -> str:
        """Why nothing can be sent there; empty where it answers."""
        if isinstance(destination, DicomWeb):
            return self.web.probe(destination)
        return self.scu.echo(destination)

    def instances(
        self,
        destination: Anywhere,
        wanted: Mapping[Series, Sequence[str]],
        going_on: Beginning = nobody,
    ) -> set[str]:
        """Which of these it says it has; see `Finder.instances`."""
        if isinstance(destination, DicomWeb):
            return self.web.instances(destination, wanted, going_on)
        return self.finder.instances(destination, wanted, going_on)

    def study(self, destination: Anywhere, study_instance_uid: str) -> list[Dataset]:
        """What it says of the study. Raises TransientError."""
        if isinstance(destination, DicomWeb):
            return self.web.study(destination, study_instance_uid)
        return self.finder.study(destination, study_instance_uid)


def open_gateway(scu: Scu, web: WebSender) -> Gateway:
    """A gateway whose questions are asked in the name of the SCU."""
    return Gateway(scu=scu, finder=scu.finder(), web=web)
