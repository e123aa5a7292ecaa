"""What is told against a model folder before any of its networks is built."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from pipeline import calibration, digest, folder, settings, testing, weights
from pipeline.errors import ModelError
from pipeline.settings import Settings
from pipeline.weights import networks


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sound")
    testing.write_tiny_model(made)
    return made


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    """A model folder without digests, so that a test may change it."""
    made = tmp_path / "model"
    shutil.copytree(sound, made, ignore=shutil.ignore_patterns("digests.json"))
    return made


def refusal(model: Path) -> str:
    """Why the folder is refused; who loads it refuses it too."""
    with pytest.raises(ModelError) as caught:
        folder.demand_usable(model)
    with pytest.raises(ModelError):
        weights.load(model, torch.device("cpu"))
    return str(caught.value)


def say(path: Path, **values: Any) -> None:
    known = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**known, **values}), encoding="utf-8")


def test_a_sound_folder_is_usable_and_its_digest_that_of_the_loaded_model(sound: Path) -> None:
    assert folder.demand_usable(sound) == weights.load(sound, torch.device("cpu")).digest


def test_the_embedded_model_is_usable() -> None:
    assert folder.demand_usable(digest.EMBEDDED) == digest.model_digest(digest.EMBEDDED)


def test_a_folder_of_stable_diffusions_shape_is_usable(tmp_path: Path) -> None:
    testing.write_stable_diffusion_like(tmp_path)
    settings.write(tmp_path, Settings(grid=testing.TINY_GRID, tokens=16))
    assert folder.demand_usable(tmp_path)


def test_what_a_configuration_leaves_to_its_library_is_left_to_the_load(model: Path) -> None:
    path = model / "unet" / "config.json"
    known = json.loads(path.read_text())
    del known["in_channels"]
    path.write_text(json.dumps(known))
    assert folder.demand_usable(model)


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("vae", {"_class_name": "VQModel"}, "vae: VQModel is none of AutoencoderDC, Autoencoder"),
        ("vae", {"scaling_factor": 0}, "vae: scaling_factor 0: a number above 0 was expected"),
        ("vae", {"scaling_factor": -1}, "vae: scaling_factor -1: a number above 0 was expected"),
        ("vae", {"scaling_factor": float("nan")}, "vae: scaling_factor nan: a number above 0"),
        ("vae", {"shift_factor": float("inf")}, "vae: shift_factor inf: a number was expected"),
        ("vae", {"latent_channels": 8}, "unet: gives 5 channels; the autoencoder has 8, so 8"),
        ("unet", {"in_channels": 7}, "unet: takes 7 channels; the autoencoder has 4, so 4 or 8"),
        ("unet", {"out_channels": 3}, "unet: gives 3 channels; the autoencoder has 4, so 4 or 5"),
        ("unet", {"cross_attention_dim": 768}, "32 wide, the U-Net attends to 768"),
        ("text_encoder", {"hidden_size": 64}, "64 wide, the U-Net attends to 32"),
        ("text_encoder", {"max_position_embeddings": 8}, "tokens 16: the text encoder has 8"),
    ],
    ids=str,
)
def test_parts_that_do_not_fit_are_refused(
    model: Path, file: str, values: dict[str, Any], said: str
) -> None:
    say(model / file / "config.json", **values)
    assert said in refusal(model)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("unet", {"block_out_channels": [60_000, 32]}),
        ("vae", {"decoder_block_out_channels": [0, 8, 16, 7_000]}),
        ("text_encoder", {"vocab_size": 10**9}),
        ("text_encoder", {"intermediate_size": 10**9}),
    ],
    ids=str,
)
def test_a_network_that_its_weights_could_not_fill_is_not_built(
    model: Path, part: str, values: dict[str, Any]
) -> None:
    say(model / part / "config.json", **values)
    said = refusal(model)
    assert f"{part}: {next(iter(values))} is " in said
    assert "no tensor of its weights is so wide: install the model again" in said


def test_a_prediction_of_another_kind_is_refused(model: Path) -> None:
    say(model / "scheduler" / "scheduler_config.json", prediction_type="flow")
    assert "scheduler: unknown prediction_type 'flow'" in refusal(model)


def test_a_stage_that_is_left_out_may_be_said_to_be_of_any_width(model: Path) -> None:
    """Whose first stage has no layers: the next one takes its place."""
    path = model / "vae" / "config.json"
    for key in ("encoder_block_out_channels", "decoder_block_out_channels"):
        _, *built = json.loads(path.read_text(encoding="utf-8"))[key]
        say(path, **{key: [7, *built]})
    assert folder.demand_usable(model) == weights.load(model, torch.device("cpu")).digest


def lose(model: Path, *keys: str, version: str = "0.42.1") -> None:
    """The scheduler's configuration is of this diffusers, and lacks these keys."""
    path = model / "scheduler" / "scheduler_config.json"
    known = {**json.loads(path.read_text()), "_diffusers_version": version}
    path.write_text(json.dumps({key: value for key, value in known.items() if key not in keys}))


@pytest.mark.parametrize("key", ["beta_schedule", "beta_start", "beta_end", "prediction_type"])
def test_a_schedule_that_does_not_say_what_it_is_is_refused(model: Path, key: str) -> None:
    lose(model, key)
    assert f"scheduler_config.json lacks {key}: say what the U-Net was trained" in refusal(model)


def test_what_a_network_predicts_is_known_of_folders_older_than_the_key(tmp_path: Path) -> None:
    """As Stable Diffusion 1's: their diffusers knew the noise only."""
    testing.write_stable_diffusion_like(tmp_path)
    for version in ("0.2.2", "0.6.0", "0.9"):
        lose(tmp_path, "prediction_type", version=version)
        assert networks.load_networks(tmp_path, torch.device("cpu")).prediction == "epsilon"
    for version in ("0.10.2", "0.42.1", "None"):
        lose(tmp_path, "prediction_type", version=version)
        assert "lacks prediction_type" in refusal(tmp_path)
    say(tmp_path / "scheduler" / "scheduler_config.json", predict_epsilon=False)
    lose(tmp_path, version="0.6.0")
    assert "lacks prediction_type" in refusal(tmp_path)


def test_settings_that_the_networks_cannot_do_are_refused(model: Path) -> None:
    say(model / "vald.json", latents_mean=[0.0] * 8)
    assert "latents_mean has 8 values; the autoencoder has 4" in refusal(model)


def test_a_pickle_is_refused(model: Path) -> None:
    (model / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "holds unet/diffusion_pytorch_model.bin: pickled weights" in refusal(model)


@pytest.mark.parametrize("file", ["text_encoder/config.json", "tokenizer/tokenizer_config.json"])
def test_a_configuration_that_names_a_program_is_refused(model: Path, file: str) -> None:
    say(model / file, auto_map={"AutoConfig": "evil/repo--conf.C"})
    assert f"{file}: names programs (auto_map), which can run anything" in refusal(model)


def test_brackets_without_end_are_a_fault_of_the_file_that_needs_them(model: Path) -> None:
    deep = '{"a":' * 100_000
    (model / "of_nobody.json").write_text(deep)
    folder.demand_usable(model)
    (model / "unet" / "config.json").write_text(deep)
    assert f"{model / 'unet' / 'config.json'}: cannot be read: maximum recursion" in refusal(model)


def test_a_program_is_not_even_asked_about(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers does of its own accord, if a configuration is read that names one."""
    asked: list[str] = []

    def ask(question: str = "") -> str:
        asked.append(question)
        return "n"

    monkeypatch.setattr("builtins.input", ask)
    programs = {"AutoConfig": "evil/repo--conf.C", "AutoModel": "evil/repo--conf.M"}
    say(model / "text_encoder" / "config.json", model_type="nope", auto_map=programs)
    with pytest.raises(ValueError, match="custom code"):
        networks.read_networks(model, torch.device("cpu"))
    assert asked == []


def test_a_folder_that_is_a_link_is_refused(model: Path, tmp_path: Path) -> None:
    (model / "unet").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "evil.py").write_text("")
    (model / "unet").symlink_to(tmp_path / "elsewhere")
    assert refusal(model).startswith(f"{model / 'unet'}: is a link to a folder")


def test_a_link_to_the_folder_itself_or_to_a_file_is_none(sound: Path, tmp_path: Path) -> None:
    """As Hugging Face's cache keeps every file."""
    linked = tmp_path / "linked"
    for path in (path for path in sound.rglob("*") if path.is_file()):
        link = linked / path.relative_to(sound)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    (tmp_path / "model").symlink_to(linked)
    assert folder.demand_usable(tmp_path / "model") == digest.model_digest(sound)


def test_files_that_are_not_those_listed_are_refused(model: Path) -> None:
    digest.write_digests(model)
    say(model / "vald.json", steps=3)
    assert "not the files that digests.json lists: vald.json" in refusal(model)


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder"])
def test_a_network_without_weights_is_refused(model: Path, part: str) -> None:
    next((model / part).glob("*.safetensors")).unlink()
    assert f"{part}: holds no weights in safetensors" in refusal(model)


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder", "scheduler"])
def test_a_part_that_is_not_there_is_refused(model: Path, part: str) -> None:
    shutil.rmtree(model / part)
    assert f"{model / part}" in refusal(model)


def test_a_file_that_cannot_be_read_is_named(model: Path) -> None:
    weak = model / "latent_prior.safetensors"
    weak.unlink(missing_ok=True)
    weak.symlink_to("/proc/self/mem")  # opens, and cannot be read at 0: as a disk that fails
    assert refusal(model) == f"{weak}: cannot be read: Input/output error"


def test_weights_that_were_cut_short_are_refused(model: Path) -> None:
    path = next((model / "unet").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path}: damaged: " in refusal(model)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"mean": np.zeros((8, 9), np.float16)}, "has 8 x 9 pixels, the grid 64 x 64"),
        ({"sd": np.zeros((64, 64), np.float16)}, "calibration.safetensors: damaged"),
    ],
    ids=["size", "form"],
)
def test_a_healthy_reference_of_another_size_or_form_is_refused(
    model: Path, parts: dict[str, Any], said: str
) -> None:
    save_file(parts, model / calibration.FILE)
    assert said in refusal(model)


def test_nothing_of_it_needs_a_library_of_networks() -> None:
    program = (
        "import sys; from pipeline import digest, folder; folder.demand_usable(digest.EMBEDDED); "
        "sys.exit(len({'torch', 'diffusers', 'transformers', 'scipy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
