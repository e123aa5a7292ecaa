"""Outlines and words on the original film: a Grayscale Softcopy Presentation State (PS3.3 A.33.1).

The reader sees the film itself, in its own grey scale, and switches two layers on and off. The
outlines are there twice in one layer, as graphics for those who draw them and as an overlay for
those who only lay bitmaps over (DCMTK), so that each shows the same line.
"""

from highdicom import pr
from pydicom import Dataset, Sequence, uid
from scipy import ndimage

from dicom_node import attributes, greyscale, shutter
from dicom_node.radiograph import SourceHeader
from dicom_node.results import carried, geometry, plane, provenance, wording
from dicom_node.results.geometry import Mask
from dicom_node.results.provenance import ResultContext, Series
from pipeline.types import Region

SERIES = Series(
    kind="presentation_state",
    sop_class_uid=uid.GrayscaleSoftcopyPresentationStateStorage,
    modality="PR",
    title="outlines on the film",
    template="1",
)

_REGIONS = pr.GraphicLayer("VALD_REGIONS", 1, description="Outlines of regions, AI-generated")
_WORDS = pr.GraphicLayer("VALD_WORDS", 2, description="Status and research use")
for _layer in (_REGIONS, _WORDS):
    _layer.GraphicLayerRecommendedDisplayGrayscaleValue = 0xFFFF  # white, a P-Value
_OVERLAY_GROUP = 0x6000
_LINE_PART = 600
"""The overlay's line is this part of the image's width, at least a pixel."""
_PIXEL = pr.AnnotationUnitsValues.PIXEL


def applies(context: ResultContext) -> bool:
    """Whether regions may be shown."""
    return not provenance.is_withheld(context)


def build(context: ResultContext) -> Dataset:
    """The film as it is, every region outlined and numbered, and what the outlines are.

    Raises:
        InputError: the source cannot be referred to.
    """
    ds = provenance.new_object(context, SERIES)
    provenance.put_general_series(ds)
    _put_identification(ds, context)
    _put_film(ds, context)
    _put_shutter(ds, context.header)
    _put_grey_scale(ds, context.header.dataset)
    _put_annotations(ds, context)
    _put_overlay(ds, context)
    return ds


def _put_identification(ds: Dataset, context: ResultContext) -> None:
    """Presentation State Identification (PS3.3 C.11.10)."""
    made = provenance.local_time(context)
    ds.PresentationCreationDate = f"{made:%Y%m%d}"
    ds.PresentationCreationTime = f"{made:%H%M%S}"
    ds.ContentLabel = "VALD"
    ds.ContentDescription = provenance.short("Regions that differ from a normal counterpart")
    carried.put(ds, "ContentCreatorName", "")


def _put_film(ds: Dataset, context: ResultContext) -> None:
    """Presentation State Relationship (PS3.3 C.11.11) and Displayed Area (C.10.4): all of it."""
    header, series, area = context.header, Dataset(), Dataset()
    series.SeriesInstanceUID = uid.UID(carried.text(header.dataset, "SeriesInstanceUID"))
    series.ReferencedImageSequence = Sequence([provenance.source_reference(context)])
    ds.ReferencedSeriesSequence = Sequence([series])
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [header.columns, header.rows]
    area.PresentationSizeMode = "SCALE TO FIT"
    if header.spacing_mm and header.spacing_plane == "calibrated":  # not the detector's plane
        area.PresentationPixelSpacing = [wording.number(side) for side in header.spacing_mm]
    else:
        area.PresentationPixelAspectRatio = plane.aspect_ratio(header)
    ds.DisplayedAreaSelectionSequence = Sequence([area])


def _put_shutter(ds: Dataset, header: SourceHeader) -> None:
    """The film's own Display Shutter (PS3.3 C.7.6.11), which a state replaces; black where
    it does not say how bright (C.11.12)."""
    found = shutter.stated(header.dataset, (header.rows, header.columns), header.aspect)
    for keyword, value in found.items():
        setattr(ds, keyword, value)
    if found:
        grey = attributes.integer(header.dataset, "ShutterPresentationValue")
        ds.ShutterPresentationValue = grey if grey is not None and 0 <= grey <= 0xFFFF else 0


def _put_grey_scale(ds: Dataset, source: Dataset) -> None:
    """The film's own Modality LUT (PS3.3 C.11.1), first VOI LUT (C.11.8) and polarity (C.11.6)."""
    _put_modality_lut(ds, source)
    if voi := _voi_lut(source):
        ds.SoftcopyVOILUTSequence = Sequence([voi])
    ds.PresentationLUTShape = "INVERSE" if greyscale.is_inverse(source) else "IDENTITY"


def _put_modality_lut(ds: Dataset, source: Dataset) -> None:
    if table := attributes.first_item(source, "ModalityLUTSequence"):
        ds.ModalityLUTSequence = Sequence([_lut(table, "ModalityLUTType")])
        return
    slope = attributes.number(source, "RescaleSlope")
    if slope is not None:
        ds.RescaleIntercept = wording.number(attributes.number(source, "RescaleIntercept") or 0)
        ds.RescaleSlope = wording.number(slope)
        ds.RescaleType = carried.valid_text(source, "RescaleType") or "US"


def _voi_lut(source: Dataset) -> Dataset | None:
    """The film's tone curve, or else its first window; None where it has neither."""
    item = Dataset()
    table = attributes.first_item(source, "VOILUTSequence")
    if table is not None and greyscale.look_up_table(table) is not None:
        item.VOILUTSequence = Sequence([_lut(table)])
        return item
    centre, width = (attributes.number(source, f"Window{part}") for part in ("Center", "Width"))
    if centre is None or width is None or width < 1:
        return None
    item.WindowCenter, item.WindowWidth = wording.number(centre), wording.number(width)
    function = attributes.code(source, "VOILUTFunction")
    if function in ("SIGMOID", "LINEAR_EXACT"):
        item.VOILUTFunction = function
    return item


def _lut(table: Dataset, kind: str = "") -> Dataset:
    """The item with what a LUT has: Descriptor, Data, and the Modality LUT's type."""
    item = Dataset()
    for keyword in ("LUTDescriptor", "LUTData"):
        item[keyword] = table[keyword]
    if kind:
        carried.put(item, kind, carried.valid_text(table, kind) or "US")
    return item


def _put_annotations(ds: Dataset, context: ResultContext) -> None:
    """Graphic Annotation and Graphic Layer (PS3.3 C.10.5, C.10.7)."""
    film = plane.stand_in(context)
    regions = wording.reported_regions(context.attribution)
    annotations = [pr.GraphicAnnotation([film], _WORDS, text_objects=[_words(context)])]
    if regions:
        places = list(enumerate(regions, start=1))
        annotations.append(
            pr.GraphicAnnotation(
                [film],
                _REGIONS,
                graphic_objects=[_outline(context, n, region) for n, region in places],
                text_objects=[_number(context, n, region) for n, region in places],
            )
        )
    ds.GraphicAnnotationSequence = Sequence(annotations)
    ds.GraphicLayerSequence = Sequence([_REGIONS, _WORDS])


def _outline(context: ResultContext, number: int, region: Region) -> pr.GraphicObject:
    return pr.GraphicObject(
        graphic_type=pr.GraphicTypeValues.POLYLINE,
        graphic_data=geometry.outline(context.header, region),
        units=_PIXEL,
        tracking_id=f"Region {number}",
        tracking_uid=provenance.tracking_uid(context, f"region-{number}"),
    )


def _number(context: ResultContext, number: int, region: Region) -> pr.TextObject:
    """The region's number at the top right of its bounds."""
    points = geometry.outline(context.header, region)
    at = (float(points[:, 0].max()), float(points[:, 1].min()))
    return pr.TextObject(str(number), _PIXEL, anchor_point=at, anchor_point_visible=False)


def _words(context: ResultContext) -> pr.TextObject:
    """What the outlines are, along the lower edge of the stored image."""
    header, made = context.header, context.attribution
    said = f"{wording.RESEARCH_WORDS}\r\nVALD {made.status.value}, score {made.score:.2f}"
    box = (0.0, 0.95 * header.rows, float(header.columns), float(header.rows))
    return pr.TextObject(said, _PIXEL, bounding_box=box)


def _put_overlay(ds: Dataset, context: ResultContext) -> None:
    """The same outlines as a bitmap (Overlay Plane, PS3.3 C.9.2; activation, C.11.7)."""
    regions = wording.reported_regions(context.attribution)
    if not regions:
        return
    header = context.header
    lines = geometry.mask(header, regions[0]) & False
    for region in regions:
        lines |= _line(geometry.mask(header, region), max(1, round(header.columns / _LINE_PART)))
    put = ds.add_new
    put((_OVERLAY_GROUP, 0x0010), "US", header.rows)
    put((_OVERLAY_GROUP, 0x0011), "US", header.columns)
    put((_OVERLAY_GROUP, 0x0022), "LO", "Outlines of regions, AI-generated")
    put((_OVERLAY_GROUP, 0x0040), "CS", "G")
    put((_OVERLAY_GROUP, 0x0050), "SS", [1, 1])
    put((_OVERLAY_GROUP, 0x0100), "US", 1)
    put((_OVERLAY_GROUP, 0x0102), "US", 0)
    put((_OVERLAY_GROUP, 0x1001), "CS", _REGIONS.GraphicLayer)
    put((_OVERLAY_GROUP, 0x3000), "OW", geometry.bits(lines))


def _line(inside: Mask, width: int) -> Mask:
    """The outermost pixels of a mask."""
    core: Mask = ndimage.binary_erosion(inside, iterations=width, border_value=0)
    return inside & ~core
