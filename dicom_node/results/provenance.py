"""What every result object shares: patient and study, a series of its own, who made it of what."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Protocol

from pydicom import Dataset, Sequence
from pydicom.sr.codedict import codes as standard
from pydicom.uid import UID

from dicom_node import __version__, attributes, identity, uids
from dicom_node.config import SeriesLabels
from dicom_node.radiograph import SourceHeader
from dicom_node.results import carried, codes, wording
from pipeline.types import Attribution, ModelIdentity, Radiograph, Status

_LO_LENGTH = 64
_INSTANCES_A_SERIES = 1000
_LARGEST_SERIES = 2_000_000  # times 1000 it is still an IS (PS3.5 6.2: below 2^31)


class Context(Protocol):
    """What every result object is made of: which film, which model, which analysis.

    `created_at` is aware; it is written in the source's time zone where that states one, else in
    the node's own.
    """

    @property
    def header(self) -> SourceHeader:
        """The film, without pixels."""
        ...

    @property
    def model(self) -> ModelIdentity:
        """Who made, or would have made, the result."""
        ...

    @property
    def analysis_key(self) -> str:
        """From which UIDs are derived."""
        ...

    @property
    def created_at(self) -> datetime:
        """When the analysis was asked for."""
        ...

    @property
    def labels(self) -> SeriesLabels:
        """The site's series numbers and description."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentReference:
    """A document of the same study that was made before."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultContext:
    """Everything that a result object of an analysed film is made of (see `Context`).

    `predecessors` are reports of the same film by other models, which this one supersedes.
    """

    header: SourceHeader
    radiograph: Radiograph
    attribution: Attribution
    analysis_key: str
    created_at: datetime
    labels: SeriesLabels = field(default_factory=SeriesLabels)
    predecessors: tuple[DocumentReference, ...] = ()

    @property
    def model(self) -> ModelIdentity:
        """Who made the result."""
        return self.attribution.model


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What is fixed of all objects of one kind. `template` is raised with the object's layout.

    The site's labels have the series' number, and the words around `title`.
    """

    kind: str
    sop_class_uid: str
    modality: str
    title: str
    template: str


def new_object(context: Context, series: Series) -> Dataset:
    """An object with Patient, Study, Series, Equipment and SOP Common modules, yet no content.

    Raises:
        InputError: the source cannot be referred to.
    """
    source = context.header.dataset
    carried.demand_references(source)
    ds = Dataset()
    carried.put_patient_and_study(ds, source)
    _put_series(ds, context, series)
    _put_equipment(ds, context.model)
    _put_sop_common(ds, context, series)
    return ds


def local_time(context: Context) -> datetime:
    """`created_at` on the clock by which the source's times are read (PS3.3 C.12.1.1.8).

    Where the source states none that is the site's, which is taken to be this machine's.
    """
    offset = carried.valid_text(context.header.dataset, "TimezoneOffsetFromUTC")
    if not offset:
        return context.created_at.astimezone()
    minutes = int(offset[1:3]) * 60 + int(offset[3:5])
    zone = timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
    return context.created_at.astimezone(zone)


def put_content_time(ds: Dataset, context: Context) -> None:
    """Content Date and Time are when the analysis was made."""
    made = local_time(context)
    ds.ContentDate, ds.ContentTime = f"{made:%Y%m%d}", f"{made:%H%M%S}"


def source_reference(context: Context) -> Dataset:
    """SOP Instance Reference to the film (PS3.3 table 10-11)."""
    source, item = context.header.dataset, Dataset()
    item.ReferencedSOPClassUID = UID(carried.text(source, "SOPClassUID"))
    item.ReferencedSOPInstanceUID = UID(carried.text(source, "SOPInstanceUID"))
    return item


def tracking_uid(context: Context, role: str) -> str:
    """What names a region in every object that shows it (PS3.16 TID 4108; PS3.3 table 10-12)."""
    return uids.result_uid(context.analysis_key, role, "1")


def instance_number(source: Dataset) -> str:
    """The source's place in its study: results of films of several series share one series."""
    series = attributes.integer(source, "SeriesNumber")
    instance = attributes.integer(source, "InstanceNumber")
    if instance is None or not 0 <= instance < _INSTANCES_A_SERIES:
        return "1"
    if series is None or not 0 <= series < _LARGEST_SERIES:
        return str(instance)
    return str(series * _INSTANCES_A_SERIES + instance)


def put_general_series(ds: Dataset) -> None:
    """Body Part Examined: the same for every film of the series (PS3.3 C.7.3.1).

    A chest has no side, so no Laterality; SR Document Series has neither.
    """
    ds.BodyPartExamined = "CHEST"


def is_withheld(context: ResultContext) -> bool:
    """Whether a receiver is shown neither counterpart nor map."""
    return context.attribution.status is Status.WITHHELD


def short(text: str) -> str:
    """Text as one valid LO value (PS3.5 6.2)."""
    return "".join(c for c in text.replace("\\", "/") if c.isprintable())[:_LO_LENGTH].strip()


def _put_series(ds: Dataset, context: Context, series: Series) -> None:
    """General Series (PS3.3 C.7.3.1); no series date, as films of other days may follow."""
    ds.Modality = series.modality
    ds.SeriesInstanceUID = uids.series_uid(ds.StudyInstanceUID, series.kind, context.model.digest)
    ds.SeriesNumber = str(context.labels.numbers[series.kind])
    ds.SeriesDescription = _description(context, series)
    ds.InstanceNumber = instance_number(context.header.dataset)


def _description(context: Context, series: Series) -> str:
    """The site's template filled in, cut to what an LO holds (PS3.5 6.2)."""
    said = context.labels.description.format(
        object=series.title, model=context.model.name, version=context.model.version
    )
    return short(said)


def _put_equipment(ds: Dataset, model: ModelIdentity) -> None:
    """General Equipment (PS3.3 C.7.5.1)."""
    ds.Manufacturer = identity.MANUFACTURER
    ds.ManufacturerModelName = identity.MODEL_NAME
    ds.DeviceSerialNumber = short(model.digest)
    ds.SoftwareVersions = [
        short(f"vald-node {__version__}"),
        short(f"{model.name} {model.version}"),
    ]
    ds.DeviceUID = uids.device_uid(model.digest)


def _put_sop_common(ds: Dataset, context: Context, series: Series) -> None:
    """SOP Common (PS3.3 C.12.1), with what marks the object as made, and for research."""
    made = local_time(context)
    ds.SOPClassUID = UID(series.sop_class_uid)
    ds.SOPInstanceUID = uids.result_uid(context.analysis_key, series.kind, series.template)
    ds.InstanceCreationDate, ds.InstanceCreationTime = f"{made:%Y%m%d}", f"{made:%H%M%S}"
    ds.SyntheticData = "YES"
    ds.ContentQualification = "RESEARCH"
    ds.CodingSchemeIdentificationSequence = codes.scheme_identification()
    ds.ContributingEquipmentSequence = Sequence([_contribution(ds, context)])


def _contribution(ds: Dataset, context: Context) -> Dataset:
    """Synthesizing equipment (PS3.3 C.12.1, PS3.16 CID 7005): network, weights, settings."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Sequence([codes.item(standard.DCM.SynthesizingEquipment)])
    for keyword in (
        "Manufacturer",
        "ManufacturerModelName",
        "DeviceSerialNumber",
        "SoftwareVersions",
    ):
        setattr(item, keyword, ds[keyword].value)
    item.ContributionDateTime = f"{local_time(context):%Y%m%d%H%M%S%z}"
    said = (
        f"{wording.RESEARCH_WORDS}. {wording.model_line(context.model)}. "
        f"Model digest sha256:{context.model.digest}"
    )
    item.ContributionDescription = said[:1024]
    return item
