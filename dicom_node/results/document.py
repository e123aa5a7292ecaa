"""What the documents among the results share: general module, evidence, observer, model."""

from collections.abc import Sequence as Items
from itertools import groupby

from highdicom import sr
from pydicom import Dataset, Sequence, uid
from pydicom.sr.codedict import codes as standard

from dicom_node import identity, uids
from dicom_node.results import carried, provenance
from dicom_node.results.provenance import Context, DocumentReference
from pipeline.types import ModelIdentity


def put_general(ds: Dataset, context: Context, *, complete: bool, said: str) -> None:
    """SR Document Series and General (PS3.3 C.17.1, C.17.2): verified by nobody."""
    provenance.put_content_time(ds, context)
    ds.ReferencedPerformedProcedureStepSequence = Sequence()
    ds.PerformedProcedureCodeSequence = Sequence()
    ds.CompletionFlag = "COMPLETE" if complete else "PARTIAL"
    ds.CompletionFlagDescription = said
    ds.VerificationFlag = "UNVERIFIED"
    ds.CurrentRequestedProcedureEvidenceSequence = hierarchy([source(context)])


def source(context: Context) -> DocumentReference:
    """The film, with its study and series."""
    film = context.header.dataset
    return DocumentReference(
        study_instance_uid=carried.text(film, "StudyInstanceUID"),
        series_instance_uid=carried.text(film, "SeriesInstanceUID"),
        sop_class_uid=carried.text(film, "SOPClassUID"),
        sop_instance_uid=carried.text(film, "SOPInstanceUID"),
    )


def hierarchy(references: Items[DocumentReference]) -> Sequence:
    """Instances by study and series: the hierarchical reference macro (PS3.3 table C.17-3)."""
    by_place = sorted(references, key=_place)
    studies = groupby(by_place, key=lambda reference: reference.study_instance_uid)
    return Sequence([_study(study_uid, list(found)) for study_uid, found in studies])


def sop_reference(reference: DocumentReference) -> Dataset:
    """SOP Instance Reference (PS3.3 table 10-11)."""
    item = Dataset()
    item.ReferencedSOPClassUID = uid.UID(reference.sop_class_uid)
    item.ReferencedSOPInstanceUID = uid.UID(reference.sop_instance_uid)
    return item


def device(model: ModelIdentity) -> sr.ObserverContext:
    """The node with this model as observer (TID 1004)."""
    return sr.ObserverContext(
        observer_type=standard.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=uids.device_uid(model.digest),
            name=identity.MODEL_NAME,
            manufacturer_name=identity.MANUFACTURER,
            model_name=identity.MODEL_NAME,
            serial_number=provenance.short(model.digest),
        ),
    )


def model_parameters(model: ModelIdentity) -> dict[str, str]:
    """What, beside name and version, decides the outcome (TID 4019; PS3.3 table 10-19)."""
    return {
        "model digest": f"sha256:{model.digest}",
        "mode": model.mode,
        "seed": str(model.seed),
        "method version": model.method_version,
    }


def _place(reference: DocumentReference) -> tuple[str, str, str]:
    return (
        reference.study_instance_uid,
        reference.series_instance_uid,
        reference.sop_instance_uid,
    )


def _study(study_uid: str, references: list[DocumentReference]) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID = uid.UID(study_uid)
    series = groupby(references, key=lambda reference: reference.series_instance_uid)
    item.ReferencedSeriesSequence = Sequence([_series(name, list(refs)) for name, refs in series])
    return item


def _series(series_uid: str, references: list[DocumentReference]) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = uid.UID(series_uid)
    item.ReferencedSOPSequence = Sequence([sop_reference(reference) for reference in references])
    return item
