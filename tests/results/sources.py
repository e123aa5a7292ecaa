"""Synthetic films and attributions: a dark field with one bright box, at a place known by hand."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset

from dicom_node import radiograph
from dicom_node.results.provenance import ResultContext
from pipeline.types import Attribution, Mode, ModelIdentity, Radiograph, Region, Status

ROWS, COLUMNS = 300, 400
BOX = (50, 100, 250, 325)
"""Stored rows 50..100 and columns 250..325, 3750 pixels, are bright."""
DIGEST = "3f9a0c12bd47" + "5" * 52
CREATED = datetime(2025, 3, 4, 23, 6, 7, tzinfo=UTC)


def source(*, monochrome: int = 2, orientation: tuple[str, ...] = ("L", "F")) -> Dataset:
    """A complete CR instance; 12 bits."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = uid.ComputedRadiographyImageStorage
    ds.SOPInstanceUID = "1.2.3.4.3"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3.4.1", "1.2.3.4.2"
    ds.PatientName, ds.PatientID = "Phantom^Ada", "PID-7"
    ds.IssuerOfPatientID = "HOSPITAL"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19500102", "F", "075Y"
    ds.StudyDate, ds.StudyTime, ds.StudyID = "20250304", "101112", "S1"
    ds.ReferringPhysicianName, ds.AccessionNumber = "House^Gregory", "ACC-9"
    ds.StudyDescription, ds.Modality = "Thorax p.a.", "CR"
    ds.SeriesNumber, ds.InstanceNumber = "3", "2"
    ds.BodyPartExamined, ds.ViewPosition = "CHEST", "PA"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.PatientOrientation = list(orientation)
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.PhotometricInterpretation = f"MONOCHROME{monochrome}"
    ds.Rows, ds.Columns = ROWS, COLUMNS
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.WindowCenter, ds.WindowWidth = "2048", "4096"
    grey = np.full((ROWS, COLUMNS), 800, np.uint16)
    r0, r1, c0, c1 = BOX
    grey[r0:r1, c0:c1] = 3600
    ds.add_new("PixelData", "OW", (4095 - grey if monochrome == 1 else grey).tobytes())
    return ds


def located() -> Dataset:
    """The same with real frame-of-reference geometry, as a coronal plane has it."""
    ds = source()
    ds.FrameOfReferenceUID = "1.2.3.4.9"
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 0, -1], [-40, 0, 30]
    ds.PixelSpacing, ds.SliceThickness = [0.2, 0.2], 1
    return ds


def context_for(kind: str, folder: Path) -> ResultContext:
    """An analysis that gives an object of this kind."""
    given = context_of(located(), folder)
    return with_status(given, Status.WITHHELD, "odd") if kind == "not_analysed" else given


def write(ds: Dataset, path: Path) -> Path:
    """A Part 10 file, explicit VR little endian; values are not judged."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", "1.2")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2")
    ds.save_as(path, enforce_file_format=True)
    return path


def attribution(film: Radiograph) -> Attribution:
    """What is brighter than 0.5 differs, by what it is brighter; one region, its bounding box."""
    counterfactual = np.minimum(film.pixels, np.float32(0.5))
    difference = film.pixels - counterfactual
    marked = difference > 0.1
    return Attribution(
        counterfactual=counterfactual,
        difference=difference,
        attribution_map=difference,
        threshold=0.1,
        scale_max=0.5,
        regions=(_box(marked),) if marked.any() else (),
        score=0.75,
        uncertainty=0.0125,
        status=Status.VALID,
        reasons=(),
        model=ModelIdentity(
            name="phantom",
            version="1.2",
            digest=DIGEST,
            mode=Mode.CALIBRATED,
            seed=7,
            method_version="1",
        ),
    )


def _box(marked: np.ndarray) -> Region:
    rows, cols = np.nonzero(marked.any(1))[0], np.nonzero(marked.any(0))[0]
    r0, r1, c0, c1 = map(float, (rows[0], rows[-1] + 1, cols[0], cols[-1] + 1))
    outline = ((r0, c0), (r0, c1), (r1, c1), (r1, c0), (r0, c0))
    return Region(outline=outline, area_px=int(marked.sum()), peak=0.375, mean=0.25)


def context(path: Path) -> ResultContext:
    """The context of a film's analysis."""
    film = radiograph.read(path)
    return ResultContext(
        header=film.header,
        radiograph=film.radiograph,
        attribution=attribution(film.radiograph),
        analysis_key="ab" * 32,
        created_at=CREATED,
    )


def context_of(ds: Dataset, folder: Path) -> ResultContext:
    """The context of an analysis of this data set, by way of a file."""
    return context(write(ds, folder / "source.dcm"))


def with_status(given: ResultContext, status: Status, *reasons: str) -> ResultContext:
    """The same with another status."""
    return replace(given, attribution=replace(given.attribution, status=status, reasons=reasons))
