"""A bright box at known stored pixels lies at the same anatomy in report and picture."""

from pathlib import Path

import numpy as np
import pytest

from dicom_node.results import geometry, picture
from tests.results import sources

# PatientOrientation -> the upright box (rows, cols) of stored rows 50..100, columns 250..325 of a
# 300 x 400 image, by hand: a flipped side s becomes length - s, a transposed image swaps its axes.
TURNS = {
    ("L", "F"): (50, 100, 250, 325),
    ("R", "F"): (50, 100, 75, 150),
    ("L", "H"): (200, 250, 250, 325),
    ("R", "H"): (200, 250, 75, 150),
    ("F", "L"): (250, 325, 50, 100),
    ("H", "L"): (75, 150, 50, 100),
    ("F", "R"): (250, 325, 200, 250),
    ("H", "R"): (75, 150, 200, 250),
}


@pytest.mark.parametrize("monochrome", [1, 2])
@pytest.mark.parametrize("turn", TURNS, ids="".join)
@pytest.mark.parametrize("spacing", [None, [0.2, 0.1]], ids=["square", "non-square"])
def test_the_region_is_at_the_same_anatomy(
    tmp_path: Path, monochrome: int, turn: tuple[str, str], spacing: list[float] | None
) -> None:
    source = sources.source(monochrome=monochrome, orientation=turn)
    if spacing is not None:
        source.ImagerPixelSpacing = spacing
    context = sources.context_of(source, tmp_path)
    (region,) = context.attribution.regions

    points = geometry.outline(context.header, region)
    assert points.min(0).tolist() == [250, 50]
    assert points.max(0).tolist() == [325, 100]
    assert len({tuple(point) for point in points.tolist()}) == 4

    r0, r1, c0, c1 = TURNS[turn]
    place = picture.layout(context.radiograph)
    pixels = picture.panels(context.radiograph, context.attribution).astype(int)
    top, left = place.point(picture.OVERLAY, r0, c0)
    bottom, right = place.point(picture.OVERLAY, r1, c1)
    inside = pixels[round(top) + 30 : round(bottom) - 30, round(left) + 30 : round(right) - 30]
    assert (np.ptp(inside, axis=-1) > 50).all()  # coloured
    box = place.films[picture.OVERLAY]
    corner = pixels[box.top + 5 : box.top + 40, box.left + 5 : box.left + 40]
    assert (np.ptp(corner, axis=-1) == 0).all()  # grey

    row, col = place.point(picture.ORIGINAL, (r0 + r1) / 2, (c0 + c1) / 2)
    assert pixels[round(row), round(col)].min() > 200  # the box itself is bright there


def test_the_picture_s_proportion_is_the_patient_s(tmp_path: Path) -> None:
    source = sources.source(orientation=("F", "L"))
    source.ImagerPixelSpacing = [0.2, 0.1]
    box = picture.layout(sources.context_of(source, tmp_path).radiograph).films[0]
    # Stored 300 rows of 0.2 mm by 400 columns of 0.1 mm; upright 40 mm high and 60 mm wide.
    assert box.width / box.height == pytest.approx(1.5, abs=0.002)
