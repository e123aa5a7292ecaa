"""A chest radiograph of no patient: made by the model, as a DX image that says so."""

from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from dicom_node import identity
from pipeline import digest, sampling, weights
from pipeline.types import Image

_SIDE_PX = 1024
_SIDE_MM = 350.0  # a detector plate's side
_BITS = 12
_PROMPT = "Right upper zone consolidation"


def write(path: Path, model: str, seed: int, made_at: datetime) -> None:
    """`path` is a synthetic normal chest film with an opacity induced in the right upper zone."""
    loaded = weights.load(digest.folder_of(model), weights.choose_device("auto"))
    data_set = as_dx(sampling.sample(loaded, seed, _PROMPT).film, made_at)
    path.parent.mkdir(parents=True, exist_ok=True)
    data_set.save_as(path, enforce_file_format=True)


def as_dx(film: Image, made_at: datetime) -> Dataset:
    """A film, 0 black .. 1 white, as Digital X-Ray Image For Presentation (PS3.3 A.26)."""
    ds = Dataset()
    _put_patient_and_study(ds, made_at)
    _put_equipment(ds)
    _put_image(ds, film)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.ImplementationClassUID = UID(identity.IMPLEMENTATION_CLASS_UID)
    return ds


def _put_patient_and_study(ds: Dataset, made_at: datetime) -> None:
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName, ds.PatientID = "SYNTHETIC^DEMO", "VALD-DEMO"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "", "O", "050Y"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = f"{made_at:%Y%m%d}"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = f"{made_at:%H%M%S}"
    ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "1", "DEMO1", ""
    ds.StudyDescription = "Synthetic chest radiograph"
    ds.SeriesNumber, ds.InstanceNumber = "1", "1"


def _put_equipment(ds: Dataset) -> None:
    ds.Manufacturer = identity.MANUFACTURER
    ds.DeviceSerialNumber = "demo"
    ds.SyntheticData = "YES"
    ds.ContentQualification = "RESEARCH"
    ds.BurnedInAnnotation = "NO"


def _put_image(ds: Dataset, film: Image) -> None:
    ds.SOPClassUID, ds.SOPInstanceUID = DigitalXRayImageStorageForPresentation, generate_uid()
    ds.Modality, ds.PresentationIntentType = "DX", "FOR PRESENTATION"
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.BodyPartExamined, ds.ViewPosition, ds.ImageLaterality = "CHEST", "PA", "U"
    ds.PatientOrientation = ["L", "F"]
    ds.ImagerPixelSpacing = [_SIDE_MM / _SIDE_PX] * 2
    ds.Rows = ds.Columns = _SIDE_PX
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, _BITS, _BITS - 1
    ds.PixelRepresentation = 0
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PresentationLUTShape, ds.LossyImageCompression = "IDENTITY", "00"
    white = (1 << _BITS) - 1
    ds.WindowCenter, ds.WindowWidth = str(white / 2), str(white)
    large = Pillow.fromarray(film).resize((_SIDE_PX, _SIDE_PX), Pillow.Resampling.BICUBIC)
    ds.PixelData = (np.asarray(large).clip(0, 1) * white).round().astype("<u2").tobytes()
