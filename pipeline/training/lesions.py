"""Pasted pairs: a film and the same film with a lesion in a known zone, its mask and its words.

Kin: DISYRE (2311.15453, 2407.06635), AnatPaste (2205.04282), ART-ASyn (2512.00310). Planes are
[GRID, GRID] float32, 0 black .. 1 white.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline import anatomy
from pipeline.preprocess import GRID
from pipeline.prompts import ZONES, Finding
from pipeline.training.augment import Plane

_THIRDS = 3
_FAINTEST = 0.02  # of a blob: beyond it nothing is blended
_DIFFUSE_PX = (2.5, 8.0)  # SD of what counts as brightness, not texture
_LIKE_NORMALS_PX = (2.0, 4.0)  # SD of what a sick film's estimated counterpart has of normal films
_ONE_LUNG = 0.3  # share of diffuse disease that one lung has, and the other has not
_SIDES_EDGE_PX = 4.0
_ALMOST_NOTHING = 1e-6
_VISIBLE = 0.35  # of the soft mask; what is fainter is not labelled as lesion


@dataclass(frozen=True, slots=True, kw_only=True)
class Paste:
    """`film` with the lesion in it; `mask` is soft, 0 .. 1; `zone` is one of ZONES."""

    film: Plane
    mask: Plane
    zone: str
    finding: Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Donor:
    """A film whose texture is borrowed, with its lungs and, where known, its lesion's box and what
    is in it.
    """

    film: Plane
    lungs: npt.NDArray[np.bool_]
    box: tuple[int, int, int, int] | None = None
    """row0, col0, row1, col1 in pixels."""
    finding: Finding | None = None


def opacity(rng: np.random.Generator, film: Plane, lungs: npt.NDArray[np.bool_]) -> Paste:
    """A hazy or dense opacity of irregular outline, drawn from Gaussians and smooth noise."""
    centre = _point_in(rng, lungs)
    mask = _blob(rng, centre, size_px=rng.uniform(7, 40)) * _soft(lungs, 3.0)
    strength = rng.uniform(0.15, 0.95)
    lifted = film + mask * strength * (_bright(film, lungs) - film)
    grain = ndimage.gaussian_filter(rng.normal(0, 1, film.shape), rng.uniform(0.7, 4))
    lifted += mask * grain / grain.std() * rng.uniform(0, 0.04)
    finding: Finding = "consolidation" if strength > 0.5 else "opacity"
    return _paste(lifted, mask, centre, lungs, finding)


def nodule(rng: np.random.Generator, film: Plane, lungs: npt.NDArray[np.bool_]) -> Paste:
    """A round, well-defined density of 2 to 9 px radius."""
    centre = _point_in(rng, lungs)
    radius = rng.uniform(2, 9)
    rows, cols = np.indices(film.shape)
    stretch = np.exp(rng.normal(0, 0.15))
    distance = np.hypot((rows - centre[0]) * stretch, (cols - centre[1]) / stretch)
    mask = 1 / (1 + np.exp((distance - radius) / rng.uniform(0.5, 1.5)))
    lifted = film + mask * rng.uniform(0.2, 0.6) * (_bright(film, lungs) - film)
    return _paste(lifted, mask.astype(np.float32), centre, lungs, "nodule")


def borrowed(
    rng: np.random.Generator, film: Plane, lungs: npt.NDArray[np.bool_], donor: Donor
) -> Paste:
    """An opacity with the texture of a sick film's lung at the same place."""
    texture = align(donor, lungs)
    texture = texture - ndimage.gaussian_filter(texture, 10)
    centre = _point_in(rng, lungs)
    mask = _blob(rng, centre, size_px=rng.uniform(10, 36)) * _soft(lungs, 3.0)
    strength = rng.uniform(0.15, 0.85)
    own = film - ndimage.gaussian_filter(film, 10)
    lifted = film + mask * (
        strength * (_bright(film, lungs) - film) + rng.uniform(0.3, 1.2) * texture
    )
    lifted -= mask * strength * 0.5 * own
    return _paste(lifted, mask, centre, lungs, "pneumonia")


def transplanted(
    rng: np.random.Generator, film: Plane, lungs: npt.NDArray[np.bool_], donor: Donor
) -> Paste:
    """A boxed lesion cut out with soft edges and set into the same place of another's lungs."""
    if donor.box is None or donor.finding is None:
        raise ValueError("a transplant needs a donor with a box, and what is in it")
    moved = align(donor, lungs)
    window = np.zeros(film.shape, np.float32)
    row0, col0, row1, col1 = donor.box
    window[row0:row1, col0:col1] = 1
    window = align(Donor(film=window, lungs=donor.lungs), lungs)
    mask = ndimage.gaussian_filter(window, rng.uniform(1.5, 4)) * _soft(lungs, 4.0)
    ring = (mask > 0.05) & (mask < 0.5)
    if ring.any():  # meet the surroundings' brightness, so that the seam is no cue
        moved = moved + 0.7 * float(film[ring].mean() - moved[ring].mean())
    lifted = film + mask * (moved - film)
    centre = np.unravel_index(int((mask * lungs).argmax()), mask.shape)
    return _paste(lifted, mask, (int(centre[0]), int(centre[1])), lungs, donor.finding)


def diffuse(
    rng: np.random.Generator, film: Plane, lungs: npt.NDArray[np.bool_], donor: Donor
) -> Plane:
    """A film whose lungs are as bright as a sick film's are, both or one: no lesion has an edge.

    The donor's brightness, smoothed, takes the place of the film's own within the hull of the
    lungs, with some of the donor's texture for some of the film's. Ribs and vessels stay the
    film's: what lies between the two is what a disease of whole lungs adds.
    """
    hull = anatomy.hull(lungs)
    moved = _met(align(donor, lungs), film, hull)
    smooth_px = np.exp(rng.uniform(*np.log(_DIFFUSE_PX)))
    own, others = (_smooth_within(plane, hull, smooth_px) for plane in (film, moved))
    change = rng.uniform(0.5, 1.1) * (others - own)
    change = change + rng.uniform(0, 0.8) * (moved - others) - rng.uniform(0, 0.6) * (film - own)
    if rng.random() < _ONE_LUNG:
        hull = hull * _one_side(rng, lungs)
    return np.asarray((film + hull * change).clip(0, 1), np.float32)


def estimated(
    rng: np.random.Generator,
    film: Plane,
    lungs: npt.NDArray[np.bool_],
    normals: Sequence[Donor],
) -> Plane:
    """What a real sick film's normal counterpart may be like; nobody has seen it.

    Within the hull of the lungs its smoothed brightness is the mean of normal films', each moved
    onto its lungs and as bright at the hull's rim. Ribs and vessels stay the film's.
    """
    hull = anatomy.hull(lungs)
    smooth_px = np.exp(rng.uniform(*np.log(_LIKE_NORMALS_PX)))
    met = [_met(align(donor, lungs), film, hull) for donor in normals]
    theirs = _smooth_within(np.mean(met, axis=0), hull, smooth_px)
    change = theirs - _smooth_within(film, hull, smooth_px)
    return np.asarray((film + hull * change).clip(0, 1), np.float32)


def _met(moved: Plane, film: Plane, hull: Plane) -> Plane:
    """`moved`, as bright as the film where the hull ends."""
    rim = (hull > 0) & (hull < 1)
    return moved + (film[rim].mean() - moved[rim].mean() if rim.any() else 0.0)


def _smooth_within(plane: Plane, weight: Plane, sd_px: float) -> Plane:
    """Gaussian smoothing that sees what has a weight, and nothing else."""
    weights = ndimage.gaussian_filter(weight, sd_px) + _ALMOST_NOTHING
    return np.asarray(ndimage.gaussian_filter(plane * weight, sd_px) / weights, np.float32)


def _one_side(rng: np.random.Generator, lungs: npt.NDArray[np.bool_]) -> Plane:
    """1 at one side of the lungs' middle, 0 at the other, with a soft edge."""
    cols = np.arange(lungs.shape[1]) - np.nonzero(lungs)[1].mean()
    side = 1 / (1 + np.exp(rng.choice((-1, 1)) * cols / _SIDES_EDGE_PX))
    return np.broadcast_to(side, lungs.shape).astype(np.float32)


def seam(
    rng: np.random.Generator, film: Plane, lungs: npt.NDArray[np.bool_], donor: Donor
) -> Plane:
    """A healthy film with a patch of another healthy film blended in as lesions are: no lesion."""
    moved = align(donor, lungs)
    mask = _blob(rng, _point_in(rng, lungs), size_px=rng.uniform(8, 32)) * _soft(lungs, 3.0)
    low = ndimage.gaussian_filter(moved - film, 8)
    blended = film + mask * rng.uniform(0.3, 1) * (moved - low - film)
    return np.asarray(blended.clip(0, 1), np.float32)


def align(donor: Donor, lungs: npt.NDArray[np.bool_]) -> Plane:
    """The donor's film moved and scaled so that its lungs' bounding box meets that of `lungs`."""
    return anatomy.move(donor.film, donor.lungs, lungs)


def zone_of(centre: tuple[int, int], lungs: npt.NDArray[np.bool_]) -> str:
    """The zone that a place lies in, one of ZONES; the patient's right is at the image's left."""
    return ZONES[int(_zone_numbers(lungs)[centre])]


def zone_mask(zone: str, lungs: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The part of the lungs that is a zone: where `zone_of` gives it."""
    return np.asarray(lungs & (_zone_numbers(lungs) == ZONES.index(zone)))


def _zone_numbers(lungs: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Of each pixel the place of its zone in ZONES: the right lung's thirds, then the left's."""
    (r0, r1), (c0, c1) = anatomy.extent(lungs)
    rows, cols = np.indices(lungs.shape)
    third = np.clip(_THIRDS * (rows - r0) / (r1 - r0), 0, _THIRDS - 1).astype(int)
    left = cols >= (c0 + c1) / 2
    return np.asarray(_THIRDS * left + third)


def _paste(
    lifted: npt.NDArray[np.floating],
    mask: Plane,
    centre: tuple[int, int],
    lungs: npt.NDArray[np.bool_],
    finding: Finding,
) -> Paste:
    label = np.clip((mask - _VISIBLE / 2) / _VISIBLE, 0, 1)
    return Paste(
        film=np.clip(lifted, 0, 1).astype(np.float32),
        mask=label.astype(np.float32),
        zone=zone_of(centre, lungs),
        finding=finding,
    )


def _blob(rng: np.random.Generator, centre: tuple[int, int], size_px: float) -> Plane:
    """A soft irregular blob: one to four Gaussians, their edge broken by smooth noise."""
    rows, cols = np.indices((GRID, GRID), np.float32)
    field = np.zeros((GRID, GRID), np.float32)
    for _ in range(rng.integers(1, 5)):
        row, col = np.array(centre) + rng.normal(0, size_px * 0.5, 2)
        angle, long, short = rng.uniform(0, np.pi), size_px, size_px * rng.uniform(0.4, 1)
        u = np.cos(angle) * (rows - row) + np.sin(angle) * (cols - col)
        v = np.cos(angle) * (cols - col) - np.sin(angle) * (rows - row)
        field = np.maximum(field, np.exp(-0.5 * ((u / long) ** 2 + (v / short) ** 2)))
    noise = ndimage.gaussian_filter(rng.normal(0, 1, field.shape), rng.uniform(2, 6))
    field = field * (1 + rng.uniform(0, 0.35) * noise / noise.std())
    edge, level = rng.uniform(0.05, 0.2), rng.uniform(0.3, 0.5)
    soft = 1 / (1 + np.exp(np.clip((level - field) / edge, -30, 30)))
    return np.asarray(soft * (field > _FAINTEST), np.float32)


def _soft(lungs: npt.NDArray[np.bool_], sigma_px: float) -> Plane:
    return np.asarray(ndimage.gaussian_filter(lungs.astype(np.float32), sigma_px), np.float32)


def _bright(film: Plane, lungs: npt.NDArray[np.bool_]) -> float:
    """How white full consolidation is on this film: the soft tissue around the lungs."""
    around = ndimage.binary_dilation(lungs, iterations=12) & ~lungs
    return float(np.percentile(film[around], 70)) if around.any() else float(film.max())


def _point_in(rng: np.random.Generator, lungs: npt.NDArray[np.bool_]) -> tuple[int, int]:
    rows, cols = np.nonzero(lungs)
    index = int(rng.integers(len(rows)))
    return int(rows[index]), int(cols[index])
