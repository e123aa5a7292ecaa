"""A map beside healthy ones: Z, conformal p and probability by hand; the checks and their words."""

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy import ndimage

from pipeline import (
    anatomy,
    calibration,
    checks,
    difference,
    digest,
    framing,
    settings,
    testing,
    weights,
)
from pipeline.calibration import HealthyReference, Odds
from pipeline.checks import Findings
from pipeline.errors import DatasetError, ModelError
from pipeline.evidence import Evidence, attribution_map
from pipeline.limits import Limits
from pipeline.preprocess import GRID
from pipeline.training import calibrate
from pipeline.types import Image, Status
from tests.pipeline import chests
from tests.pipeline.conftest import EditPrompts


def reference(mean: float = 0.1, sd: float = 0.05) -> HealthyReference:
    plane = np.ones((224, 224), np.float32)
    return HealthyReference(
        mean=plane * mean,
        sd=plane * sd,
        place=chests.lungs(),
        scores=np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        odds=Odds(slope=2.0, reading_slope=4.0, intercept=0.0),
    )


def test_z_is_the_distance_to_healthy_in_standard_deviations() -> None:
    plane = np.full((224, 224), 0.4, np.float32)
    seed_sd = np.full((224, 224), 0.1, np.float32)
    z = reference().z_map(plane, seed_sd, draws=4, lungs=chests.lungs())
    # sqrt(0.05^2 + 0.1^2 / 4 + s_0^2), s_0 the mean SD itself.
    assert z == pytest.approx(np.full_like(plane, 0.3 / (3 * 0.05**2) ** 0.5), rel=1e-5)
    assert reference().z_map(plane * 0, seed_sd, 4, chests.lungs()).max() == 0


def test_z_is_taken_where_the_films_own_lungs_lie() -> None:
    marked = np.full((224, 224), 0.1, np.float32)
    marked[100:110, 60:70] = 0.9  # healthy films are often high at this place of their lungs
    healthy = HealthyReference(
        mean=marked,
        sd=np.full_like(marked, 0.05),
        place=chests.lungs(),
        scores=np.array([0.5], np.float32),
        odds=None,
    )
    lungs = np.roll(chests.lungs(), 12, axis=0)
    film = np.roll(marked, 12, axis=0)
    z = healthy.z_map(film, np.zeros_like(film), draws=2, lungs=lungs)
    assert z[30:200].max() < 1e-3


@pytest.mark.parametrize(
    ("score", "expected"), [(0.05, 1.0), (0.25, 3 / 5), (0.4, 2 / 5), (9.0, 1 / 5)]
)
def test_conformal_p_counts_the_healthy_films_that_score_as_high(
    score: float, expected: float
) -> None:
    assert reference().conformal_p(score) == pytest.approx(expected)


def test_a_score_whose_logarithm_is_zero_is_as_likely_sick_as_well() -> None:
    # log(0.9 + 0.1) = 0; a reading of 0.5, at a slope of 4, is log odds of 2: 1 / (1 + e^-2).
    odds = Odds(slope=2.0, reading_slope=4.0, intercept=0.0)
    assert odds.probability(0.9, 0.0) == pytest.approx(0.5)
    assert odds.probability(5.0, 0.0) > 0.9 > 0.1 > odds.probability(0.0, 0.0)
    assert odds.probability(0.9, 0.5) == pytest.approx(0.880797, abs=1e-6)
    assert reference().probability(0.9, 0.5) == odds.probability(0.9, 0.5)


def test_a_reference_comes_back_from_its_folder(tmp_path: Path) -> None:
    assert calibration.load(tmp_path) is None
    calibration.save(reference(), tmp_path)
    again = calibration.load(tmp_path)
    assert again is not None
    assert again.scores.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert np.array_equal(again.place, chests.lungs())
    assert again.odds == Odds(slope=2.0, reading_slope=4.0, intercept=0.0)


def test_a_reference_that_learnt_no_probability_comes_back_without_one(tmp_path: Path) -> None:
    calibration.save(replace(reference(), odds=None), tmp_path)
    again = calibration.load(tmp_path)
    assert again is not None
    assert again.probability(0.9, 0.5) is None
    assert again.conformal_p(0.25) == pytest.approx(3 / 5)


FILMS = [np.random.default_rng(n).random((64, 64)).astype(np.float32) for n in range(20)]


def calibrated(folder: Path, films: Sequence[Image]) -> Path:
    """A copy of the model folder, calibrated with these healthy films."""
    places = calibrate.Places(
        model=folder,
        out=folder.with_name(folder.name + "-calibrated"),
        notes=folder.with_name("notes"),
    )
    loaded = weights.load(folder, weights.choose_device("cpu"))
    calibrate.calibrate(places, loaded, films, [], lambda *_: None)
    return places.out


@pytest.mark.usefixtures("one_thread")
def test_a_calibration_says_its_words_and_keeps_no_probability_of_others(
    tmp_path: Path, edit_prompts: EditPrompts
) -> None:
    testing.write_tiny_model(tmp_path / "model")
    first = calibrated(tmp_path / "model", FILMS)
    assert settings.read(first).words == "Frontal chest radiograph. Normal."
    learnt = calibration.load(first)
    assert learnt is not None
    calibration.save(replace(learnt, odds=Odds(slope=2.0, intercept=-1.0)), first)
    digest.write_digests(first)
    edit_prompts(("radiograph. Normal.", "film. Normal."))
    again = calibrated(first, FILMS)
    assert settings.read(again).words == "Frontal chest film. Normal."
    reference = calibration.load(again)
    assert reference is not None
    assert reference.odds is None
    assert weights.load(again, weights.choose_device("cpu")).uncalibrated == ""


@pytest.mark.usefixtures("one_thread")
def test_what_is_made_of_a_model_that_none_may_change_may_be_changed(tmp_path: Path) -> None:
    testing.write_tiny_model(tmp_path / "model")
    for path in (tmp_path / "model", *(tmp_path / "model").rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    made = calibrated(tmp_path / "model", FILMS)
    assert all(path.stat().st_mode & 0o200 for path in (made, *made.rglob("*")))


def test_copies_are_found_without_a_second_copy_of_every_film() -> None:
    # So large that what threads of tests before may want meanwhile is nothing beside them.
    films = [np.kron(film, np.ones((4, 4), np.float32)) for film in FILMS]
    tracemalloc.start()
    assert calibrate.copies(films) == {}
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 3 * films[0].nbytes


def test_a_film_that_is_there_twice_is_counted_once(tmp_path: Path) -> None:
    testing.write_tiny_model(tmp_path / "model")
    assert calibrate.copies([FILMS[0], FILMS[1], FILMS[0].copy()]) == {2: 0}
    with pytest.raises(DatasetError, match="19 different healthy films; at least 20"):
        calibrated(tmp_path / "model", [*FILMS[:19], *FILMS[:10]])


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"slope": 0.0, "intercept": 0.0, "reading_slope": 0.0}, None),  # nothing was learnt
        ({"slope": 0.0, "intercept": 0.0}, None),
        ({"slope": 2.0, "intercept": -1.0}, Odds(slope=2.0, intercept=-1.0)),  # before the probe
        ({"slope": 0.0, "intercept": -1.0}, Odds(slope=0.0, intercept=-1.0)),
    ],
)
def test_an_older_reference_keeps_the_probability_that_it_learnt(
    tmp_path: Path, written: dict[str, float], read: Odds | None
) -> None:
    rewrite(tmp_path, written)
    again = calibration.load(tmp_path)
    assert again is not None
    assert again.odds == read


def test_half_a_probability_is_a_damaged_reference(tmp_path: Path) -> None:
    rewrite(tmp_path, {"slope": 2.0})
    with pytest.raises(ModelError, match=f"{calibration.FILE}.*intercept"):
        calibration.load(tmp_path)


def rewrite(folder: Path, odds: dict[str, float]) -> None:
    """The folder's reference has these numbers of a probability, and no others."""
    calibration.save(replace(reference(), odds=None), folder)
    parts = load_file(folder / calibration.FILE)
    parts |= {name: np.array([value], np.float32) for name, value in odds.items()}
    save_file(parts, folder / calibration.FILE)


def test_a_reference_that_is_no_number_once_it_is_cast_is_refused(tmp_path: Path) -> None:
    calibration.save(reference(), tmp_path)
    parts = load_file(tmp_path / calibration.FILE)
    save_file({**parts, "scores": np.array([0.1, 1e300])}, tmp_path / calibration.FILE)
    with pytest.raises(ModelError, match="scores: holds what is no number"):
        calibration.load(tmp_path)


def test_a_damaged_reference_is_named(tmp_path: Path) -> None:
    (tmp_path / calibration.FILE).write_bytes(b"no safetensors")
    with pytest.raises(ModelError, match=calibration.FILE):
        calibration.load(tmp_path)


def test_the_map_is_the_geometric_mean_of_change_and_gates() -> None:
    # sqrt(0.04 . 0.25) = 0.1; the cube root of 0.04 . 0.25 . 0.1 is 0.1 too.
    change, gate, second = (np.array([[value]], np.float32) for value in (0.04, 0.25, 0.1))
    for gates in ([gate], [gate, second]):
        assert difference.weighted(change, gates) == pytest.approx(np.array([[0.1]]))


GOOD = Findings(lungs_found=True, stability=0.8, effect=0.9, off_target=0.1)


@pytest.mark.parametrize(
    ("found", "status", "word"),
    [
        (GOOD, Status.VALID, ""),
        (Findings(lungs_found=True, stability=None, effect=None, off_target=None),
         Status.VALID, ""),
        (Findings(lungs_found=False, stability=0.8, effect=0.9, off_target=None),
         Status.LOW_CONFIDENCE, "no pair of lungs"),
        (Findings(lungs_found=True, stability=0.04, effect=0.9, off_target=0.1),
         Status.LOW_CONFIDENCE, "different places"),
        (Findings(lungs_found=True, stability=0.8, effect=0.0, off_target=0.1),
         Status.LOW_CONFIDENCE, "still holds"),
        (Findings(lungs_found=True, stability=0.8, effect=0.9, off_target=0.7),
         Status.LOW_CONFIDENCE, "70% of the change"),
        (Findings(lungs_found=True, stability=None, effect=None, off_target=None, unmarked=0.03),
         Status.LOW_CONFIDENCE, "where the map marks nothing (3.0% of the grey range)"),
        (Findings(lungs_found=True, stability=None, effect=None, off_target=None, unmarked=0.02),
         Status.VALID, ""),
        (Findings(lungs_found=True, stability=0.8, effect=0.9, off_target=0.95),
         Status.WITHHELD, "95% of the change"),
    ],
)  # fmt: skip
def test_each_check_has_its_status_and_words(found: Findings, status: Status, word: str) -> None:
    limits = Limits(
        stability=0.1, effect=0.3, off_target=0.6, off_target_withheld=0.9, unmarked=0.02
    )
    said, reasons = checks.judge(found, limits)
    assert said is status
    assert word in " ".join(reasons)
    assert bool(reasons) is (status is not Status.VALID)


def test_draws_that_mark_the_same_pixels_overlap_wholly_and_others_by_a_third() -> None:
    one = np.zeros((2, 8), np.float32)
    one[:, :4] = 1
    half = np.roll(one, 2, axis=1)
    assert checks.overlap(np.stack([one, one]), 0.5) == 1.0
    assert checks.overlap(np.stack([one, half]), 0.5) == pytest.approx(2 / 6)
    assert checks.overlap(np.stack([one]), 0.5) is None
    assert checks.overlap(np.stack([one, one]) * 0, 0.5) is None


def test_the_share_outside_counts_what_lies_beyond_the_lungs() -> None:
    lungs = chests.lungs()
    change = np.zeros((224, 224), np.float32)
    rows, cols = np.nonzero(lungs)
    change[rows[0], cols[0]] = 3
    change[0, 0] = -1
    assert checks.share_outside(change, lungs) == pytest.approx(0.25)
    assert checks.share_outside(change * 0, lungs) is None
    assert checks.share_outside(change, np.zeros_like(lungs)) is None


def test_what_is_changed_where_nothing_is_marked_is_counted_in_the_lungs_alone() -> None:
    lungs = chests.lungs()
    hull = anatomy.hull(lungs) > 0
    marked = np.zeros_like(lungs)
    marked[:112] = True
    change = np.where(marked, 0.5, -0.02).astype(np.float32)
    change[~hull] = 1.0
    assert checks.change_unmarked(change, marked, lungs) == pytest.approx(0.02)
    assert checks.change_unmarked(change, hull | marked, lungs) is None
    assert checks.change_unmarked(change * 0, marked, lungs) == 0.0


def test_a_gate_that_closes_has_worked() -> None:
    before = np.full((4, 4), 0.5, np.float32)
    assert checks.closed(before, before * 0) == 1.0
    assert checks.closed(before, before) == 0.0


def test_a_plane_moved_to_its_own_place_stays() -> None:
    plane = np.random.default_rng(0).random((224, 224)).astype(np.float32)
    lungs = chests.lungs()
    assert anatomy.move(plane, lungs, lungs) == pytest.approx(plane, abs=1e-6)


def test_maps_are_held_to_the_lungs_and_what_lies_between_them() -> None:
    # The lungs' last column is 193 and their first row 40: full to 6 px outside, nothing from 14.
    held = difference.held(np.full((2, GRID, GRID), 0.5, np.float32), chests.lungs())
    assert held.shape == (2, GRID, GRID)
    assert (held[:, 110, 112] == 0.5).all()  # the mediastinum
    assert held[0, 110, [193, 199, 203, 208]] == pytest.approx([0.5, 0.5, 0.25, 0], abs=1e-6)
    assert held[1, [30, 25], 60] == pytest.approx([0.25, 0], abs=1e-6)
    one_lung = chests.lungs()
    one_lung[:, 112:] = False
    assert (difference.held(np.ones((1, GRID, GRID), np.float32), one_lung) == 1).all()


def test_a_map_that_falls_short_of_its_threshold_ranks_by_the_change_too() -> None:
    # Short by 0.3 - 0.1: a change of 0.5 adds 0.6 x 0.2 x 0.5 = 0.06, one beyond 1 no more than 1.
    places = np.array([[0.1, 0.05, 0, 0]], np.float32)
    change = np.array([[0, 0.5, 0.5, 7]], np.float32)
    whole = difference.completed(places, change, threshold=0.3)
    assert whole == pytest.approx(np.array([[0.1, 0.11, 0.06, 0.12]]))
    reached = difference.completed(places + 0.2, change, threshold=0.3)
    assert np.array_equal(reached, places + np.float32(0.2))


@pytest.mark.parametrize("threshold", [1e-3, 0.3, 5.0])
def test_no_region_comes_or_goes_as_a_map_is_completed(threshold: float) -> None:
    rng = np.random.default_rng(0)
    for top in (0.5, 0.999, 1.0, 1.5):
        places = (rng.random((32, 32)) * top * threshold).astype(np.float32)
        whole = difference.completed(places, np.ones((32, 32), np.float32), threshold)
        assert np.array_equal(whole >= threshold, places >= threshold)


def test_a_model_with_a_gate_has_its_map_completed_and_no_other() -> None:
    flat = np.full((GRID, GRID), 0.2, np.float32)
    nothing: Any = dict.fromkeys(("second", "free", "still", "traits"))
    made = Evidence(
        plane=flat, lungs=chests.lungs(), changes=np.stack([0 * flat, -2 * flat]),
        local=flat[None], maps=np.stack([0 * flat, flat]), gate=flat[None], first=flat[None],
        **nothing,
    )  # fmt: skip
    # The mean of the draws' maps is 0.1, 0.2 short of 0.3; of their changes 0.2, seen in the lungs.
    whole = attribution_map(made, threshold=0.3, blur_px=4)
    assert whole[110, [60, 208]] == pytest.approx([0.1 + 0.6 * 0.2 * 0.2, 0.1], abs=1e-6)
    without = attribution_map(replace(made, first=None), threshold=0.3, blur_px=4)
    assert np.array_equal(without, made.maps.mean(0))


def test_the_draws_see_the_whole_film_and_the_lungs_in_turn() -> None:
    # The box around the lungs is rows 40 to 180 and columns 30 to 194: 164 / (0.9 x 224) = 0.813.
    whole, lungs, again = framing.frames(chests.lungs(), 3)
    assert (whole.size, whole.row, whole.col) == (1, 111.5, 111.5)
    assert lungs.size == pytest.approx(0.8135, abs=1e-4)
    assert (lungs.row, lungs.col) == (109.5, 111.5)
    assert again == whole
    nobody = np.zeros((GRID, GRID), bool)
    assert framing.frames(nobody, 2) == [whole, whole]


def test_what_a_frame_sees_goes_back_to_its_place() -> None:
    frame = framing.around(chests.lungs())
    spot = np.zeros((GRID, GRID), np.float32)
    spot[60:64, 50:54] = 1
    seen = frame.see(spot)
    assert seen.sum() > 1.3 * spot.sum()  # larger by 1 / 0.8135 squared, 1.5
    back = frame.back(seen)
    assert ndimage.center_of_mass(back) == pytest.approx((61.5, 51.5), abs=0.1)
    assert back.sum() == pytest.approx(spot.sum(), rel=0.05)
    assert frame.back(np.ones((GRID, GRID), np.float32))[0, 0] == 0  # it has not looked there
    same = framing.whole(GRID)
    assert np.array_equal(same.back(same.see(spot)), spot)
