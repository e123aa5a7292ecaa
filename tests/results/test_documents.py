"""The flag on the study, the note on a film that was not analysed, and the rejection note."""

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import BasicTextSRStorage, KeyObjectSelectionDocumentStorage

from dicom_node.results import conformity, not_analysed, registry, rejection_note
from dicom_node.results.not_analysed import Refusal
from dicom_node.results.provenance import DocumentReference, ResultContext
from pipeline.types import Status
from tests.results import sources, tools
from tests.results.tools import read_back

FLAG = "key_object_selection"


def said(ds: Dataset, code_value: str) -> str:
    (text,) = [
        str(item.TextValue)
        for item in ds.ContentSequence
        if item.ValueType == "TEXT" and item.ConceptNameCodeSequence[0].CodeValue == code_value
    ]
    return text


def refusal(context: ResultContext) -> Refusal:
    return Refusal(
        header=context.header,
        model=context.model,
        analysis_key=context.analysis_key,
        created_at=context.created_at,
    )


def test_a_film_with_regions_is_flagged(context: ResultContext) -> None:
    ds = read_back(registry.build(FLAG, context))
    assert ds.SOPClassUID == KeyObjectSelectionDocumentStorage
    assert ds.ConceptNameCodeSequence[0].CodeValue == "113000"  # Of Interest, CID 7010
    (image,) = [item for item in ds.ContentSequence if item.ValueType == "IMAGE"]
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.3"
    assert "1 region of this film differs" in said(ds, "113012")


def test_a_film_without_regions_is_not_flagged(context: ResultContext) -> None:
    none = replace(context, attribution=replace(context.attribution, regions=()))
    assert FLAG not in registry.kinds_for(none)


def test_a_withheld_result_says_why_the_film_is_not_analysed(context: ResultContext) -> None:
    withheld = sources.with_status(context, Status.WITHHELD, "the film is over-exposed")
    kinds = registry.kinds_for(withheld)
    assert kinds == ("secondary_capture", "structured_report", "not_analysed")
    ds = read_back(registry.build("not_analysed", withheld))
    assert ds.SOPClassUID == BasicTextSRStorage
    reason = "Not analysed, because the result is withheld: the film is over-exposed."
    assert said(ds, "VALD007") == reason
    # A picture and a report lie beside it.
    assert "No result of this film exists" not in said(ds, codes.DCM.Summary.value)


def test_a_result_that_is_shown_has_no_such_note(context: ResultContext) -> None:
    assert "not_analysed" not in registry.kinds_for(context)


def test_a_refused_film_s_note_says_why(context: ResultContext, tmp_path: Path) -> None:
    ds = not_analysed.refused(refusal(context), "its pixel data is cut short.")
    assert said(ds, "VALD007") == "Not analysed, because its pixel data is cut short."
    assert conformity.check(ds) == ()
    path = tmp_path / "note.dcm"
    path.write_bytes(registry.encode(ds))
    assert tools.dciodvfy_errors(path) == set()


def test_a_rejection_note_names_every_result(context: ResultContext, tmp_path: Path) -> None:
    results = [registry.build(kind, context) for kind in registry.kinds_for(context)]
    rejected = [
        DocumentReference(
            study_instance_uid=ds.StudyInstanceUID,
            series_instance_uid=ds.SeriesInstanceUID,
            sop_class_uid=ds.SOPClassUID,
            sop_instance_uid=ds.SOPInstanceUID,
        )
        for ds in results
    ]
    note = rejection_note.build(refusal(context), rejected)
    assert note.ConceptNameCodeSequence[0].CodeValue == "113037"
    (study,) = note.CurrentRequestedProcedureEvidenceSequence
    named = {
        item.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert named == {str(ds.SOPInstanceUID) for ds in results}
    assert sources.DIGEST in said(note, "113012")
    path = tmp_path / "note.dcm"
    path.write_bytes(registry.encode(note))
    assert tools.dciodvfy_errors(path) == set()


@pytest.mark.parametrize("kind", registry.KINDS)
def test_the_same_analysis_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    first, second = (
        registry.encode(registry.build(kind, sources.context_for(kind, tmp_path))) for _ in range(2)
    )
    assert first == second
