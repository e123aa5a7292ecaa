"""Which films an evaluation is of: never of those that the other part was chosen or judged by."""

from pathlib import Path

import pytest

from pipeline.evaluation.selection import Selection

_MANIFEST = "file,tar,split,label,source,group_id,patient_id,sha256_original"
_IMAGES = "file,width,height,source,part,group_id,patient_id,sha256_original"


def tables(folder: Path, manifest: list[str], images: list[str], boxes: str = "") -> Path:
    for name in ("cxr256", "localised"):
        (folder / name).mkdir()
    (folder / "cxr256" / "manifest.csv").write_text("\n".join([_MANIFEST, *manifest]) + "\n")
    (folder / "localised" / "images.csv").write_text("\n".join([_IMAGES, *images]) + "\n")
    (folder / "localised" / "boxes.csv").write_text(f"file,finding,x0,y0,x1,y1,mask\n{boxes}")
    return folder


@pytest.mark.parametrize(
    ("part", "split", "other"), [("test", "test", "dev"), ("dev", "val", "test")]
)
def test_films_of_whom_the_other_part_has_are_left_out_and_counted(
    tmp_path: Path, part: str, split: str, other: str
) -> None:
    manifest = [
        f"by_group,,{split},COVID,s,g1,,",
        f"by_patient,,{split},COVID,s,,p2,",
        f"by_file,,{split},COVID,s,,,d3",
        f"same_part,,{split},COVID,s,g4,,",
        f"nobody,,{split},COVID,s,,,",
        "learnt,,train,COVID,s,g6,,",
    ]
    images = [
        f"1,9,9,s,{other},g1,,",
        f"2,9,9,s,{other},,p2,",
        f"3,9,9,s,{other},,,d3",
        f"4,9,9,s,{part},g4,,",
        f"5,9,9,s,{other},,,",
    ]
    films = Selection(data=tables(tmp_path, manifest, images), part=part)
    assert [row.file for row in films.rows(lambda _: True)] == ["same_part", "nobody"]
    assert films.left_out == 3
