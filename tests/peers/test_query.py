"""What Orthanc says it holds is what it was sent, and no more."""

import urllib.request
from pathlib import Path

import pytest

from dicom_node.config import DeliveryTimeouts, Destination
from dicom_node.delivery.outcome import Fate
from dicom_node.delivery.query import Finder, Series
from dicom_node.delivery.scu import Scu
from tests.peers import films, orthanc
from tests.peers.orthanc import AE_TITLE

pytestmark = pytest.mark.peer
_TIMEOUTS = DeliveryTimeouts(connect_s=5, association_s=5, response_s=30)


def test_an_instance_is_found_while_it_is_there(tmp_path: Path) -> None:
    ds = films.dx()
    file = films.written(ds, tmp_path)
    place = Series(study_instance_uid=ds.StudyInstanceUID, series_instance_uid=ds.SeriesInstanceUID)
    wanted = {place: [str(ds.SOPInstanceUID), "1.2.3"]}
    with orthanc.running(tmp_path / "orthanc") as pacs:
        there = Destination(ae_title=AE_TITLE, host="127.0.0.1", port=pacs.dicom_port)
        finder = Finder(ae_title="VALD", timeouts=_TIMEOUTS)
        assert finder.instances(there, wanted) == set()
        assert finder.study(there, ds.StudyInstanceUID) == []
        scu = Scu(ae_title="VALD", implementation_class_uid="1.2.3", timeouts=_TIMEOUTS)
        assert [said.fate for said in scu.send(there, [file], 60)] == [Fate.DELIVERED]
        assert finder.instances(there, wanted) == {ds.SOPInstanceUID}
        (study,) = finder.study(there, ds.StudyInstanceUID)
        assert (study.PatientID, study.AccessionNumber) == (ds.PatientID, ds.AccessionNumber)
        (name,) = pacs.get("/instances")
        url = f"http://127.0.0.1:{pacs.http_port}/instances/{name}"
        urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=30).close()
        assert finder.instances(there, wanted) == set()
