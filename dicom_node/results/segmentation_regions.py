"""The regions as a binary Segmentation (PS3.3 C.8.20.2), one segment each."""

import numpy as np
from highdicom import seg
from pydicom import Dataset, uid

from dicom_node.results import codes, geometry, segmentation, wording
from dicom_node.results.provenance import ResultContext, Series

SERIES = Series(
    kind="segmentation_regions",
    sop_class_uid=uid.SegmentationStorage,
    modality="SEG",
    title="regions",
    template="1",
)


def applies(context: ResultContext) -> bool:
    """Whether there is a region to tell of: a Segmentation has at least one segment."""
    return bool(wording.reported_regions(context.attribution))


def build(context: ResultContext) -> Dataset:
    """Pixels of the stored film whose centre lies within a region's outline; numbers as in the SR.

    Raises:
        InputError: the source cannot be referred to.
    """
    regions = wording.reported_regions(context.attribution)
    segments = [
        segmentation.segment(context, n, f"Region {n}", codes.REGION, f"region-{n}")
        for n in range(1, len(regions) + 1)
    ]
    # Filled in place, a byte a pixel and region: of large films with many regions that is most
    # of what the node holds.
    frames = np.zeros((1, context.header.rows, context.header.columns, len(regions)), np.uint8)
    for n, region in enumerate(regions):
        frames[0, ..., n] = geometry.mask(context.header, region)
    return segmentation.build(context, SERIES, frames, segments, seg.SegmentationTypeValues.BINARY)
