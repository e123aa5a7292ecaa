"""Manifests and archives: what is read, and what is refused, naming the rows."""

import io
import tarfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import ExifTags, Image

from pipeline import prompts
from pipeline.errors import DatasetError
from pipeline.preprocess import GRID
from pipeline.training import dataset, pictures

_HEADER = "file,tar,split,label,source,group_id,view,flags"


def manifest(folder: Path, *rows: str, header: str = _HEADER) -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_row_is_read_with_its_flags(tmp_path: Path) -> None:
    (row,) = dataset.read_manifest(
        manifest(tmp_path, "a.png,one.tar,train,Normal,nih,g1,PA,paediatric;portable")
    )
    assert (row.file, row.tar, row.split, row.label) == ("a.png", "one.tar", "train", "Normal")
    assert (row.source, row.group, row.view) == ("nih", "g1", "PA")
    assert row.flags == {"paediatric", "portable"}
    assert row.paediatric


def test_group_view_and_flags_may_be_absent(tmp_path: Path) -> None:
    path = manifest(tmp_path, "a.png,,val,Normal,nih", header="file,tar,split,label,source")
    (row,) = dataset.read_manifest(path)
    assert (row.group, row.view, row.flags) == ("", "", frozenset())


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        ("file,tar,label", ["a.png,,Normal"], "missing column: source, split"),
        (
            _HEADER,
            ["a.png,,train,Normal,s,,,", "b.png,,dev,Normal,s,,,"],
            "unknown split (not calibration, test, train, val): line 3: b.png",
        ),
        (
            _HEADER,
            ["a.png,,train,Normal,s,,,", "b.png,,,Normal,s,,,"],
            "unknown split (not calibration, test, train, val): line 3: b.png",
        ),
        (
            _HEADER,
            ["a.png,,train,Normal,s,g7,,", "b.png,,test,Normal,s,g7,,", "c.png,,val,Normal,s,g8,,"],
            "group in more than one split: line 2: a.png, line 3: b.png",
        ),
        (
            _HEADER + ",patient_id",
            ["a.png,,train,Normal,s,,,,p1", "b.png,,val,Normal,s,,,,p1"],
            "patient in more than one split: line 2: a.png, line 3: b.png",
        ),
        (
            _HEADER + ", Patient_ID",
            ["a.png,,train,Normal,s,,,,p1 ", "b.png,, val,Normal,s,,,, p1"],
            "patient in more than one split: line 2: a.png, line 3: b.png",
        ),
        (_HEADER + ",GROUP_ID", ["a.png,,train,Normal,s,,,,"], "column given twice: group_id"),
        (
            _HEADER,
            ["a.png,films,train,Normal,s,,,", "a.png,./films/,test,Normal,s,,,"],
            "film listed twice: line 2: a.png, line 3: a.png",
        ),
        (
            _HEADER + ",sha256_original",
            ["a.png,,train,Normal,s,,,,d1", "b.png,,test,Normal,s,,,,d1"],
            "original file in more than one split: line 2: a.png, line 3: b.png",
        ),
        (
            _HEADER,
            ["a.png,,train,Normal,s,,,", "b.png,,train,normal,s,,,"],
            f"unknown label (not {', '.join(sorted(dataset.LABELS))}): line 3: b.png",
        ),
        (
            _HEADER,
            ["a.png,,calibration,Normal,s,,,", "b.png,,calibration,COVID,s,,,"],
            "film of split calibration that is not Normal: line 3: b.png",
        ),
        (
            _HEADER,
            ["a.png,,train,Normal,s,,,", '"b.png",,test,Normal,s,,,', "a.png,,val,Normal,s,,,"],
            "film listed twice: line 2: a.png, line 4: a.png",
        ),
        (
            _HEADER,
            ["a.png,,train,Normal,s,,,", "a.png,,train,COVID,s,,,"],
            "film listed twice: line 2: a.png, line 3: a.png",
        ),
        (
            _HEADER,
            ["a.png,,train,Normal,s,,,,,", "b.png,,train,Normal,s,,,"],
            "row of more columns than the header: line 2: a.png",
        ),
        (_HEADER, [",,train,Normal,s,,,"], "row without file, label or source: line 2: no file"),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_refused_with_its_rows(
    tmp_path: Path, header: str, rows: list[str], said: str
) -> None:
    path = manifest(tmp_path, *rows, header=header)
    with pytest.raises(DatasetError) as refused:
        dataset.read_manifest(path)
    assert str(refused.value) == f"{path}: {said}"


def test_names_in_cells_are_told_apart_as_they_are_written(tmp_path: Path) -> None:
    rows = ["a.png,,train,Normal,s,,,,P1", "b.png,,val,Normal,s,,,,p1"]
    path = manifest(tmp_path, *rows, header=f"{_HEADER},patient_id")
    assert [row.patient for row in dataset.read_manifest(path)] == ["P1", "p1"]


def test_a_film_counts_with_its_group_else_with_its_patient_else_with_nobody(
    tmp_path: Path,
) -> None:
    rows = ["a,,val,Normal,s,1,,,p", "b,,val,Normal,s,,,,1", "c,,val,Normal,s,,,,"]
    path = manifest(tmp_path, *rows, header=f"{_HEADER},patient_id")
    assert [row.whose for row in dataset.read_manifest(path)] == ["1", "patient 1", ""]


def test_a_group_within_one_split_is_no_leak_and_no_group_never_is(tmp_path: Path) -> None:
    rows = [
        "a,,train,Normal,s,g1,,",
        "b,,train,Normal,s,g1,,",
        "c,,train,Normal,s,,,",
        "d,,test,Normal,s,,,",
    ]
    assert len(dataset.read_manifest(manifest(tmp_path, *rows))) == 4


def test_ten_rows_are_named_and_the_others_counted(tmp_path: Path) -> None:
    rows = [f"{n}.png,,dev,Normal,s,,," for n in range(12)]
    with pytest.raises(DatasetError, match=r"line 2: 0\.png, .* 9\.png and 2 more$"):
        dataset.read_manifest(manifest(tmp_path, *rows))


def test_a_manifest_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read: No such file"):
        dataset.read_manifest(tmp_path / "manifest.csv")


def test_a_row_that_is_cut_short_is_refused_with_its_name(tmp_path: Path) -> None:
    path = manifest(tmp_path, "a.png,,train,Normal,s,,,", "b.png,,train")
    with pytest.raises(DatasetError, match=r"b\.png"):
        dataset.read_manifest(path)


def png(side: int, grey: int) -> bytes:
    """Black and grey halves."""
    buffer, plane = io.BytesIO(), np.zeros((side, side), np.uint8)
    plane[side // 2 :] = grey
    Image.fromarray(plane).save(buffer, "PNG")
    return buffer.getvalue()


def archive(path: Path, **members: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"{name}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_films_are_read_from_archives_and_beside_the_manifest_onto_the_grid(
    tmp_path: Path,
) -> None:
    archive(tmp_path / "one.tar", a=png(64, 100), b=png(300, 200))
    (tmp_path / "c.png").write_bytes(png(GRID, 30))
    members = [("one.tar", "b.png"), ("", "c.png"), ("one.tar", "a.png")]
    films = pictures.load_films(tmp_path, members)
    assert films.shape == (3, GRID, GRID)
    assert films.dtype == np.uint8
    assert [int(film[180, 50]) for film in films] == [200, 30, 100]
    assert films[:, 40].max() == 0


def test_films_keep_their_shape_between_black_and_square_ones_every_bit(tmp_path: Path) -> None:
    # 300 x 150 pixels on the grid of 224: all rows, 112 columns from the 56th on.
    tall_one = np.full((300, 150), 200, np.uint8)
    tall_one[-1] = 190  # a film that is all one grey is refused
    Image.fromarray(tall_one).save(tmp_path / "tall.png")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8))
    noise.save(tmp_path / "square.png")
    tall, square = pictures.load_films(tmp_path, [("", "tall.png"), ("", "square.png")])
    expected = np.zeros((224, 224), np.uint8)
    expected[:, 56:168] = 200
    np.testing.assert_array_equal(tall[:-3], expected[:-3])
    np.testing.assert_array_equal(square, noise.resize((224, 224), Image.Resampling.LANCZOS))


def test_every_film_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    archive(tmp_path / "one.tar", good=png(64, 100), text=b"no picture", cut=png(64, 100)[:40])
    files = ("good", "text", "cut", "absent")
    members = [*(("one.tar", f"{name}.png") for name in files), ("two.tar", "x.png"), ("", "y.png")]
    with pytest.raises(DatasetError) as refused:
        pictures.load_films(tmp_path, members)
    said = str(refused.value)
    assert said.startswith(f"{tmp_path}: film missing or of no use: ")
    for name in ("one.tar:text.png", "one.tar:cut.png", "one.tar:absent.png", "two.tar:x.png"):
        assert name in said
    assert f"{tmp_path}:y.png" in said
    assert "good.png" not in said


def localised(folder: Path, images: str, boxes: str) -> Path:
    (folder / "images.csv").write_text(f"file,width,height,source,part\n{images}")
    (folder / "boxes.csv").write_text(f"file,finding,x0,y0,x1,y1\n{boxes}")
    return folder


def test_boxes_are_fractions_of_the_square_around_their_films(tmp_path: Path) -> None:
    rows = dataset.read_localised(
        localised(
            tmp_path,
            "a.png,200,100,rsna,dev\nb.png,100,100,jsrt,test\n",
            "a.png,Nodule,50,25,100,75\n",
        )
    )
    (box,) = rows[0].boxes
    # 100 rows are centred in 200: 50 of black above.
    assert (box.finding, box.x0, box.y0, box.x1, box.y1) == ("Nodule", 0.25, 0.375, 0.5, 0.625)
    assert (rows[0].source, rows[0].part) == ("rsna", "dev")
    assert rows[1].boxes == ()


def test_a_box_of_no_known_film_is_refused_with_its_name(tmp_path: Path) -> None:
    folder = localised(tmp_path, "a.png,10,10,rsna,dev\n", "b.png,Nodule,1,1,2,2\n")
    with pytest.raises(DatasetError, match=r"images\.csv does not list: line 2: b\.png$"):
        dataset.read_localised(folder)


def test_an_unknown_finding_is_refused_where_it_would_be_learnt_from(tmp_path: Path) -> None:
    images = "a.png,10,10,s,train\nb.png,10,10,s,dev\n"
    boxes = "a.png,Nodule,1,1,2,2\nb.png,Fracture,1,1,2,2\n"
    assert len(dataset.read_localised(localised(tmp_path, images, boxes))) == 2
    folder = localised(tmp_path, images, f"{boxes}a.png,Fracture,1,1,2,2\n")
    with pytest.raises(DatasetError, match=r"boxes\.csv: unknown finding .*\): line 4: a\.png$"):
        dataset.read_localised(folder)


def test_every_boxed_finding_has_a_label_and_a_word_that_are_known() -> None:
    assert {label for label, _ in dataset.BOXED.values()} <= dataset.LABELS - {"Normal"}
    assert {word for _, word in dataset.BOXED.values()} <= set(prompts.FINDINGS)


def test_a_manifest_of_another_coding_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes(f"{_HEADER}\nMünchen.png,,train,Normal,s,,,\n".encode("latin-1"))
    with pytest.raises(DatasetError, match="is not UTF-8; save it as CSV UTF-8"):
        dataset.read_manifest(path)


def test_a_manifest_as_a_spreadsheet_saves_it_is_read(tmp_path: Path) -> None:
    path = manifest(tmp_path, "a.png,,train,Normal,s,,,")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [row.file for row in dataset.read_manifest(path)] == ["a.png"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{_HEADER}\n", "has no rows"),
        ("", "missing column"),
        (f'{_HEADER}\na.png,,train,Normal,"cut', "is no CSV"),
        (f"{_HEADER}\na.png,,train,Normal,{'s' * 200_000},,,\n", "is no CSV"),
    ],
)
def test_a_manifest_that_is_empty_or_cut_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(DatasetError, match=said):
        dataset.read_manifest(tmp_path / "manifest.csv")


@pytest.mark.parametrize(
    "box",
    ["9,1,2,5", "1,9,5,2", "-1,1,2,2", "1,1,11,2", "1,1,2,inf", "nan,1,2,2", "1,1,1,2", "a,1,2,2"],
)
def test_a_box_that_does_not_lie_within_its_film_is_refused_with_its_line(
    tmp_path: Path, box: str
) -> None:
    boxes = f"a.png,Nodule,1,1,2,2\na.png,Nodule,{box}\n"
    folder = localised(tmp_path, "a.png,10,10,rsna,dev\n", boxes)
    with pytest.raises(DatasetError, match=r"in its pixels: line 3: a\.png$"):
        dataset.read_localised(folder)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ("a.png,10,10,rsna,trian\n", r"unknown part \(not dev, test, train\): line 2: a\.png"),
        ("a.png,10,0,rsna,dev\n", r"width or height is no length: line 2: a\.png"),
        ("a.png,wide,10,rsna,dev\n", r"width or height is no length: line 2: a\.png"),
        ("a.png,9,9,s,dev\na.png,9,9,s,train\n", r"twice: line 2: a\.png, line 3: a\.png"),
    ],
)
def test_a_localised_set_that_cannot_be_trusted_is_refused_with_its_rows(
    tmp_path: Path, images: str, said: str
) -> None:
    with pytest.raises(DatasetError, match=said):
        dataset.read_localised(localised(tmp_path, images, ""))


def test_a_patient_in_two_parts_of_a_localised_set_is_refused_unnamed(tmp_path: Path) -> None:
    localised(tmp_path, "", "")
    (tmp_path / "images.csv").write_text(
        "file,width,height,source,part,patient_id\na,9,9,s,train,Doe\nb,9,9,s,test,Doe\n"
    )
    with pytest.raises(DatasetError, match="more than one part: line 2: a, line 3: b") as refused:
        dataset.read_localised(tmp_path)
    assert "Doe" not in str(refused.value)


def test_what_is_judged_by_is_of_nobody_who_is_learnt_from(tmp_path: Path) -> None:
    rows = dataset.read_manifest(
        manifest(
            tmp_path,
            "a.png,,train,Normal,s,g1,,",
            "b.png,,test,Normal,s,g2,,",
            "c.png,,calibration,Normal,s,g3,,",
        )
    )
    films = {
        "x": ("train", "g1"), "y": ("test", "g2"), "z": ("dev", "g1"), "v": ("dev", ""),
        "w": ("train", "g2"), "c": ("test", "g3"), "d": ("dev", "g3"),
    }  # fmt: skip
    found = {
        file: dataset.LocalisedRow(file=file, source="s", part=part, boxes=(), group=group)
        for file, (part, group) in films.items()
    }
    with pytest.raises(DatasetError, match=r"dev or test .* manifest has in train: z$"):
        dataset.demand_apart(rows, [found[file] for file in "xyzv"])
    with pytest.raises(DatasetError, match=r"part train .* manifest has in another split: w$"):
        dataset.demand_apart(rows, [found[file] for file in "xyvw"])
    with pytest.raises(DatasetError, match=r"part test .* has in val or calibration: c$"):
        dataset.demand_apart(rows, [found[file] for file in "xyvcd"])
    dataset.demand_apart(rows, [found[file] for file in "xyvd"])


def test_films_that_are_not_there_are_found_without_being_read(tmp_path: Path) -> None:
    archive(tmp_path / "one.tar", a=b"no picture, and not looked at")
    (tmp_path / "films" / "deep").mkdir(parents=True)
    (tmp_path / "films" / "deep" / "b.png").touch()
    (tmp_path / "c.png").touch()
    there = [("one.tar", "a.png"), ("films", "deep/b.png"), ("", "c.png")]
    pictures.demand_films(tmp_path, there)
    with pytest.raises(DatasetError, match=r"film missing: one\.tar:b\.png, .*:d\.png$"):
        pictures.demand_films(tmp_path, [*there, ("one.tar", "b.png"), ("", "d.png")])
    with pytest.raises(DatasetError, match=r"no such archive or folder: two\.tar$"):
        pictures.demand_films(tmp_path, [*there, ("two.tar", "a.png"), ("two.tar", "b.png")])


@pytest.mark.parametrize("kind", ["w:gz", "w:xz", "w:bz2"])
def test_an_archive_of_which_a_part_was_never_fetched_is_refused_by_its_name(
    tmp_path: Path, kind: Literal["w:gz", "w:xz", "w:bz2"]
) -> None:
    path, noise = tmp_path / "one.tar", np.random.default_rng(0).bytes(100_000)
    with tarfile.open(path, kind) as tar:
        info = tarfile.TarInfo("a.png")
        info.size = len(noise)
        tar.addfile(info, io.BytesIO(noise))
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(DatasetError, match=r"one\.tar: cannot be read as an archive"):
        pictures.demand_films(tmp_path, [("one.tar", "a.png")])
    with pytest.raises(DatasetError, match=r"of no use: one\.tar:a\.png \("):
        pictures.load_films(tmp_path, [("one.tar", "a.png")])


def test_a_member_that_is_a_link_to_itself_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "one.tar", "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "a.png"
        tar.addfile(info)
    with pytest.raises(DatasetError, match=r"one\.tar:a\.png \(maximum recursion"):
        pictures.load_films(tmp_path, [("one.tar", "a.png")])


def test_copies_of_a_film_in_two_splits_are_named(tmp_path: Path) -> None:
    archive(tmp_path / "one.tar", a=png(64, 100), b=png(64, 90), c=png(64, 90))
    (tmp_path / "d.png").write_bytes(png(64, 100))
    members = [("one.tar", "a.png"), ("one.tar", "b.png"), ("one.tar", "c.png"), ("", "d.png")]
    pictures.demand_no_copies(tmp_path, members, ["train", "test", "test", "train"])
    with pytest.raises(DatasetError) as refused:
        pictures.demand_no_copies(tmp_path, members, ["train", "test", "test", "test"])
    assert str(refused.value) == (
        f"{tmp_path}: one film in more than one split: one.tar:a.png, {tmp_path}:d.png"
    )


def test_an_archive_that_is_none_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "one.tar").write_bytes(b"no archive")
    with pytest.raises(DatasetError, match=r"one\.tar: cannot be read as an archive"):
        pictures.demand_films(tmp_path, [("one.tar", "a.png")])


def test_films_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.png").write_bytes(png(64, 100))
    assert int(pictures.load_films(tmp_path, [("films", "a.png")])[0, 180, 50]) == 100


def test_pictures_are_kept_in_an_archive_a_folder_or_beside_their_tables(tmp_path: Path) -> None:
    assert pictures.place_of(tmp_path, "images") == ""
    (tmp_path / "images").mkdir()
    assert pictures.place_of(tmp_path, "images") == "images"
    archive(tmp_path / "images.tar")
    assert pictures.place_of(tmp_path, "images") == "images.tar"


@pytest.mark.parametrize(
    ("plane", "suffix"),
    [
        (np.full((64, 64), 40_000, np.uint16), "png"),
        (np.full((64, 64), np.nan, np.float32), "tiff"),
        (np.full((1, 1), 100, np.uint8), "png"),
    ],
)
def test_a_picture_that_would_be_read_as_another_is_refused(
    tmp_path: Path, plane: np.ndarray, suffix: str
) -> None:
    Image.fromarray(plane).save(tmp_path / f"a.{suffix}")
    with pytest.raises(DatasetError, match=rf"a\.{suffix} \((more than 8 bits|smaller than 32)"):
        pictures.load_films(tmp_path, [("", f"a.{suffix}")])


def a_film() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 96), np.uint8)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (Image.new("L", (64, 64)), "blank: every pixel has the same value"),
        (Image.new("RGBA", (64, 64), (90, 80, 70, 0)), "parts of it are see-through"),
    ],
    ids=["blank", "see-through"],
)
def test_a_picture_of_nothing_is_no_film(tmp_path: Path, picture: Image.Image, said: str) -> None:
    Image.fromarray(a_film()).save(tmp_path / "good.png")
    picture.save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=rf"of no use: \S+:a\.png \({said}"):
        pictures.load_films(tmp_path, [("", "a.png"), ("", "good.png")])


def test_a_film_that_is_see_through_or_turned_by_its_exif_is_refused(tmp_path: Path) -> None:
    film, exif = Image.fromarray(a_film()), Image.Exif()
    faint = film.convert("LA")
    faint.putalpha(254)
    faint.save(tmp_path / "faint.png")
    opaque = film.convert("LA")
    opaque.save(tmp_path / "opaque.png")
    for orientation in (0, 1, 6):
        exif[ExifTags.Base.Orientation] = orientation
        film.save(tmp_path / f"{orientation}.jpg", exif=exif)
    good = [("", "opaque.png"), ("", "0.jpg"), ("", "1.jpg")]
    assert len(pictures.load_films(tmp_path, good)) == 3
    with pytest.raises(DatasetError, match=r"faint\.png \(parts .*:6\.jpg \(its EXIF says"):
        pictures.load_films(tmp_path, [("", "faint.png"), ("", "6.jpg")])


def test_a_mask_may_be_blank(tmp_path: Path) -> None:
    Image.new("1", (64, 64)).save(tmp_path / "a.png")
    assert pictures.load_masks(tmp_path, [("", "a.png")]).max() == 0


def test_a_film_of_another_aspect_than_its_table_says_is_refused(tmp_path: Path) -> None:
    # 64 rows of 96 columns: a film of 2000 x 3001 scaled down, and boxes of its native pixels.
    Image.fromarray(a_film()).save(tmp_path / "a.png")
    native = dataset.read_localised(localised(tmp_path, "a.png,3001,2000,s,dev\n", ""))
    assert len(pictures.load_localised(tmp_path, native)) == 1
    turned = dataset.read_localised(localised(tmp_path, "a.png,2000,3000,s,dev\n", ""))
    said = r"a\.png \(96 x 64 pixels, and images\.csv says 2000 x 3000\)"
    with pytest.raises(DatasetError, match=said):
        pictures.load_localised(tmp_path, turned)


def test_a_film_that_is_missing_has_no_other_measured_by_its_size(tmp_path: Path) -> None:
    Image.fromarray(a_film()).save(tmp_path / "b.png")
    rows = dataset.read_localised(localised(tmp_path, "a.png,64,96,s,dev\nb.png,96,64,s,dev\n", ""))
    with pytest.raises(DatasetError) as refused:
        pictures.load_localised(tmp_path, rows)
    assert "a.png" in str(refused.value)
    assert "b.png" not in str(refused.value)
