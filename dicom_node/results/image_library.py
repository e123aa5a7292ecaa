"""The film as an SR's image library describes it (PS3.16 TID 1600, 1602 and 1603)."""

from highdicom import sr
from pydicom.sr.codedict import codes as standard
from pydicom.sr.coding import Code

from dicom_node import orientation
from dicom_node.results import carried, codes, provenance, wording
from dicom_node.results.provenance import ResultContext

_MODALITIES: dict[str, Code] = {
    "CR": standard.DCM.ComputedRadiography,
    "DX": standard.DCM.DigitalRadiography,
    "RG": standard.DCM.RadiographicImaging,
}
_CONTEXT = sr.RelationshipTypeValues.HAS_ACQ_CONTEXT


def build(context: ResultContext) -> sr.ContainerContentItem:
    """One group of one image; of its descriptors those that the film states, validly."""
    contains = sr.RelationshipTypeValues.CONTAINS
    reference = provenance.source_reference(context)
    image = sr.ImageContentItem(
        name=standard.DCM.SourceImage,
        referenced_sop_class_uid=reference.ReferencedSOPClassUID,
        referenced_sop_instance_uid=reference.ReferencedSOPInstanceUID,
        relationship_type=contains,
    )
    image.ContentSequence = sr.ContentSequence(_descriptors(context))
    group = sr.ContainerContentItem(name=standard.DCM.ImageLibraryGroup, relationship_type=contains)
    group.ContentSequence = sr.ContentSequence([image])
    library = sr.ContainerContentItem(name=standard.DCM.ImageLibrary, relationship_type=contains)
    library.ContentSequence = sr.ContentSequence([group])
    return library


def _descriptors(context: ResultContext) -> list[sr.ContentItem]:
    header, said = context.header, standard.DCM
    modality = _MODALITIES.get(carried.valid_text(header.dataset, "Modality"))
    found: list[sr.ContentItem] = [
        _number(said.PixelDataRows, header.rows, codes.PIXELS),
        _number(said.PixelDataColumns, header.columns, codes.PIXELS),
    ]
    if modality is not None:
        found.insert(0, sr.CodeContentItem(said.Modality, modality, _CONTEXT))
    directions = orientation.stated(header.dataset)
    names = (said.PatientOrientationRow, said.PatientOrientationColumn)
    found += [
        sr.TextContentItem(name, direction, _CONTEXT)
        for name, direction in zip(names, directions, strict=bool(directions))
    ]
    if header.spacing_mm is not None and header.spacing_plane:
        down, across = header.spacing_mm
        unit = standard.UCUM.Millimeter
        found.append(_number(said.HorizontalPixelSpacing, across, unit))
        found.append(_number(said.VerticalPixelSpacing, down, unit))
    return found


def _number(name: Code, value: float, unit: Code) -> sr.NumContentItem:
    return sr.NumContentItem(name, wording.number(value), unit, relationship_type=_CONTEXT)
