import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset, uid

from dicom_node import uids
from dicom_node.results import picture, registry
from dicom_node.results.provenance import ResultContext
from tests.results import sources


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the zone of this process's clock, for one test."""

    def put(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield put
    monkeypatch.undo()
    time.tzset()


def made(context: ResultContext) -> Dataset:
    return pydicom.dcmread(BytesIO(registry.encode(registry.build("secondary_capture", context))))


def test_it_lies_in_the_source_s_study_in_a_series_of_its_own(context: ResultContext) -> None:
    ds = made(context)
    assert ds.StudyInstanceUID == "1.2.3.4.1"
    assert ds.SeriesInstanceUID == uids.series_uid("1.2.3.4.1", "secondary_capture", sources.DIGEST)
    assert (ds.Modality, ds.SeriesNumber) == ("OT", 9001)
    assert (
        ds.SOPClassUID == ds.file_meta.MediaStorageSOPClassUID == uid.SecondaryCaptureImageStorage
    )
    assert ds.file_meta.TransferSyntaxUID == uid.ExplicitVRLittleEndian


def test_patient_and_study_are_the_source_s(context: ResultContext) -> None:
    ds, source = made(context), context.header.dataset
    for keyword in (
        "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
        "PatientAge", "StudyDate", "StudyTime", "StudyID", "ReferringPhysicianName",
        "AccessionNumber", "StudyDescription",
    ):  # fmt: skip
        assert ds[keyword].value == source[keyword].value, keyword


def test_it_is_marked_as_made_and_for_research(context: ResultContext) -> None:
    ds = made(context)
    assert ds.SyntheticData == "YES"
    assert ds.ContentQualification == "RESEARCH"
    assert ds.BurnedInAnnotation == "YES"
    assert list(ds.ImageType) == ["DERIVED", "SECONDARY"]
    assert "not for diagnosis" in ds.ImageComments


def test_it_names_its_source_and_how_it_was_derived(context: ResultContext) -> None:
    ds = made(context)
    (image,) = ds.SourceImageSequence
    assert image.ReferencedSOPInstanceUID == "1.2.3.4.3"
    assert image.ReferencedSOPClassUID == uid.ComputedRadiographyImageStorage
    assert image.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    values = [code.CodeValue for code in ds.DerivationCodeSequence]
    assert values == ["113062", "VALD030"]
    assert "latent diffusion" in ds.DerivationDescription


def test_it_names_the_equipment_with_the_whole_model_digest(context: ResultContext) -> None:
    (item,) = made(context).ContributingEquipmentSequence
    purpose = item.PurposeOfReferenceCodeSequence[0]
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("109100", "DCM")
    assert sources.DIGEST in item.ContributionDescription
    assert "phantom 1.2" in item.SoftwareVersions


def test_its_times_are_the_analysis_s(context: ResultContext, clock: Callable[[str], None]) -> None:
    clock("UTC")
    ds = made(context)
    assert (ds.ContentDate, ds.ContentTime) == ("20250304", "230607")
    assert (ds.InstanceCreationDate, ds.InstanceCreationTime) == ("20250304", "230607")


def test_a_film_that_states_no_offset_has_the_times_of_the_node_s_clock(
    context: ResultContext, clock: Callable[[str], None]
) -> None:
    clock("XST-05:30")  # east of Greenwich, as POSIX signs it
    ds = made(context)
    assert "TimezoneOffsetFromUTC" not in ds
    assert (ds.ContentDate, ds.ContentTime) == ("20250305", "043607")
    (item,) = ds.ContributingEquipmentSequence
    assert item.ContributionDateTime == "20250305043607+0530"


def test_its_times_are_on_the_source_s_clock(tmp_path: Path) -> None:
    source = sources.source()
    source.TimezoneOffsetFromUTC = "+0530"
    ds = made(sources.context_of(source, tmp_path))
    assert ds.TimezoneOffsetFromUTC == "+0530"
    assert (ds.ContentDate, ds.ContentTime) == ("20250305", "043607")  # 23:06:07 UTC + 5:30


def test_its_pixels_are_the_picture(context: ResultContext) -> None:
    ds = made(context)
    assert ds.PhotometricInterpretation == "RGB"
    expected = picture.panels(context.radiograph, context.attribution)
    assert np.array_equal(ds.pixel_array, expected)


def test_it_has_neither_spacing_nor_frame_of_reference(tmp_path: Path) -> None:
    source = sources.source()
    source.PixelSpacing, source.FrameOfReferenceUID = [0, 0], "1.2.9"
    ds = made(sources.context_of(source, tmp_path))
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "FrameOfReferenceUID"):
        assert keyword not in ds


def test_films_of_one_study_share_a_series_and_its_attributes(tmp_path: Path) -> None:
    other = sources.source()
    other.SeriesNumber, other.BodyPartExamined, other.Laterality = "4", "LUNG", "R"
    first = made(sources.context_of(sources.source(), tmp_path))
    second = made(sources.context_of(other, tmp_path))
    for keyword in ("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "BodyPartExamined"):
        assert first[keyword].value == second[keyword].value
    assert (first.InstanceNumber, second.InstanceNumber) == (3002, 4002)


def test_a_lossy_source_makes_a_lossy_result(tmp_path: Path) -> None:
    source = sources.source()
    source.LossyImageCompression = "01"
    source.LossyImageCompressionRatio = ["10", "3.5"]
    source.LossyImageCompressionMethod = ["ISO_10918_1", "ISO_15444_1"]
    ds = made(sources.context_of(source, tmp_path))
    assert ds.LossyImageCompression == "01"
    assert [float(ratio) for ratio in ds.LossyImageCompressionRatio] == [10, 3.5]
    assert list(ds.LossyImageCompressionMethod) == ["ISO_10918_1", "ISO_15444_1"]


@pytest.mark.parametrize("stated", ["00", None])
def test_a_picture_of_what_was_never_lossy_says_so(tmp_path: Path, stated: str | None) -> None:
    source = sources.source()
    if stated:
        source.LossyImageCompression = stated
    ds = made(sources.context_of(source, tmp_path))
    assert ds.LossyImageCompression == "00"


def test_the_same_context_gives_the_same_bytes(tmp_path: Path) -> None:
    path = sources.write(sources.source(), tmp_path / "film.dcm")
    first, second = (
        registry.encode(registry.build("secondary_capture", sources.context(path)))
        for _ in range(2)
    )
    assert first == second


def test_a_lossy_syntax_says_what_the_header_does_not(context: ResultContext) -> None:
    header = replace(context.header, transfer_syntax_uid=uid.JPEGBaseline8Bit)
    ds = made(replace(context, header=header))
    assert (ds.LossyImageCompression, ds.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert "LossyImageCompressionRatio" not in ds  # nobody said it
