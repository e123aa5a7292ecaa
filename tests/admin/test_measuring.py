"""`vald-node evaluate` and `calibrate --healthy`, on films of nobody and a random model."""

import errno
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import save_file

from dicom_node.errors import NodeError
from pipeline import calibration, digest, lesion_gate, settings, testing, weights
from pipeline.classifier import Classifier
from pipeline.errors import DatasetError, PipelineError
from pipeline.evaluation import repeating, report
from pipeline.evaluation.summary import SECTIONS
from pipeline.evidence import Evidence
from pipeline.explainer import Explainer
from pipeline.training import assembly, calibrate
from pipeline.types import Image, Mode
from tests.admin import commands, data_folder


@pytest.fixture(scope="module", autouse=True)
def few_seeds() -> Iterator[None]:
    """Films are explained from two seeds, two of a class: tests/pipeline has how many it takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeating, "SEEDS", range(2))
        patch.setattr(repeating, "_FILMS", 2)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: a few films of one source in train and val, two boxed ones, one normal."""
    folder = tmp_path_factory.mktemp("data")
    data_folder.manifest(folder, ["val"] * 24 + ["train"] * 16)
    parts = ("nih-chestxray14", "nih-chestxray14", "jsrt")
    data_folder.localised(folder, [(source, "dev") for source in parts])
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    testing.write_tiny_model(folder, grid=data_folder.SIDE)
    return folder


@pytest.fixture(scope="module")
def evaluated(
    data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("evaluation")
    assembly.save_network(Classifier(), out / "judges" / weights.CLASSIFIER)
    done = commands.vald(
        "evaluate", "--data", data, "--model", model, "--judges", out / "judges", "--out", out,
        "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), out


def test_the_table_has_every_section_and_says_whose_features_are_used(
    evaluated: tuple[dict[str, Any], Path],
) -> None:
    numbers, out = evaluated
    assert {
        "reconstruction", "localisation", "normals", "image_score", "validity", "fidelity",
        "reliability", "seeds", "oracle", "induction", "seconds_per_film",
    } <= numbers.keys()  # fmt: skip
    assert "not Inception" in numbers["extractor"]
    assert json.loads((out / "evaluation.json").read_text()) == numbers


@pytest.mark.parametrize(
    ("label", "said"), [("Normal", {"conformal"}), ("Lung_Opacity", set())], ids=["normal", "sick"]
)
def test_of_films_of_one_class_no_calibration_error_is_told(
    data: Path,
    of_normals: Path,
    evaluated: tuple[dict[str, Any], Path],
    tmp_path: Path,
    label: str,
    said: set[str],
) -> None:
    data_folder.keep_only(shutil.copytree(data, tmp_path / "data"), label)
    model = shutil.copytree(of_normals, tmp_path / "model")
    learnt = calibration.load(model)
    assert learnt is not None
    calibration.save(replace(learnt, odds=calibration.Odds(slope=2.0, intercept=-1.0)), model)
    digest.write_digests(model)
    sections = ("reconstruction", "image_score", "validity", "fidelity", "oracle", "induction")
    done = commands.vald(
        "evaluate", "--data", tmp_path / "data", "--model", model, "--out", tmp_path / "out",
        "--judges", evaluated[1] / "judges", "--json", *(f"--without={name}" for name in sections),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["reliability"].keys() == said
    assert (tmp_path / "out" / "evaluation.html").is_file()


def test_every_film_has_a_status(evaluated: tuple[dict[str, Any], Path]) -> None:
    status = evaluated[0]["status"]
    for films in (status["normal"], status["abnormal"]):
        assert films.keys() == {"VALID", "LOW_CONFIDENCE", "WITHHELD"}
        assert sum(share["mean"] for share in films.values()) == pytest.approx(1)
    # No segmenter: no lungs. Too few boxed films have one status to say what maps find there.
    assert status["doubted"]["normal"]["lungs_found"]["mean"] == 1
    assert status["localised"] == {"RSNA opacity": {}}


def test_an_evaluation_made_of_kept_edits_says_the_same(
    data: Path, model: Path, evaluated: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    numbers, out = evaluated
    for _ in range(2):
        done = commands.vald(
            "evaluate", "--data", data, "--model", model, "--judges", out / "judges",
            "--keep", tmp_path / "kept", "--json",
        )  # fmt: skip
        assert done.exit_code == 0, done.output
    assert list((tmp_path / "kept").rglob("*.safetensors"))
    again = json.loads(done.stdout)
    assert "seconds_per_film" not in again
    assert again == {name: n for name, n in numbers.items() if name != "seconds_per_film"}


def test_baselines_stand_in_the_same_table_on_the_same_films(
    evaluated: tuple[dict[str, Any], Path],
) -> None:
    (found,) = evaluated[0]["localisation"].values()
    assert found["films"] == 2
    assert {
        "calibrated", "places alone", "gate alone", "gated difference", "ungated difference",
        "change shown", "paper", "Grad-CAM", "reconstruction error", "lung mask",
        "centre Gaussian", "uniform", "mean box of others", "Grad-CAM, held to the lungs",
    } == found["methods"].keys()  # fmt: skip
    # Both films have the same box: the other's box is this one's, and a uniform map finds no more
    # than the box's share of the film, 50 x 50 of 224 x 224 pixels, at 128 px 29 x 29 of 128 x 128.
    assert found["methods"]["mean box of others"]["auprc"]["mean"] == 1.0
    uniform = found["methods"]["uniform"]["auprc"]["mean"]
    assert uniform == pytest.approx((50 / 224) ** 2, rel=0.05)
    assert "uniform" in found["gain_over"]
    assert "calibrated" not in found["gain_over"]


def test_normals_of_the_manifest_and_of_jsrt_are_pooled(
    evaluated: tuple[dict[str, Any], Path],
) -> None:
    normals = evaluated[0]["normals"]
    assert normals["with_a_region"]["films"] == 12 + 1
    assert normals["sources"]["jsrt"]["films"] == 1
    assert normals["without_jsrt"]["films"] == 12


def test_the_maps_alone_are_measured_as_in_the_whole_table(
    evaluated: tuple[dict[str, Any], Path], data: Path, model: Path, tmp_path: Path
) -> None:
    whole, out = evaluated
    done = commands.vald(
        "evaluate", "--data", data, "--model", model, "--judges", out / "judges", "--json",
        "--maps-only", "--out", tmp_path,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    numbers = json.loads(done.stdout)
    assert numbers["normals"] == whole["normals"]
    assert numbers["localisation"] == whole["localisation"]
    assert "validity" not in numbers
    for name in ("evaluation.md", "evaluation.html"):
        assert "Normal films with any region" in (tmp_path / name).read_text(encoding="utf-8")


def test_papers_mode_is_measured_with_the_calibrated_map_among_its_rivals(
    evaluated: tuple[dict[str, Any], Path], data: Path, model: Path, tmp_path: Path
) -> None:
    calibrated, out = evaluated
    done = commands.vald(
        "evaluate", "--data", data, "--model", model, "--judges", out / "judges", "--json",
        "--maps-only", "--mode", "paper", "--out", tmp_path,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (found,), (before,) = (
        numbers["localisation"].values() for numbers in (json.loads(done.stdout), calibrated)
    )
    for mode in ("paper", "calibrated"):
        assert found["methods"][mode] == before["methods"][mode]
    assert "calibrated" in found["gain_over"]
    assert not {"paper", "gate alone"} & found["gain_over"].keys()


def test_without_localised_films_the_others_are_measured(
    evaluated: tuple[dict[str, Any], Path], model: Path, tmp_path: Path
) -> None:
    data_folder.manifest(tmp_path, ["val"] * 3)
    done = commands.vald(
        "evaluate", "--data", tmp_path, "--model", model, "--judges", evaluated[1] / "judges",
        "--json", "--maps-only", "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    numbers = json.loads(done.stdout)
    assert numbers["localisation"] == {}
    assert numbers["normals"]["with_a_region"]["films"] == 2


def test_the_audits_see_no_lesion_in_the_border(evaluated: tuple[dict[str, Any], Path]) -> None:
    found = evaluated[0]["image_score"]["nih-chestxray14"]
    assert found["films"] == 24
    # No segmenter: no lungs whose hull could be spared, and no shape.
    assert found["without_lungs"]["mean"] == found["lung_shape"]["mean"] == 0.5
    assert 0.1 < found["border"]["mean"] < 0.9


def test_where_nothing_teaches_the_audits_the_score_stands_alone_and_it_is_said(
    evaluated: tuple[dict[str, Any], Path], data: Path, model: Path, tmp_path: Path
) -> None:
    data_folder.keep_only(shutil.copytree(data, tmp_path / "data"), "Lung_Opacity", split="train")
    others = [f"--without={name}" for name in SECTIONS if name != "image_score"]
    done = commands.vald(
        "evaluate", "--data", tmp_path / "data", "--model", model, "--json", "--out", tmp_path,
        *others,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["image_score"]["nih-chestxray14"]
    whole = evaluated[0]["image_score"]["nih-chestxray14"]
    scores = {"score_in_lungs", "peak_in_lungs", "score"}
    assert found.keys() == scores | {"films", "ours_minus"}
    assert {name: found[name] for name in scores} == {name: whole[name] for name in scores}
    said = "no audits beside the image score of nih-chestxray14: they learn from"
    assert said in done.stderr
    for name in ("evaluation.md", "evaluation.html"):
        assert said in (tmp_path / name).read_text(encoding="utf-8")


def test_what_is_left_out_for_want_of_films_is_said(
    data: Path, model: Path, tmp_path: Path
) -> None:
    done = commands.vald(
        "evaluate", "--data", data, "--model", model, "--json", "--limit", 1, "--out", tmp_path,
        *(f"--without={name}" for name in SECTIONS.keys() - {"image_score", "fidelity"}),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    numbers = json.loads(done.stdout)
    untold = "names no patient (column patient_id): leaks between splits cannot be seen, and "
    assert numbers["notes"] == [
        f"manifest.csv {untold}intervals are over films",
        f"images.csv {untold}intervals are over films",
        "RSNA opacity is left out: it has one film, and another film's map is a control",
        "no image score of nih-chestxray14: 1 normal and 1 other films, and 8 of each are needed",
        "nothing is said of fidelity: no source has 20 normal films and 10 others",
    ]
    assert done.stderr.endswith("\n".join(numbers["notes"]) + "\n")
    assert "Image score" not in (tmp_path / "evaluation.html").read_text(encoding="utf-8")


def test_what_a_model_that_sees_no_source_cannot_be_asked_is_said(
    data: Path, evaluated: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    testing.write_tiny_model(tmp_path / "model", paired=False, grid=data_folder.SIDE)
    done = commands.vald(
        "evaluate", "--data", data, "--model", tmp_path / "model", "--judges",
        evaluated[1] / "judges", "--json", "--limit", 2,
        *(f"--without={name}" for name in SECTIONS.keys() - {"validity", "induction"}),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["notes"][-2:] == [
        "nothing is said of induction: the model does not edit in pairs",
        "nothing is said of gate opened by the null edit: the model has no gate",
    ]


def test_a_full_disk_loses_no_number(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(report, "write_numbers", full)
    done = commands.vald(
        "evaluate", "--data", data, "--model", model, "--json", "--limit", 1, "--maps-only",
        "--out", tmp_path,
    )  # fmt: skip
    assert done.exit_code != 0
    assert json.loads(done.stdout)["normals"]["with_a_region"]["films"] == 2


def test_an_evaluation_of_no_film_is_refused(tmp_path: Path) -> None:
    data_folder.manifest(tmp_path, ["val", "train"])
    done = commands.vald("evaluate", "--data", tmp_path, "--part", "test", "--model", "nowhere")
    assert isinstance(done.exception, DatasetError)
    assert f"{tmp_path}: nothing to measure: no film of split test" in str(done.exception)


def test_the_page_holds_all_it_shows_and_warns(evaluated: tuple[dict[str, Any], Path]) -> None:
    page = (evaluated[1] / "evaluation.html").read_text(encoding="utf-8")
    assert "not for diagnosis" in page
    for plot in (
        "pixel AUPRC with 95 % intervals",
        "normal films with any region",
        "what doubts them",
        "finding or none, within nih-chestxray14: score beside audits",
    ):
        assert f'<figure><img alt="{plot}" src="data:image/png;base64,' in page
    assert "http" not in page.replace("http-equiv", "")  # nothing is fetched
    for word in ("best", "worst"):
        assert page.count(f"<figcaption>{word}: l") == 1
    assert "from the left: film, normal counterpart, where the map reaches the threshold" in page
    columns = ("auprc", "in lung", "pointing", "iou", "energy", "side", "ours minus this")
    assert f"<tr><th>map</th>{''.join(f'<th>{name}</th>' for name in columns)}</tr>" in page


def test_the_summary_has_the_numbers_and_no_picture(
    evaluated: tuple[dict[str, Any], Path],
) -> None:
    text = (evaluated[1] / "evaluation.md").read_text(encoding="utf-8")
    assert "### RSNA opacity: 2 films" in text
    assert "| uniform | 0.051 [0.051, 0.051] |" in text
    assert "data:image" not in text
    assert "Median time of one film" in text


def test_an_unknown_part_is_refused(data: Path, model: Path) -> None:
    done = commands.vald("evaluate", "--data", data, "--model", model, "--part", "train")
    assert done.exit_code == 2


@pytest.mark.parametrize("missing", ["cxr256/39.png", "cxr256/0.png"])
def test_a_film_that_is_missing_is_named_before_anything_is_measured(
    data: Path, tmp_path: Path, missing: str
) -> None:
    """One of train, from which audits learn in the end, or of the part."""
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / missing).unlink()
    done = commands.vald("evaluate", "--data", tmp_path / "data", "--model", tmp_path / "nowhere")
    assert isinstance(done.exception, DatasetError)
    assert f"film missing: {tmp_path}/data/{missing.replace('/', ':')}" in str(done.exception)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    for index in range(20):
        (folder / f"{index:02}.png").write_bytes(
            data_folder.png(data_folder.chest(index, sick=False))
        )
    return folder


def test_a_site_calibrates_a_copy_with_its_own_normals(
    site: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "ours"
    done = commands.vald("calibrate", "--healthy", site, "--model", model, "--out", out)
    assert done.exit_code == 0, done.output
    healthy = calibration.load(out)
    assert healthy is not None
    assert len(healthy.scores) == 20
    # The 97th percentile of 20 healthy peaks: linear between the 19th and the 20th.
    expected = float(np.quantile(healthy.scores, 0.97))
    assert settings.read(out).calibrated.threshold == pytest.approx(expected, rel=1e-5)
    assert digest.model_digest(out) != digest.model_digest(model)
    assert weights.load(out, weights.choose_device("cpu")).healthy is not None


@pytest.fixture(scope="module")
def of_normals(site: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose only calibration was with films without a finding."""
    out = tmp_path_factory.mktemp("calibrated") / "ours"
    done = commands.vald("calibrate", "--healthy", site, "--model", model, "--out", out)
    assert done.exit_code == 0, done.output
    return out


def test_normals_alone_teach_no_probability(site: Path, of_normals: Path, tmp_path: Path) -> None:
    config = commands.config(tmp_path, of_normals)
    film = site / "00.png"
    done = commands.vald("attribute", film, "--config", config, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["probability"] is None
    assert 0 < said["conformal_p"] <= 1


def test_a_site_keeps_the_probability_that_its_model_had(
    site: Path, of_normals: Path, tmp_path: Path
) -> None:
    taught, out = shutil.copytree(of_normals, tmp_path / "taught"), tmp_path / "ours"
    before, odds = calibration.load(taught), calibration.Odds(slope=2.0, intercept=-1.0)
    assert before is not None
    calibration.save(replace(before, odds=odds), taught)
    digest.write_digests(taught)
    done = commands.vald("calibrate", "--healthy", site, "--model", taught, "--out", out)
    assert done.exit_code == 0, done.output
    healthy = calibration.load(out)
    assert healthy is not None
    assert healthy.odds == odds


def test_a_model_without_a_probability_is_judged_by_its_peaks_and_its_conformal_p(
    data: Path, of_normals: Path, evaluated: tuple[dict[str, Any], Path]
) -> None:
    done = commands.vald(
        "evaluate", "--data", data, "--model", of_normals, "--judges", evaluated[1] / "judges",
        "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    numbers = json.loads(done.stdout)
    assert numbers["reliability"].keys() == {"conformal"}
    for found in numbers["image_score"].values():
        assert found["score_in_lungs"] == found["peak_in_lungs"]
    # The calibration changed no edit: the peaks are those of the model without one.
    assert numbers["image_score"] == evaluated[0]["image_score"] != {}


class KilledError(BaseException):
    """Nobody catches it, as nobody does a signal."""


def killed_after(films: int, patch: pytest.MonkeyPatch) -> list[int]:
    """An explainer dies once it has made so many maps; returns a list that counts them."""
    made, whole = [0], Explainer.evidence

    def evidence(self: Explainer, plane: Image, mode: Mode, seed: int) -> Evidence:
        if made[0] == films:
            raise KilledError
        made[0] += 1
        return whole(self, plane, mode, seed)

    patch.setattr(Explainer, "evidence", evidence)
    return made


def test_a_calibration_that_was_killed_leaves_no_model_and_goes_on_from_the_maps_it_made(
    site: Path, model: Path, tmp_path: Path
) -> None:
    command = ("calibrate", "--healthy", site, "--model", model, "--out", tmp_path / "ours")
    with pytest.MonkeyPatch.context() as patch:
        killed_after(15, patch)
        with pytest.raises(KilledError):
            commands.vald(*command)
    assert [path.name for path in tmp_path.iterdir()] == ["ours.calibration"]
    with pytest.MonkeyPatch.context() as patch:
        made = killed_after(1000, patch)
        done = commands.vald(*command)
        assert done.exit_code == 0, done.output
    assert made == [20 + 20 - 15]  # a map of each mode of each film, once
    whole = tmp_path / "whole"
    assert commands.vald(*command[:-1], whole).exit_code == 0
    assert digest.file_digests(tmp_path / "ours") == digest.file_digests(whole)


def test_a_site_calibrates_in_the_minutes_that_it_has(
    site: Path, model: Path, tmp_path: Path
) -> None:
    command = ("calibrate", "--healthy", site, "--model", model, "--out", tmp_path / "ours")
    for films in (1, 2):
        done = commands.vald(*command, "--minutes", 1e-9)
        assert done.exit_code == 0, done.output
        assert f"the minutes are spent, and what was made is kept: {films} of 40 maps, " in (
            done.stdout
        )
        assert done.stdout.endswith(" left; run the command again to go on\n")
        assert [path.name for path in tmp_path.iterdir()] == ["ours.calibration"]
    with pytest.MonkeyPatch.context() as patch:
        made = killed_after(1000, patch)
        assert commands.vald(*command, "--minutes", 60).exit_code == 0
    assert made == [40 - 2]
    assert (tmp_path / "ours").is_dir()
    done = commands.vald(*command, "--minutes", 0)
    assert "give a time above 0" in str(done.exception)


def test_a_calibration_leaves_its_numbers_and_a_picture_and_no_map(
    site: Path, model: Path, tmp_path: Path
) -> None:
    out, notes = tmp_path / "ours", tmp_path / "ours.calibration"
    assert commands.vald(
        "calibrate", "--healthy", site, "--model", model, "--out", out
    ).exit_code == 0  # fmt: skip
    assert sorted(path.name for path in notes.iterdir()) == ["metrics.jsonl", "peaks.png"]
    lines = [json.loads(line) for line in (notes / "metrics.jsonl").read_text().splitlines()]
    assert [line["mode"] for line in lines] == ["calibrated"] * 20 + ["paper"] * 20
    assert {line["kind"] for line in lines} == {"healthy"}
    reached = sorted(line["peak"] for line in lines if line["mode"] == "calibrated")
    healthy = calibration.load(out)
    assert healthy is not None
    assert reached == pytest.approx(healthy.scores.tolist())
    with Pillow.open(notes / "peaks.png") as picture:
        assert picture.size == (700, 320)


@pytest.mark.parametrize("written", ["reference", "settings", "digests"])
def test_a_calibration_that_is_killed_while_it_writes_leaves_the_model_as_it_was(
    site: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    def die(*_: object) -> None:
        raise KilledError

    room, name = {
        "reference": (calibration, "save"),
        "settings": (settings, "write"),
        "digests": (digest, "write_digests"),
    }[written]
    own = shutil.copytree(model, tmp_path / "own")
    before, loaded = digest.file_digests(own), weights.load(own, weights.choose_device("cpu"))
    films = [data_folder.chest(index, sick=False) for index in range(20)]
    places = calibrate.Places(model=own, out=own, notes=tmp_path / "notes")
    monkeypatch.setattr(room, name, die)
    with pytest.raises(KilledError):
        calibrate.calibrate(places, loaded, films, [], lambda *_: None)
    assert digest.file_digests(own) == before
    digest.model_digest(own)  # and its digests are its files'


def test_too_few_films_calibrate_nothing(model: Path, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "one.png").write_bytes(data_folder.png(data_folder.chest(0, sick=False)))
    out = tmp_path / "ours"
    done = commands.vald("calibrate", "--healthy", tmp_path / "few", "--model", model, "--out", out)
    assert "1 different healthy films; at least 20" in str(done.exception)
    assert not out.exists()


def not_calibrated(films: Path, model: Path | str, out: Path) -> str:
    """Why; and nothing was left that looks like a model of the site's."""
    done = commands.vald("calibrate", "--healthy", films, "--model", model, "--out", out)
    assert isinstance(done.exception, NodeError | PipelineError)
    assert not out.exists()
    return str(done.exception)


def test_copies_of_one_film_are_one_film_and_named(site: Path, model: Path, tmp_path: Path) -> None:
    films, out = shutil.copytree(site, tmp_path / "films"), tmp_path / "ours"
    shutil.copy(films / "03.png", films / "20.png")
    (films / "04.png").unlink()
    shutil.copy(films / "03.png", films / "04.png")
    done = commands.vald("calibrate", "--healthy", films, "--model", model, "--out", out)
    assert "19 different healthy films; at least 20 are needed" in str(done.exception)
    assert "2 of 21 files hold a film that another holds too" in done.stderr
    assert "left out: 04.png (03.png), 20.png (03.png)\n" in done.stderr
    assert not out.exists()


def test_films_that_are_no_chests_calibrate_nothing(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    for index in range(20):
        noise = np.random.default_rng(index).random((224, 224))
        (tmp_path / "films" / f"{index}.png").write_bytes(data_folder.png(noise))
    said = not_calibrated(tmp_path / "films", "embedded", tmp_path / "ours")
    assert "20 of 20 healthy films do not look like upright frontal chest" in said
    assert ": 0.png, 1.png, 10.png, 11.png, " in said  # in the order of their names, ten of them
    assert "17.png and 10 more: take" in said


def test_a_file_that_is_no_film_is_named(site: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "films")
    (tmp_path / "films" / "note.png").write_text("to do", encoding="utf-8")
    said = not_calibrated(tmp_path / "films", model, tmp_path / "ours")
    assert said.startswith(f"{tmp_path / 'films' / 'note.png'}: not a readable picture")


def test_a_model_that_marks_nothing_gets_no_threshold(
    site: Path, model: Path, tmp_path: Path
) -> None:
    blind = tmp_path / "blind"
    shutil.copytree(model, blind)
    gate = lesion_gate.build()
    torch.nn.init.zeros_(gate.head.weight)
    gate.head.bias = torch.nn.Parameter(torch.tensor([-200.0]))
    save_file(gate.state_dict(), blind / weights.LESION_GATE)
    digest.write_digests(blind)
    said = not_calibrated(site, blind, tmp_path / "ours")
    assert "marks nothing on any of the healthy films" in said


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "--limit", "-1"),
        ("calibrate", "--films", "-5"),
        ("train", "diffusion", "--work", "w", "--lora", "-3"),
    ],
)
def test_a_number_of_films_or_a_rank_below_0_is_refused(
    command: tuple[str, ...], data: Path
) -> None:
    done = commands.vald(*command, "--data", data)
    assert done.exit_code == 2
    assert "greater than or equal to 0" in " ".join(done.output.replace("│", " ").split())


def test_a_folder_for_numbers_that_cannot_be_is_told_before_any_film(
    data: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = commands.vald(
        "evaluate", "--data", data, "--model", model, "--out", tmp_path / "file" / "out"
    )
    assert isinstance(done.exception, NodeError)
    assert "no folder can be made there" in str(done.exception)


def test_a_folder_that_is_there_is_not_written_over(
    site: Path, model: Path, tmp_path: Path
) -> None:
    done = commands.vald("calibrate", "--healthy", site, "--model", model, "--out", tmp_path)
    assert "is there already" in str(done.exception)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--data d",
        "--data d --work w --healthy h",
        "--data d --work w --healthy h --out o",
        "--healthy h --out o --films 30",
    ],
)
def test_calibrate_needs_films_from_somewhere_and_from_one_place(options: str) -> None:
    assert commands.vald("calibrate", *options.split()).exit_code == 2


def test_a_section_that_there_is_not_cannot_be_left_out(data: Path, model: Path) -> None:
    done = commands.vald("evaluate", "--data", data, "--model", model, "--without", "oracles")
    assert done.exit_code == 2


def test_a_section_that_is_left_out_is_not_measured(data: Path, model: Path) -> None:
    options = [option for name in SECTIONS if name != "normals" for option in ("--without", name)]
    done = commands.vald("evaluate", "--data", data, "--model", model, "--json", *options)
    assert json.loads(done.stdout).keys() & SECTIONS.keys() == {"normals"}
