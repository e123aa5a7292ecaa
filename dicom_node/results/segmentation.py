"""What the map's and the regions' Segmentation (PS3.3 A.51) share: stored grid, source, origin."""

from collections.abc import Sequence as Items

import highdicom
import numpy as np
import numpy.typing as npt
from highdicom import seg
from pydicom import Dataset
from pydicom.sr.codedict import codes as standard
from pydicom.sr.coding import Code

from dicom_node import identity
from dicom_node.results import document, plane, provenance
from dicom_node.results.provenance import ResultContext, Series

Frames = npt.NDArray[np.uint16] | npt.NDArray[np.float32]
"""On the source's stored grid: [1, rows, columns] numbers of segments, 0 for none, or
[1, rows, columns, segments] fractions."""


def build(
    context: ResultContext,
    series: Series,
    frames: Frames,
    segments: Items[seg.SegmentDescription],
    kind: seg.SegmentationTypeValues,
) -> Dataset:
    """A Segmentation of the source, pixel for pixel.

    Raises:
        InputError: the source cannot be referred to.
    """
    ds = provenance.new_object(context, series)
    made = seg.Segmentation(
        source_images=[plane.stand_in(context)],
        pixel_array=frames,
        segmentation_type=kind,
        segment_descriptions=segments,
        omit_empty_frames=False,
        **plane.who(ds),
    )
    plane.put_image(ds, made, context)
    return ds


def segment(
    context: ResultContext, number: int, label: str, property_type: Code, role: str
) -> seg.SegmentDescription:
    """One segment (PS3.3 table 10-22): what it is of, by which algorithm, and its name for good."""
    model = context.model
    return seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=standard.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=property_type,
        algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=model.name,
            family=standard.DCM.ArtificialIntelligence,
            version=model.version,
            source=identity.MANUFACTURER,
            parameters=document.model_parameters(model),
        ),
        tracking_uid=provenance.tracking_uid(context, role),
        tracking_id=label,
        anatomic_regions=[standard.SCT.Chest],
    )
