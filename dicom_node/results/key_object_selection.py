"""A flag on the study as a Key Object Selection Document (PS3.3 A.35.4, PS3.16 TID 2010)."""

from collections.abc import Sequence as Items

from highdicom import ko
from pydicom import Dataset, Sequence, uid
from pydicom.sr.codedict import codes as standard
from pydicom.sr.coding import Code

from dicom_node.results import document, provenance, wording
from dicom_node.results.provenance import Context, DocumentReference, ResultContext, Series

SERIES = Series(
    kind="key_object_selection",
    sop_class_uid=uid.KeyObjectSelectionDocumentStorage,
    modality="KO",
    title="flag",
    template="1",
)


def applies(context: ResultContext) -> bool:
    """Whether there is a region to look at: a flag on every study would be none."""
    return bool(wording.reported_regions(context.attribution))


def build(context: ResultContext) -> Dataset:
    """The film is of interest, because of so many regions.

    Raises:
        InputError: the source cannot be referred to.
    """
    made = context.attribution
    count = len(wording.reported_regions(made))
    said = (
        f"{wording.RESEARCH_WORDS}. {count} region{'' if count == 1 else 's'} of this film "
        f"differ{'s' if count == 1 else ''} from its normal counterpart; score {made.score:.2f}, "
        f"status {made.status.value}."
    )
    return selection(context, SERIES, standard.DCM.OfInterest, [document.source(context)], said)


def selection(
    context: Context, series: Series, title: Code, chosen: Items[DocumentReference], said: str
) -> Dataset:
    """A Key Object Selection of `chosen` under a title of CID 7010, and why in words.

    Raises:
        InputError: the source cannot be referred to.
    """
    ds = provenance.new_object(context, series)
    provenance.put_content_time(ds, context)
    ds.ReferencedPerformedProcedureStepSequence = Sequence()
    ds.CurrentRequestedProcedureEvidenceSequence = document.hierarchy(chosen)
    content = ko.KeyObjectSelection(
        document_title=title,
        referenced_objects=[_instance(reference) for reference in chosen],
        observer_device_context=document.device(context.model),
        description=said,
    )
    ds.update(content[0])
    return ds


def _instance(reference: DocumentReference) -> Dataset:
    """What highdicom looks at to tell an image from another object."""
    ds = Dataset()
    ds.SOPClassUID = uid.UID(reference.sop_class_uid)
    ds.SOPInstanceUID = uid.UID(reference.sop_instance_uid)
    if "Image" in ds.SOPClassUID.name:
        ds.Rows = ds.Columns = 1
    return ds
