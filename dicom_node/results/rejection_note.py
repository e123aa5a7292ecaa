"""A recalled model's results are not to be shown: an IOCM rejection note.

IHE RAD TF-1 section 37 (Imaging Object Change Management): a Key Object Selection whose title says
why the objects that it names are rejected. The results stay what they were; archives hide them.
"""

from collections.abc import Sequence as Items

from pydicom import Dataset, uid
from pydicom.sr.codedict import codes as standard

from dicom_node.results import key_object_selection
from dicom_node.results.provenance import Context, DocumentReference, Series
from storage.jobs import REJECTION_NOTE

SERIES = Series(
    kind=REJECTION_NOTE,
    sop_class_uid=uid.KeyObjectSelectionDocumentStorage,
    modality="KO",
    title="rejected results",
    template="1",
)


def build(context: Context, rejected: Items[DocumentReference]) -> Dataset:
    """The note that names all results of one analysis.

    Raises:
        InputError: the source cannot be referred to.
    """
    title = standard.DCM.RejectedForPatientSafetyReasons  # 113037, CID 7010
    said = f"Results of a model that was recalled: sha256 {context.model.digest}"
    return key_object_selection.selection(context, SERIES, title, rejected, said)
