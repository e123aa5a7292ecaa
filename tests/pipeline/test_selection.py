"""Which films an evaluation is of: never of those that the other part was chosen or judged by."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DatasetError
from pipeline.evaluation.selection import Selection

_MANIFEST = "file,tar,split,label,source,group_id,patient_id,sha256_original"
_LEARNT = "learnt,,train,Normal,s,,,"
_IMAGES = "file,width,height,source,part,group_id,patient_id,sha256_original"


def tables(folder: Path, manifest: list[str], images: list[str], boxes: str = "") -> Path:
    for name in ("cxr256", "localised"):
        (folder / name).mkdir()
    (folder / "cxr256" / "manifest.csv").write_text(
        "\n".join([_MANIFEST, _LEARNT, *manifest]) + "\n"
    )
    (folder / "localised" / "images.csv").write_text("\n".join([_IMAGES, *images]) + "\n")
    (folder / "localised" / "boxes.csv").write_text(f"file,finding,x0,y0,x1,y1,mask\n{boxes}")
    return folder


def test_films_of_whom_part_dev_has_some_are_left_out_of_test_and_counted(tmp_path: Path) -> None:
    manifest = [
        "by_group,,test,COVID,s,g1,,",
        "by_patient,,test,COVID,s,,p2,",
        "by_file,,test,COVID,s,,,d3",
        "same_part,,test,COVID,s,g4,,",
        "nobody,,test,COVID,s,,,",
    ]
    images = [
        "1,9,9,s,dev,g1,,",
        "2,9,9,s,dev,,p2,",
        "3,9,9,s,dev,,,d3",
        "4,9,9,s,test,g4,,",
        "5,9,9,s,dev,,,",
    ]
    films = Selection(data=tables(tmp_path, manifest, images), part="test")
    assert [row.file for row in films.rows(lambda _: True)] == ["same_part", "nobody"]
    assert films.left_out == 3


def test_a_limit_is_of_what_is_judged_and_not_of_what_an_audit_learns_from(tmp_path: Path) -> None:
    manifest = [f"{n},,{split},Normal,s,,," for n, split in enumerate(("val", "val", "train"))]
    films = Selection(data=tables(tmp_path, manifest, ["1,9,9,s,dev,,,"]), part="dev", limit=1)
    assert [row.file for row in films.rows(lambda _: True)] == ["0"]
    assert [row.file for row in films.rows(lambda _: True, "train")] == ["learnt", "2"]


def test_marked_films_that_no_known_group_has_are_a_group_of_their_source(tmp_path: Path) -> None:
    images = [
        "1,9,9,jsrt,dev,,,",
        "2,9,9,ours,dev,,,",
        "3,9,9,ours,dev,,,",
        "4,9,9,ours,dev,,,",
        "5,9,9,ours,test,,,",
    ]
    boxes = "".join(f"{file},Lung_Opacity,0,0,5,5,\n" for file in (1, 2, 4, 5))
    films = Selection(data=tables(tmp_path, [], images, boxes), part="dev")
    found = {name: [row.file for row in rows] for name, rows in films.groups.items()}
    assert found == {"JSRT nodule": ["1"], "others of ours": ["2", "4"]}
    few = Selection(data=films.data, part="dev", limit=1)
    assert [row.file for row in few.groups["others of ours"]] == ["2"]


def mask(path: Path, side: int, *filled: tuple[slice, slice]) -> None:
    """A 1-bit PNG, white where it is filled."""
    plane = np.zeros((side, side), bool)
    for where in filled:
        plane[where] = True
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(plane).save(path)


def test_the_truth_of_a_film_with_masks_is_their_union_and_not_the_boxes_around(
    tmp_path: Path,
) -> None:
    # In quarters of the side: two masks of one film, and a box that no mask outlines.
    boxes = [
        "a,Consolidation,0,0,400,400,one.png",
        "a,Consolidation,0,0,400,400,one.png",
        "a,Opacity,0,0,400,400,two.png",
        "a,Nodule,0,300,100,400,",
        "b,Nodule,100,0,200,100,",
    ]
    folder = tables(tmp_path, [], ["a,400,400,s,dev,,,", "b,400,400,s,dev,,,"], "\n".join(boxes))
    masks = folder / "localised" / "masks"
    mask(masks / "one.png", 448, (slice(0, 224), slice(0, 112)))
    mask(masks / "two.png", 448, (slice(112, 224), slice(0, 224)))
    films = Selection(data=folder, part="dev")
    outlined, boxed = films.truths(films.localised, 4)
    assert outlined.astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0] * 4, [1, 0, 0, 0]]
    assert boxed.astype(int).tolist() == [[0, 1, 0, 0], [0] * 4, [0] * 4, [0] * 4]


def test_a_mask_smaller_than_a_pixel_is_one_and_a_blank_one_is_refused(tmp_path: Path) -> None:
    boxes = "a,Nodule,0,0,9,9,small.png\nb,Nodule,0,0,9,9,blank.png"
    folder = tables(tmp_path, [], ["a,224,224,s,dev,,,", "b,224,224,s,dev,,,"], boxes)
    masks = folder / "localised" / "masks"
    mask(masks / "small.png", 224, (slice(60, 64), slice(0, 4)))
    mask(masks / "blank.png", 224)
    films = Selection(data=folder, part="dev")
    small, blank = films.localised
    (truth,) = films.truths([small], 4)
    assert np.argwhere(truth).tolist() == [[1, 0]]
    with pytest.raises(DatasetError, match=r"masks: nothing is white on the masks of b$"):
        films.truths([blank], 4)


@pytest.mark.parametrize(
    ("split", "part", "said"),
    [("train", "dev", "has in train: l"), ("val", "train", "has in another split: l")],
)
def test_an_evaluation_refuses_a_patient_who_is_learnt_from_and_judged_by(
    tmp_path: Path, split: str, part: str, said: str
) -> None:
    folder = tables(tmp_path, [f"m,,{split},COVID,s,,p,"], [f"l,9,9,s,{part},,p,"])
    with pytest.raises(DatasetError, match=f"{said}$"):
        Selection(data=folder, part="dev").rows(lambda _: True)


def test_a_copy_of_a_film_that_is_learnt_from_is_refused_before_it_is_judged_by(
    tmp_path: Path,
) -> None:
    folder = tables(tmp_path, ["m.png,,val,Normal,s,,,"], ["l.png,64,64,s,dev,,,"])
    for number, name in enumerate(("cxr256/learnt", "cxr256/m.png", "localised/l.png")):
        Image.fromarray(np.full((64, 64), number, np.uint8)).save(folder / name, "PNG")
    films = Selection(data=folder, part="dev")
    films.demand_films(["val", "train"])
    (folder / "localised" / "l.png").write_bytes((folder / "cxr256" / "learnt").read_bytes())
    with pytest.raises(DatasetError, match=r"more than one split: cxr256/:learnt, localised/:l"):
        films.demand_films(["val", "train"])


def test_a_copy_of_a_localised_film_that_is_learnt_from_is_refused_where_both_are_there(
    tmp_path: Path,
) -> None:
    rows = ["l.png,64,64,s,test,,,", "learnt.png,64,64,s,train,,,"]
    folder = tables(tmp_path, ["m.png,,test,Normal,s,,,"], rows) / "localised"
    for number, name in enumerate(("cxr256/learnt", "cxr256/m.png", "localised/l.png")):
        Image.fromarray(np.full((64, 64), number, np.uint8)).save(tmp_path / name, "PNG")
    films = Selection(data=tmp_path, part="test")
    films.demand_films(["test", "train"])
    (folder / "learnt.png").write_bytes((folder / "l.png").read_bytes())
    with pytest.raises(DatasetError, match=r"more than one split: localised/:learnt.png, .*:l.png"):
        films.demand_films(["test", "train"])


@pytest.mark.parametrize(
    ("row", "told"),
    [("g,,", ["groups"]), ("g,p,", []), (",,", ["films"])],
)
def test_a_table_without_patients_says_what_that_means(
    tmp_path: Path, row: str, told: list[str]
) -> None:
    films = Selection(data=tables(tmp_path, [f"m,,val,Normal,s,{row}"], []), part="dev", limit=0)
    (tmp_path / "localised" / "images.csv").unlink()
    (tmp_path / "localised" / "boxes.csv").unlink()
    (tmp_path / "localised").rmdir()
    assert films.notes == [
        "manifest.csv names no patient (column patient_id): leaks between splits cannot be seen, "
        f"and intervals are over {what}"
        for what in told
    ]


def test_localised_films_may_lie_in_a_folder(tmp_path: Path) -> None:
    films = Selection(data=tables(tmp_path, [], ["a.png,64,64,s,dev,,,"]), part="dev")
    picture = tmp_path / "localised" / "images" / "a.png"
    picture.parent.mkdir()
    plane = np.full((64, 64), 51, np.uint8)
    plane[-1] = 0
    Image.fromarray(plane).save(picture)
    (film,) = films.localised_films(films.localised)
    assert film[0].max() == pytest.approx(0.2)  # 51 of 255
