"""The regions as a binary Segmentation (PS3.3 C.8.20.2), one segment each."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from highdicom import seg
from pydicom import Dataset, uid

from dicom_node.radiograph import SourceHeader
from dicom_node.results import codes, geometry, segmentation, wording
from dicom_node.results.provenance import ResultContext, Series
from pipeline.types import Region

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
    numbers = _numbered(context.header, regions)[None]
    return segmentation.build(context, SERIES, numbers, segments, seg.SegmentationTypeValues.BINARY)


def _numbered(header: SourceHeader, regions: Sequence[Region]) -> npt.NDArray[np.uint16]:
    """[rows, columns]: the number of the region that a pixel is of, 0 for none.

    One plane for all regions, since a film of 20 million pixels may have dozens; none overlap.
    """
    numbers = np.zeros((header.rows, header.columns), np.uint16)
    for number, region in enumerate(regions, start=1):
        numbers[geometry.mask(header, region)] = number
    return numbers
