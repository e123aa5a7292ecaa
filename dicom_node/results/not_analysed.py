"""Why a film was not analysed, as a Basic Text SR (PS3.3 A.35.1): a note instead of silence."""

from dataclasses import dataclass, field, replace
from datetime import datetime

from highdicom import sr
from pydicom import Dataset, uid
from pydicom.sr.codedict import codes as standard

from dicom_node.config import SeriesLabels
from dicom_node.radiograph import SourceHeader
from dicom_node.results import codes, document, provenance, wording
from dicom_node.results.provenance import Context, ResultContext, Series
from pipeline.types import ModelIdentity

SERIES = Series(
    kind="not_analysed",
    sop_class_uid=uid.BasicTextSRStorage,
    modality="SR",
    title="not analysed",
    template="1",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What a note is made of where there is no analysis (see provenance.Context)."""

    header: SourceHeader
    model: ModelIdentity
    analysis_key: str
    created_at: datetime
    labels: SeriesLabels = field(default_factory=SeriesLabels)


def applies(context: ResultContext) -> bool:
    """Whether an analysis that was made is withheld."""
    return provenance.is_withheld(context)


def build(context: ResultContext) -> Dataset:
    """The note on a withheld result.

    Raises:
        InputError: the source cannot be referred to.
    """
    reasons = "; ".join(context.attribution.reasons) or "the model's checks were not passed"
    return _note(
        context,
        f"the result is withheld: {reasons}",
        "No number of this film is given, and neither counterpart nor map.",
    )


def refused(context: Context, reason: str) -> Dataset:
    """The note on a film that was refused for `reason`, which its UID depends on.

    A film that is sent again may be refused for another, or analysed.

    Raises:
        InputError: the source cannot be referred to.
    """
    series = replace(SERIES, template=f"{SERIES.template} {reason}")
    return _note(context, reason, "No result of this film exists.", series)


def _note(context: Context, reason: str, consequence: str, series: Series = SERIES) -> Dataset:
    ds = provenance.new_object(context, series)
    document.put_general(ds, context, complete=True, said="The film was not analysed")
    ds.update(_content(context, f"Not analysed, because {reason}", consequence))
    return ds


def _content(context: Context, said: str, consequence: str) -> Dataset:
    """Root container with language, observer, the film, the reason, and what follows from it."""
    contains = sr.RelationshipTypeValues.CONTAINS
    film = document.source(context)
    root = sr.ContainerContentItem(name=codes.NOT_ANALYSED)
    root.ContentSequence = sr.ContentSequence(
        [
            *sr.LanguageOfContentItemAndDescendants(sr.CodedConcept.from_code(codes.ENGLISH)),
            *document.device(context.model),
            sr.ImageContentItem(
                name=standard.DCM.SourceImage,
                referenced_sop_class_uid=film.sop_class_uid,
                referenced_sop_instance_uid=film.sop_instance_uid,
                relationship_type=contains,
            ),
            sr.TextContentItem(
                name=codes.REASON, value=f"{said}.".replace("..", "."), relationship_type=contains
            ),
            sr.TextContentItem(
                name=standard.DCM.Summary,
                value=f"{wording.RESEARCH_WORDS}. {consequence}",
                relationship_type=contains,
            ),
        ]
    )
    return root
