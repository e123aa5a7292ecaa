"""The map's own numbers as a Parametric Map of float (PS3.3 A.75).

Made only of a film that says where it lies: the object demands a frame of reference, and none is
invented for a plain radiograph, whose map is a fractional Segmentation.
"""

from highdicom import VOILUTTransformation, pm
from pydicom import Dataset, uid
from pydicom.sr.codedict import codes as standard

from dicom_node.results import codes, geometry, plane, provenance
from dicom_node.results.provenance import ResultContext, Series
from pipeline.types import Attribution

SERIES = Series(
    kind="parametric_map",
    sop_class_uid=uid.ParametricMapStorage,
    modality="OT",
    title="map values",
    template="1",
)


def applies(context: ResultContext) -> bool:
    """Whether the map may be shown and the film has real frame-of-reference geometry."""
    return not provenance.is_withheld(context) and plane.has_geometry(context)


def build(context: ResultContext) -> Dataset:
    """The map in its own unit (film range = 1, UCUM "1") on the stored film's grid.

    Raises:
        InputError: the source cannot be referred to.
    """
    ds = provenance.new_object(context, SERIES)
    values = geometry.stored(context.header, context.attribution.attribution_map)
    made = pm.ParametricMap(
        source_images=[plane.stand_in(context)],
        pixel_array=values[None],
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[_mapping(float(values.max()))],
        voi_lut_transformations=[_window(context.attribution)],
        **plane.who(ds),
    )
    plane.put_image(ds, made, context)
    return ds


def _window(made: Attribution) -> VOILUTTransformation:
    """From the threshold to the top of the colour scale (PS3.3 C.11.2.1.3.2)."""
    low, high = made.threshold, max(made.scale_max, made.threshold + 1e-6)
    return VOILUTTransformation(
        window_center=(low + high) / 2, window_width=high - low, voi_lut_function="LINEAR_EXACT"
    )


def _mapping(highest: float) -> pm.RealWorldValueMapping:
    """Stored and real value are the same number (PS3.3 C.7.6.16.2.11)."""
    return pm.RealWorldValueMapping(
        lut_label="VALD",
        lut_explanation=codes.ATTRIBUTION.meaning,
        unit=standard.UCUM.NoUnits,
        value_range=(0.0, max(highest, 1.0)),
        slope=1.0,
        intercept=0.0,
        quantity_definition=codes.ATTRIBUTION,
    )
