"""The attribution map as a fractional Segmentation (PS3.3 C.8.20.2).

A plain CR has no frame of reference, so no Parametric Map; this is its map. The fraction is that
of the fixed colour scale's top, the same for every film of a model, and not a probability, though
PROBABILITY is the nearer of the two fractional types that there are.
"""

import re

import numpy as np
from highdicom import seg
from pydicom import Dataset, uid

from dicom_node.results import codes, geometry, provenance, segmentation, wording
from dicom_node.results.provenance import ResultContext, Series

SERIES = Series(
    kind="segmentation_map",
    sop_class_uid=uid.SegmentationStorage,
    modality="SEG",
    title="attribution map",
    template="1",
)

_REPORTED_FROM = "; reported from "
"""In the segment's description, as a Segmentation has no place for a threshold nor a window."""


def applies(context: ResultContext) -> bool:
    """Whether the map may be shown."""
    return not provenance.is_withheld(context)


def build(context: ResultContext) -> Dataset:
    """The map on the stored film's grid, 0 .. 255 for 0 .. `scale_max`, larger values cut.

    Raises:
        InputError: the source cannot be referred to.
    """
    made = context.attribution
    stored = geometry.stored(context.header, made.attribution_map)
    top = max(made.scale_max, float(np.finfo(np.float32).tiny))
    frames = np.clip(stored / np.float32(top), 0, 1)[None, ..., None].astype(np.float32)
    description = segmentation.segment(context, 1, "Attribution", codes.ATTRIBUTION, "map")
    description.SegmentDescription = (
        f"Fraction of {top:.3g} {wording.MAP_UNIT}{_REPORTED_FROM}{made.threshold / top:.4g}"
        "; not a probability"
    )[:1024]
    return segmentation.build(
        context, SERIES, frames, [description], seg.SegmentationTypeValues.FRACTIONAL
    )


def reported_from(ds: Dataset) -> float | None:
    """The fraction from which the map is reported; None where the object does not state it."""
    for item in ds.get("SegmentSequence") or ():
        said = str(item.get("SegmentDescription") or "")
        if stated := re.search(_REPORTED_FROM + r"([\d.e+-]+)", said):
            return float(stated[1])
    return None
