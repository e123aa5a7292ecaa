"""What highdicom needs of a source to lay an image on it, and what of its work is kept.

highdicom copies patient and study from the source and stamps the present time and random UIDs. It
is therefore given a stand-in with attributes that are known to be valid, and what it adds to the
modules that all results share is replaced by `provenance`'s.
"""

from fractions import Fraction
from typing import TypedDict

import numpy as np
from pydicom import Dataset, uid

from dicom_node import attributes, orientation, uids
from dicom_node.radiograph import SourceHeader
from dicom_node.results import carried, derivation, provenance
from dicom_node.results.provenance import ResultContext

_LEAST_ORTHOGONAL = 1e-4
"""As PS3.3 C.7.6.2.1.1 has it, row and column direction are orthogonal unit vectors."""


class Who(TypedDict):
    """The part of a highdicom constructor's arguments that `provenance` replaces or repeats."""

    series_instance_uid: str
    series_number: int
    sop_instance_uid: str
    instance_number: int
    manufacturer: str
    manufacturer_model_name: str
    software_versions: str
    device_serial_number: str
    content_label: str


def who(ds: Dataset) -> Who:
    """The shared attributes of `ds` as highdicom's constructors take them."""
    return Who(
        series_instance_uid=str(ds.SeriesInstanceUID),
        series_number=int(ds.SeriesNumber),
        sop_instance_uid=str(ds.SOPInstanceUID),
        instance_number=int(ds.InstanceNumber),
        manufacturer=str(ds.Manufacturer),
        manufacturer_model_name=str(ds.ManufacturerModelName),
        software_versions=str(ds.SoftwareVersions[0]),
        device_serial_number=str(ds.DeviceSerialNumber),
        content_label="VALD",
    )


def has_geometry(context: ResultContext) -> bool:
    """Whether the source states where it lies in a frame of reference (PS3.3 C.7.4.1, C.7.6.2).

    Spacing and thickness belong to it: both are Type 1C there (C.7.6.16.2.1). A
    projection radiograph rarely does; none is invented for it.
    """
    source = context.header.dataset
    turn = np.array(attributes.numbers(source, "ImageOrientationPatient"))
    place = attributes.numbers(source, "ImagePositionPatient")
    if len(turn) != 6 or len(place) != 3 or context.header.spacing_plane != "calibrated":
        return False
    if (attributes.number(source, "SliceThickness") or 0) <= 0:
        return False
    if not uid.UID(carried.text(source, "FrameOfReferenceUID")).is_valid:
        return False
    axes = turn.reshape(2, 3)
    return bool(np.abs(axes @ axes.T - np.eye(2)).max() < _LEAST_ORTHOGONAL)


def aspect_ratio(header: SourceHeader) -> list[int]:
    """A stored pixel's height and width as two whole numbers (PS3.3 C.7.6.3.1.7)."""
    ratio = Fraction(header.aspect).limit_denominator(1000)
    return [ratio.numerator, ratio.denominator]


def stand_in(context: ResultContext) -> Dataset:
    """A data set that highdicom takes for the source. It is nobody's: highdicom logs odd names."""
    source, header, film = context.header.dataset, context.header, Dataset()
    for keyword in _NOBODY:
        carried.put(film, keyword, "")
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(film, keyword, uid.UID(carried.text(source, keyword)))
    film.Modality = carried.valid_text(source, "Modality") or "OT"
    film.Rows, film.Columns = header.rows, header.columns
    film.SamplesPerPixel = 1
    film.NumberOfFrames = 1  # of a multi-frame class only films of one frame come this far
    if has_geometry(context):
        film.FrameOfReferenceUID = uid.UID(carried.text(source, "FrameOfReferenceUID"))
        for keyword in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"):
            setattr(film, keyword, list(attributes.numbers(source, keyword)))
        carried.put(film, "PositionReferenceIndicator", "")
        film.SliceThickness = attributes.number(source, "SliceThickness")
    return film


_NOBODY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)


def put_image(ds: Dataset, made: Dataset, context: ResultContext) -> None:
    """`ds` has what highdicom made, under the shared modules that it had before."""
    _derive_uids(made, context, str(ds.SOPInstanceUID))
    for element in made:
        if element.tag not in ds and element.keyword not in _STAMPED:
            ds[element.tag] = element
    provenance.put_content_time(ds, context)
    provenance.put_general_series(ds)
    carried.put(ds, "ContentCreatorName", "")  # Type 2 (PS3.3 table 10-12): nobody
    if "FrameOfReferenceUID" not in ds:
        carried.put(ds, "PatientOrientation", "\\".join(orientation.stated(context.header.dataset)))
        if context.header.aspect != 1:
            ds.PixelAspectRatio = aspect_ratio(context.header)
    ds.BurnedInAnnotation = "NO"
    said = "Difference of the film from its normal counterpart synthesised by latent diffusion."
    derivation.put(ds, context, said)
    if "LossyImageCompression" not in ds:  # Type 1 of these images (PS3.3 C.8.20.2, C.8.23.1)
        ds.LossyImageCompression = "00"


_STAMPED = frozenset({"LossyImageCompression", "SeriesDate", "SeriesTime"})


def _derive_uids(made: Dataset, context: ResultContext, sop_instance_uid: str) -> None:
    """The dimension organization has a derived UID instead of a random one (PS3.3 C.7.6.17)."""
    derived = uid.UID(uids.result_uid(context.analysis_key, "dimensions", sop_instance_uid))
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        if "DimensionOrganizationUID" in item:
            item.DimensionOrganizationUID = derived
