"""The numbers of a result as a Comprehensive SR (PS3.3 A.35.3) after TID 1500 (PS3.16)."""

from highdicom import sr
from pydicom import Dataset, uid
from pydicom.sr.codedict import codes as standard
from pydicom.sr.coding import Code

from dicom_node import identity
from dicom_node.results import codes, document, geometry, image_library, provenance, wording
from dicom_node.results.provenance import ResultContext, Series
from pipeline.types import Attribution, Region, Status

SERIES = Series(
    kind="structured_report",
    sop_class_uid=uid.ComprehensiveSRStorage,
    modality="SR",
    title="measurements",
    template="2",
)


_Group = (
    sr.MeasurementsAndQualitativeEvaluations | sr.PlanarROIMeasurementsAndQualitativeEvaluations
)


def build(context: ResultContext) -> Dataset:
    """Status, score, regions and measurements with a reference to the source image.

    Raises:
        InputError: the source cannot be referred to.
    """
    ds = provenance.new_object(context, SERIES)
    status = context.attribution.status
    document.put_general(
        ds,
        context,
        complete=status is not Status.WITHHELD,
        said=f"Result status {status.value}",
    )
    if context.predecessors:  # this report replaces them (PS3.3 C.17.2.3)
        ds.PredecessorDocumentsSequence = document.hierarchy(context.predecessors)
    ds.update(_content(context))
    return ds


def _content(context: ResultContext) -> Dataset:
    """The root container, TID 1500, and a narrative, which that extensible template allows."""
    regions = wording.reported_regions(context.attribution)
    groups: list[_Group] = [_film_group(context)]
    groups += [_region_group(context, n, region) for n, region in enumerate(regions, start=1)]
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=document.device(context.model)
        ),
        procedure_reported=codes.PLAIN_CHEST_XRAY,
        imaging_measurements=groups,
        title=standard.DCM.ImagingMeasurementReport,
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            sr.CodedConcept.from_code(codes.ENGLISH)
        ),
    )
    root: Dataset = report[0]
    place = _place_of_measurements(root)
    measurements = root.ContentSequence[place]
    film = measurements.ContentSequence.pop(0)
    if not regions:
        root.ContentSequence.pop(place)
        root.ContentSequence.insert(place, _evaluations(context))
    root.ContentSequence.insert(place, image_library.build(context))
    root.ContentSequence.extend([_film(film), _narrative(context)])
    return root


def _evaluations(context: ResultContext) -> sr.ContainerContentItem:
    """The status alone (TID 1500 rows 12 and 13): a report has measurements or evaluations."""
    contains = sr.RelationshipTypeValues.CONTAINS
    evaluations = sr.ContainerContentItem(
        name=codes.QUALITATIVE_EVALUATIONS, relationship_type=contains
    )
    status = codes.STATUS_VALUES[context.attribution.status.value]
    evaluations.ContentSequence = sr.ContentSequence(
        [sr.CodeContentItem(name=codes.STATUS, value=status, relationship_type=contains)]
    )
    return evaluations


def _place_of_measurements(root: Dataset) -> int:
    names = [item.ConceptNameCodeSequence[0].CodeValue for item in root.ContentSequence]
    return names.index(standard.DCM.ImagingMeasurements.value)


def _narrative(context: ResultContext) -> sr.TextContentItem:
    header = context.header
    return sr.TextContentItem(
        name=standard.DCM.Summary,
        value=wording.narrative(context.attribution, header.spacing_mm, header.spacing_plane),
        relationship_type=sr.RelationshipTypeValues.CONTAINS,
    )


def _film(group: sr.ContentItem) -> sr.ContainerContentItem:
    """What is said of the whole film, in a container of its own, which TID 1500 may be given.

    In Imaging Measurements OHIF 3.13 demands coordinates of every group, and without them shows
    nothing of the report; a polygon around the film would be no finding.
    """
    film = sr.ContainerContentItem(
        name=codes.COMPARED_FILM, relationship_type=sr.RelationshipTypeValues.CONTAINS
    )
    film.ContentSequence = sr.ContentSequence([group])
    return film


def _film_group(context: ResultContext) -> sr.MeasurementsAndQualitativeEvaluations:
    """The film as a whole (TID 1501): status with its reasons, score, uncertainty, threshold."""
    made = context.attribution
    reference = provenance.source_reference(context)
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(context, "film", "Film"),
        finding_type=codes.COMPARED_FILM,
        finding_sites=[sr.FindingSite(standard.SCT.Chest)],
        algorithm_id=_algorithm(context),
        source_images=[
            sr.SourceImageForMeasurementGroup(
                reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID
            )
        ],
        measurements=[_measurement(name, value) for name, value in _film_numbers(made)],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(codes.STATUS, codes.STATUS_VALUES[made.status.value])
        ],
    )
    group[0].ContentSequence.extend(_reason(text) for text in made.reasons if text.strip())
    return group


def _film_numbers(made: Attribution) -> list[tuple[Code, float]]:
    """The film's measurements; probability and conformal p where the model can give them.

    A withheld result has only the threshold, which is the model's: no number of the film is valid.
    """
    if made.status is Status.WITHHELD:
        return [(codes.THRESHOLD, made.threshold)]
    numbers = (
        (codes.SCORE, made.score),
        (codes.PROBABILITY, made.probability),
        (codes.CONFORMAL_P, made.conformal_p),
        (codes.UNCERTAINTY, made.uncertainty),
        (codes.THRESHOLD, made.threshold),
    )
    return [(name, value) for name, value in numbers if value is not None]


def _reason(text: str) -> sr.TextContentItem:
    """A qualitative evaluation in words (TID 1501 allows TEXT; highdicom makes only CODE)."""
    return sr.TextContentItem(
        name=codes.REASON, value=text, relationship_type=sr.RelationshipTypeValues.CONTAINS
    )


def _region_group(
    context: ResultContext, number: int, region: Region
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """One region of the map (TID 1410): where it is, how large, how strong."""
    reference = provenance.source_reference(context)
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(context, f"region-{number}", f"Region {number}"),
        referenced_region=sr.ImageRegion(
            graphic_type=sr.GraphicTypeValues.POLYLINE,
            graphic_data=geometry.outline(context.header, region),
            source_image=sr.SourceImageForRegion(
                reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID
            ),
        ),
        finding_category=standard.SCT.MorphologicallyAbnormalStructure,
        finding_type=codes.REGION,
        finding_sites=[sr.FindingSite(standard.SCT.Chest)],
        algorithm_id=_algorithm(context),
        measurements=[
            _area(context, region),
            _measurement(codes.PEAK, region.peak, derivation=standard.SCT.Maximum),
            _measurement(codes.MEAN, region.mean, derivation=standard.SCT.Mean),
        ],
    )


def _area(context: ResultContext, region: Region) -> sr.Measurement:
    """In mm2 of the plane that the method names; in pixels where the film states no spacing."""
    spacing_mm = context.header.spacing_mm
    if spacing_mm is None:
        value, unit, plane = float(region.area_px), codes.PIXELS, ""
    else:
        value = wording.area_mm2(region, spacing_mm)
        unit, plane = standard.UCUM.SquareMillimeter, context.header.spacing_plane
    return sr.Measurement(
        name=standard.SCT.Area, value=value, unit=unit, method=codes.AREA_METHODS[plane]
    )


def _measurement(name: Code, value: float, derivation: Code | None = None) -> sr.Measurement:
    """A pure number (UCUM "1"), TID 300."""
    return sr.Measurement(
        name=name,
        value=wording.number(value),
        unit=standard.UCUM.NoUnits,
        derivation=derivation,
    )


def _algorithm(context: ResultContext) -> sr.AlgorithmIdentification:
    """Which network, weights and settings (TID 4019; family of CID 7162)."""
    model = context.attribution.model
    return sr.AlgorithmIdentification(
        name=model.name,
        version=model.version,
        manufacturer=identity.MANUFACTURER,
        family=standard.DCM.ArtificialIntelligence,
        parameters=[f"{name}={value}" for name, value in document.model_parameters(model).items()],
    )


def _tracking(context: ResultContext, role: str, said: str) -> sr.TrackingIdentifier:
    """TID 4108's identifiers, derived, so that the same analysis names the same region."""
    return sr.TrackingIdentifier(uid=provenance.tracking_uid(context, role), identifier=said)
