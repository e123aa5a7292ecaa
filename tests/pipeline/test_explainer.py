"""A film goes through a whole model folder: tiny and random, but real diffusers parts."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import (
    anatomy,
    calibration,
    digest,
    gates,
    preprocess,
    prompts,
    settings,
    testing,
    weights,
)
from pipeline.calibration import HealthyReference, Odds
from pipeline.engine.base import Request
from pipeline.engine.local import LocalEngine
from pipeline.errors import FilmError, ModelError
from pipeline.explainer import Explainer
from pipeline.gates import ImageGate, ViewClassifier
from pipeline.models import Claim
from pipeline.segmenter import Segmenter
from pipeline.types import Attribution, Mode, Radiograph, Status, Target, Unlike
from pipeline.weights import IMAGE_GATE, LoadedModel


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    testing.write_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def radiograph() -> Radiograph:
    pixels = np.random.default_rng(0).random((200, 150)).astype(np.float32)
    return Radiograph(pixels=pixels)


def explained(folder: Path, film: Radiograph, mode: Mode, seed: int = 0) -> Attribution:
    engine = LocalEngine(folder, "cpu", threads=1)
    return engine.explain([Request(film=film, mode=mode, seed=seed)])[0]


@pytest.mark.parametrize("mode", list(Mode))
def test_what_is_made_has_the_films_size_and_the_stated_ranges(
    tiny: Path, radiograph: Radiograph, mode: Mode
) -> None:
    made = explained(tiny, radiograph, mode)
    for plane in (made.counterfactual, made.difference, made.attribution_map):
        assert plane.shape == (200, 150)
        assert plane.dtype == np.float32
    assert 0 <= made.counterfactual.min() <= made.counterfactual.max() <= 1
    assert made.attribution_map.min() >= 0
    assert 0 <= made.score <= 1
    assert np.allclose(radiograph.pixels - made.counterfactual, made.difference, atol=1e-6)


@pytest.mark.parametrize("mode", list(Mode))
def test_the_same_seed_gives_the_same_map_bit_for_bit(
    tiny: Path, radiograph: Radiograph, mode: Mode
) -> None:
    first = explained(tiny, radiograph, mode)
    second = explained(tiny, radiograph, mode)
    other = explained(tiny, radiograph, mode, seed=1)
    assert np.array_equal(first.attribution_map, second.attribution_map)
    assert not np.array_equal(first.attribution_map, other.attribution_map)


def test_two_threads_differ_by_less_than_a_ten_thousandth(
    tiny: Path, radiograph: Radiograph
) -> None:
    one = explained(tiny, radiograph, Mode.CALIBRATED)
    two = LocalEngine(tiny, "cpu", threads=2).explain(
        [Request(film=radiograph, mode=Mode.CALIBRATED, seed=0)]
    )[0]
    assert np.abs(one.attribution_map - two.attribution_map).max() < 1e-4


def test_the_identity_names_model_mode_and_seed(tiny: Path, radiograph: Radiograph) -> None:
    model = explained(tiny, radiograph, Mode.PAPER, seed=3).model
    assert (model.name, model.mode, model.seed) == ("tiny", Mode.PAPER, 3)
    assert model.digest == digest.model_digest(tiny)


def test_an_unpaired_model_is_edited_by_inversion(tmp_path: Path, radiograph: Radiograph) -> None:
    testing.write_tiny_model(tmp_path, paired=False)
    made = explained(tmp_path, radiograph, Mode.CALIBRATED)
    assert made.attribution_map.max() > 0
    assert np.array_equal(
        made.attribution_map, explained(tmp_path, radiograph, Mode.CALIBRATED).attribution_map
    )


class Obedient(testing.GaussianDenoiser):
    """Its gate opens as far as it is told."""

    def claim(
        self, z_t: torch.Tensor, source: torch.Tensor | None, t: int, text: torch.Tensor
    ) -> Claim:
        made = super().claim(z_t, source, t, text)
        said = text[:, 0, 0].sigmoid().view(-1, 1, 1, 1)
        return Claim(z_0=made.z_0, eps=made.eps, gate=torch.ones_like(made.z_0[:, :1]) * said)


def test_the_gate_is_asked_about_the_words_that_are_said(tiny: Path) -> None:
    loaded = weights.load(tiny, torch.device("cpu"))
    obedient = replace(loaded, denoiser=Obedient(mean=0.5, sd=0.1))
    plane = np.random.default_rng(0).random((loaded.settings.grid,) * 2, np.float32)
    normal, null = (
        Explainer(obedient).opening(plane, 0, target)
        for target in (None, Target(prompt="Opacity."))
    )
    said = [prompts.load().normal_prompts()[0], "Opacity."]
    expected = loaded.text_encoder.encode(said)[:, 0, 0].sigmoid().tolist()
    assert [normal, null] == pytest.approx(expected, abs=1e-6)
    without = replace(loaded, denoiser=Unpaired(mean=0.5, sd=0.1))
    assert Explainer(without).opening(plane, 0) is None


class Unpaired(testing.GaussianDenoiser):
    """A world that takes no source, and is moved by what is said."""

    paired = False

    def claim(
        self, z_t: torch.Tensor, source: torch.Tensor | None, t: int, text: torch.Tensor
    ) -> Claim:
        made = super().claim(z_t, source, t, text)
        said = text[:, 0, 0].view(-1, 1, 1, 1)
        return Claim(z_0=made.z_0 + 5 * said, eps=made.eps, gate=None)


class Halves(Segmenter):
    """Finds the same pair of lungs in every film."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lungs = torch.full_like(x, -1.0)
        lungs[..., 60:160, 50:90] = lungs[..., 60:160, 130:170] = 1.0
        return lungs


def test_inversion_keeps_the_patients_own_outside_the_lungs(tmp_path: Path) -> None:
    testing.write_tiny_model(tmp_path, paired=False)
    loaded = weights.load(tmp_path, torch.device("cpu"))
    model = replace(
        loaded,
        settings=replace(loaded.settings, grid=224),
        autoencoder=testing.BlockAutoencoder(),
        denoiser=Unpaired(mean=0.5, sd=0.1),
        lung_segmenter=Halves(),
    )
    plane = np.random.default_rng(0).random((224, 224), np.float32)
    made = Explainer(model).evidence(plane, Mode.CALIBRATED, seed=0)
    hull = anatomy.hull(made.lungs)
    cells = hull.reshape(28, 8, 28, 8).max((1, 3)).repeat(8, 0).repeat(8, 1)  # 8 x 8 a latent
    assert 0.1 < (cells > 0).mean() < 0.9
    assert np.abs(made.changes[:, cells == 0]).max() < 1e-5
    assert np.abs(made.changes[:, hull == 1]).mean() > 1e-3


def test_a_picture_far_from_every_chest_is_refused(tmp_path: Path, radiograph: Radiograph) -> None:
    testing.write_tiny_model(tmp_path)
    chest = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    noise = np.random.default_rng(1).normal(0, 0.01, (50, 64, 64)).astype(np.float32)
    gate = ImageGate(
        classifier=ViewClassifier(),
        gaussian=gates.fit(np.stack([gates.thumbnail(chest + n) for n in noise]), axes=4),
        least_logit=-1e6,
        limit=4.0,
    )
    weights.save_image_gate(gate, tmp_path / IMAGE_GATE)
    digest.write_digests(tmp_path)
    usual = Radiograph(pixels=np.kron(chest, np.ones((3, 3), np.float32)))
    assert explained(tmp_path, usual, Mode.PAPER)
    with pytest.raises(FilmError, match="not a chest"):
        explained(tmp_path, radiograph, Mode.PAPER)
    engine = LocalEngine(tmp_path, "cpu", threads=1)
    withheld = Request(film=radiograph, mode=Mode.PAPER, seed=0, unlike=Unlike.WITHHOLD)
    (made,) = engine.explain([withheld])
    assert made.status is Status.WITHHELD
    assert "not a chest" in made.reasons[0]
    assert made.attribution_map.max() > 0  # made and kept, whatever it is worth


def test_a_changed_file_is_named(tmp_path: Path) -> None:
    testing.write_tiny_model(tmp_path)
    config = tmp_path / "unet" / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(ModelError, match=r"unet/config\.json"):
        LocalEngine(tmp_path, "cpu")


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    testing.write_tiny_model(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    (tmp_path / "digests.json").unlink()
    with pytest.raises(ModelError, match=r"unet/diffusion_pytorch_model\.bin: pickled weights"):
        LocalEngine(tmp_path, "cpu")


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.bin", "modeling.py"])
def test_what_could_run_is_refused_beside_good_weights_too(tmp_path: Path, name: str) -> None:
    testing.write_tiny_model(tmp_path)
    (tmp_path / name).write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ModelError, match="never loaded"):
        LocalEngine(tmp_path, "cpu")


@pytest.mark.parametrize("mode", list(Mode))
def test_a_model_without_a_gate_or_a_segmenter_is_never_sure(
    tiny: Path, radiograph: Radiograph, mode: Mode
) -> None:
    made = explained(tiny, radiograph, mode)
    assert made.status is Status.LOW_CONFIDENCE
    assert "no image gate" in made.reasons[0]
    assert any("no lung segmenter" in why for why in made.reasons) is (mode is Mode.CALIBRATED)


def whole(folder: Path) -> LoadedModel:
    """The tiny model with the parts without which no result is VALID; every picture is a chest."""
    gate = ImageGate(
        classifier=ViewClassifier(),
        gaussian=gates.fit(np.eye(784, dtype=np.float32)[:9], axes=4),
        least_logit=-1e6,
        limit=1e6,
    )
    loaded = weights.load(folder, torch.device("cpu"))
    return replace(loaded, lung_segmenter=Segmenter(), image_gate=gate)


def calibrated(folder: Path, words: str) -> LoadedModel:
    """The tiny model as calibrated under these words."""
    grid = (testing.TINY_GRID,) * 2
    reference = HealthyReference(
        mean=np.zeros(grid, np.float32),
        sd=np.ones(grid, np.float32),
        place=np.zeros(grid, bool),
        scores=np.array([0.1, 0.2], np.float32),
        odds=Odds(slope=2.0, intercept=-1.0),
    )
    calibration.save(reference, folder)
    settings.write(folder, replace(settings.read(folder), words=words))
    digest.write_digests(folder)
    return whole(folder)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_model_that_was_never_calibrated_is_never_sure(
    tiny: Path, radiograph: Radiograph, mode: Mode
) -> None:
    made = Explainer(whole(tiny)).explain(radiograph, mode, 0)
    assert made.status is Status.LOW_CONFIDENCE
    assert "never calibrated" in made.reasons[0]
    assert (made.probability, made.conformal_p) == (None, None)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_calibration_holds_for_the_words_that_it_was_made_under(
    tmp_path: Path, radiograph: Radiograph, mode: Mode
) -> None:
    testing.write_tiny_model(tmp_path)
    words = prompts.load().normal_prompts()[0]
    same = Explainer(calibrated(tmp_path, words)).explain(radiograph, mode, 0)
    assert not any("calibrated" in why for why in same.reasons)
    if mode is Mode.PAPER:
        assert same.status is Status.VALID
    else:
        assert None not in (same.probability, same.conformal_p)
    other = Explainer(calibrated(tmp_path, "Erect film. Normal.")).explain(radiograph, mode, 0)
    assert other.status is Status.LOW_CONFIDENCE
    assert "calibrated under other words than prompts.yaml has now" in other.reasons[0]
    assert (other.probability, other.conformal_p) == (None, None)


@pytest.mark.parametrize("at", [0.9, 1.1], ids=["marked", "nothing marked"])
def test_the_uncertainty_is_that_of_what_is_marked_or_of_the_peak(
    tiny: Path, radiograph: Radiograph, at: float
) -> None:
    model = weights.load(tiny, weights.choose_device("cpu"))
    box = preprocess.letterbox(radiograph, model.settings.grid)
    plane = preprocess.to_grid(radiograph, box)
    draws = Explainer(model).evidence(plane, Mode.CALIBRATED, seed=0).maps
    mean, (first, second) = draws.mean(0), draws
    spread = np.abs(first - second) / 2  # of two, their SD
    where = mean >= 0.9 * mean.max() if at < 1 else mean == mean.max()
    reading = replace(model.settings.calibrated, threshold=at * float(mean.max()), scale_max=2.0)
    read = replace(model, settings=replace(model.settings, calibrated=reading))
    made = Explainer(read).explain(radiograph, Mode.CALIBRATED, seed=0)
    assert made.uncertainty == pytest.approx(float(spread[where].mean()), rel=1e-3)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_map_that_is_no_number_is_no_result(
    tmp_path: Path, radiograph: Radiograph, mode: Mode
) -> None:
    testing.write_tiny_model(tmp_path)
    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    large = {name: part * 1e30 for name, part in load_file(path).items()}  # numbers, until used
    save_file(large, path, metadata={"format": "pt"})
    digest.write_digests(tmp_path)
    with pytest.raises(ModelError, match="no number"):
        explained(tmp_path, radiograph, mode)
    explainer = Explainer(weights.load(tmp_path, torch.device("cpu")))
    plane = np.zeros((testing.TINY_GRID,) * 2, np.float32)
    with pytest.raises(ModelError, match="no number"):  # as calibration and evaluation ask
        explainer.evidence(plane, mode, 0)


@pytest.mark.parametrize("device", ["cpu:x", "cpu:1", "nothing", "cuda:99", ""])
def test_a_device_that_is_not_there_is_told_with_those_that_are(device: str) -> None:
    with pytest.raises(ModelError, match=f"device '{device}': this machine has .*cpu"):
        weights.choose_device(device)


def test_an_unknown_prediction_type_is_refused(tmp_path: Path) -> None:
    testing.write_tiny_model(tmp_path)
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "flow"}))
    digest.write_digests(tmp_path)
    with pytest.raises(ModelError, match="prediction_type 'flow'"):
        LocalEngine(tmp_path, "cpu")


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no diffusers folder"):
        digest.folder_of(str(tmp_path))
