from dataclasses import replace

import numpy as np
import pytest

from dicom_node.results import canvas, colour, picture
from pipeline.types import Attribution, Radiograph, Region, Status
from tests.results import sources


def radiograph(rows: int = 200, cols: int = 160, **more: object) -> Radiograph:
    pixels = np.tile(np.linspace(0.1, 0.4, cols, dtype=np.float32), (rows, 1))
    pixels[60:100, 40:80] = 0.9
    return replace(Radiograph(pixels=pixels), **more)  # type: ignore[arg-type]  # keyword fields


def result(film: Radiograph) -> Attribution:
    return sources.attribution(film)


def test_a_film_panel_is_1024_high_and_keeps_its_shape() -> None:
    place = picture.layout(radiograph())
    assert [(box.height, box.width) for box in place.films] == [(1024, 819)] * 3  # 1024 * 160 / 200


def test_non_square_pixels_are_drawn_in_true_proportion() -> None:
    # 200 rows of 0.2 mm are 40 mm, 160 columns of 0.1 mm are 16 mm: 1024 * 16 / 40.
    place = picture.layout(radiograph(spacing_mm=(0.2, 0.1), spacing_plane="detector"))
    assert (place.films[0].height, place.films[0].width) == (1024, 410)


def test_a_very_wide_film_is_bounded_in_width() -> None:
    place = picture.layout(radiograph(rows=160, cols=800))
    assert (place.films[0].height, place.films[0].width) == (256, 1280)


@pytest.mark.parametrize(("rows", "cols"), [(200, 160), (160, 200), (3000, 200), (110, 3000)])
def test_nothing_lies_outside_the_picture(rows: int, cols: int) -> None:
    film = radiograph(rows, cols)
    place, pixels = picture.layout(film), picture.panels(film, result(film))
    assert pixels.shape == (place.height, place.width, 3)
    assert pixels.dtype == np.uint8
    for box in place.films:
        assert 0 <= box.left < box.left + box.width <= place.width
        assert 0 <= box.top < box.top + box.height <= place.height


def test_panels_do_not_overlap() -> None:
    first, second, third = picture.layout(radiograph()).films
    assert first.left + first.width <= second.left
    assert second.left + second.width <= third.left


def test_original_and_counterpart_share_one_grey_scale() -> None:
    film = radiograph()
    same = replace(result(film), counterfactual=film.pixels)
    assert np.array_equal(picture.film(film), picture.counterpart(film, same))
    darker = replace(film, pixels=film.pixels * np.float32(0.5))
    row, col = 800, 400  # a uniform neighbourhood: no stretching of the darker film
    assert picture.film(darker)[row, col, 0] == pytest.approx(
        picture.film(film)[row, col, 0] / 2, abs=1
    )


def test_black_is_zero_and_white_is_one() -> None:
    film = Radiograph(pixels=np.array([[0, 1]], np.float32).repeat(64, 0).repeat(32, 1))
    shown = picture.film(film)
    assert shown[10, 5].tolist() == [0, 0, 0]
    assert shown[10, -5].tolist() == [255, 255, 255]


def test_below_the_threshold_the_overlay_is_the_film() -> None:
    film = radiograph()
    quiet = replace(result(film), attribution_map=np.full_like(film.pixels, 0.0999), regions=())
    assert np.array_equal(picture.overlay(film, quiet), picture.film(film))


def test_the_same_value_has_the_same_colour_whatever_else_is_on_the_map() -> None:
    grey = np.full((1, 1, 3), 100, np.uint8)
    one = colour.over(grey, np.array([[0.2]], np.float32), 0.1, 0.5)
    row = colour.over(grey.repeat(2, 1), np.array([[0.2, 0.5]], np.float32), 0.1, 0.5)
    assert one[0, 0].tolist() == row[0, 0].tolist()


def test_the_scale_ends_at_its_stated_ends() -> None:
    ends = colour.colours(np.array([[0.1, 0.5, 9.0]], np.float32), 0.1, 0.5)
    assert ends[0].tolist() == [[126, 3, 168], [240, 249, 33], [240, 249, 33]]


def test_the_bar_has_the_colours_of_the_film_over_mid_grey() -> None:
    bar = colour.bar(100, 3)
    grey = np.full((1, 1, 3), 128, np.uint8)
    assert bar[0, 0].tolist() == colour.over(grey, np.ones((1, 1), np.float32), 0, 1)[0, 0].tolist()
    assert (
        bar[-1, 0].tolist() == colour.over(grey, np.zeros((1, 1), np.float32), 0, 1)[0, 0].tolist()
    )


def test_a_region_is_outlined_where_it_is() -> None:
    film = Radiograph(pixels=np.full((200, 160), 0.2, np.float32))
    outline = ((50.0, 40.0), (50.0, 80.0), (100.0, 80.0), (100.0, 40.0), (50.0, 40.0))
    region = Region(outline=outline, area_px=2000, peak=0.3, mean=0.2)
    drawn = replace(result(film), regions=(region,), attribution_map=np.zeros_like(film.pixels))
    # Scale 1024 / 200 = 5.12: edges at rows 256 and 512, columns 204.8 and 409.5.
    changed = (picture.overlay(film, drawn) != picture.film(film)).any(-1)
    line = changed[384]
    left, right = np.nonzero(line[:300])[0], np.nonzero(line[300:])[0] + 300
    assert left.mean() + 0.5 == pytest.approx(204.8, abs=1)
    assert right.mean() + 0.5 == pytest.approx(409.6, abs=1)
    assert len(left) <= 4 >= len(right)


def test_a_withheld_result_shows_neither_counterpart_nor_map() -> None:
    film = radiograph()
    withheld = replace(result(film), status=Status.WITHHELD, reasons=("seeds disagree",))
    other = replace(
        withheld,
        counterfactual=np.zeros_like(film.pixels),
        attribution_map=np.ones_like(film.pixels),
        regions=(),
        score=0.1,
    )
    assert np.array_equal(picture.panels(film, withheld), picture.panels(film, other))


@pytest.mark.parametrize("status", [Status.VALID, Status.LOW_CONFIDENCE, Status.WITHHELD])
def test_the_research_words_are_on_every_picture(status: Status) -> None:
    film = radiograph()
    pixels = picture.panels(film, replace(result(film), status=status))
    words = pixels[-60:-20]  # amber on dark, in the middle of the banner
    amber = (np.abs(words.astype(int) - (255, 190, 84)).max(-1) < 8).sum()
    assert amber > 2000


@pytest.mark.parametrize("status", [Status.VALID, Status.LOW_CONFIDENCE, Status.WITHHELD])
def test_a_picture_alone_says_below_it_what_it_is_and_its_status_unless_valid(
    status: Status,
) -> None:
    film = radiograph()
    shown = picture.overlay(film, result(film))
    said = replace(result(film), status=status, reasons=("the draws disagree " * 9,))
    pixels = picture.with_status(shown, said)
    rows = len(shown)
    assert np.array_equal(pixels[:rows], shown)
    plain = picture.with_banner(shown)
    assert np.array_equal(pixels[-84:], plain[-84:])
    line = pixels[rows:-84].astype(int)
    if status is Status.VALID:
        assert line.size == 0
    else:
        at = np.abs(line - canvas.STATUS[status]).max(-1) < 8
        assert at.any(axis=1).sum() > 60  # in several lines
        assert not at[:, :20].any()
        assert not at[:, -20:].any()


def test_the_same_result_gives_the_same_picture() -> None:
    film = radiograph()
    first, second = (picture.panels(film, result(film)) for _ in range(2))
    assert np.array_equal(first, second)


def test_very_long_names_and_reasons_stay_inside() -> None:
    film = radiograph(rows=400, cols=60)
    said = result(film)
    model = replace(said.model, name="m" * 300, version="v" * 80)
    long = replace(said, model=model, status=Status.LOW_CONFIDENCE, reasons=("why " * 300,))
    pixels = picture.panels(film, long)
    assert (pixels[-180:-90, -30:] == pixels[0, 0]).all()  # the right margin of the footer
