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
    masks = [geometry.mask(context.header, region) for region in regions]
    segments = [
        segmentation.segment(context, n, f"Region {n}", codes.REGION, f"region-{n}")
        for n in range(1, len(regions) + 1)
    ]
    frames = np.stack(masks, -1)[None].astype(np.uint8)
    return segmentation.build(context, SERIES, frames, segments, seg.SegmentationTypeValues.BINARY)
