"""A model folder that is not whole, or whose parts do not fit, is refused before any film."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from pipeline import classifier, digest, gates, lesion_gate, sampling, segmenter, testing, weights
from pipeline.errors import ModelError

pytestmark = pytest.mark.usefixtures("one_thread")

_CPU = torch.device("cpu")
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder without digests, so that a test may change it."""
    testing.write_tiny_model(tmp_path)
    (tmp_path / "digests.json").unlink()
    return tmp_path


def refusal(folder: Path) -> str:
    """Why the folder is refused; the same must hold where it is to be trained further."""
    with pytest.raises(ModelError) as caught:
        weights.load(folder, _CPU)
    return str(caught.value)


def change(folder: Path, part: str, alter: Callable[[Tensors], Tensors]) -> None:
    path = next((folder / part).glob("*.safetensors"))
    save_file(alter(load_file(path)), path, metadata={"format": "pt"})


def say(path: Path, **values: Any) -> None:
    known = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**known, **values}), encoding="utf-8")


def without(name: str) -> Callable[[Tensors], Tensors]:
    def alter(tensors: Tensors) -> Tensors:
        assert any(name in key for key in tensors)
        return {key: value for key, value in tensors.items() if name not in key}

    return alter


def with_another(tensors: Tensors) -> Tensors:
    return {**tensors, "encoder.layer.7.weight": torch.zeros(2)}


def not_numbers(tensors: Tensors) -> Tensors:
    first = sorted(tensors)[0]
    return {**tensors, first: tensors[first] * torch.nan}


def test_a_judge_whose_weights_are_no_numbers_is_refused(tmp_path: Path) -> None:
    weights_of_it = tmp_path / weights.CLASSIFIER
    save_file(not_numbers(classifier.Classifier().state_dict()), weights_of_it)
    with pytest.raises(ModelError, match=f"{weights_of_it}: .* holds what is no number"):
        classifier.load(weights_of_it)


def test_what_a_folder_is_whole_with_loads(folder: Path) -> None:
    assert weights.load(folder, _CPU).settings.name == "tiny"


@pytest.mark.parametrize(
    ("part", "name"),
    [("unet", "conv_out.weight"), ("vae", "conv_in.weight"), ("text_encoder", "layer.0.output")],
)
def test_weights_that_lack_a_tensor_are_refused(folder: Path, part: str, name: str) -> None:
    change(folder, part, without(name))
    said = refusal(folder)
    assert part in said
    assert "lacks" in said
    assert name in said


def test_a_text_encoder_may_lack_what_comes_after_its_states(folder: Path) -> None:
    change(folder, "text_encoder", without("pooler."))
    assert weights.load(folder, _CPU)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_weights_of_a_larger_network_than_its_configuration_are_refused(
    folder: Path, part: str
) -> None:
    change(folder, part, with_another)
    assert "its network does not know, 1 tensor" in refusal(folder)


def test_a_part_that_is_no_number_once_it_is_cast_is_refused(folder: Path) -> None:
    layers = segmenter.Segmenter().state_dict()
    large = {name: part.double() + 1e300 for name, part in layers.items()}
    save_file(large, folder / weights.LUNG_SEGMENTER)
    assert "no number" in refusal(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_no_numbers_are_refused(folder: Path, part: str) -> None:
    change(folder, part, not_numbers)
    assert "no number" in refusal(folder)


def test_a_second_gate_that_is_no_number_is_refused(folder: Path) -> None:
    layers = lesion_gate.build().state_dict()
    save_file(not_numbers(layers), folder / weights.LESION_GATE)
    assert "no number" in refusal(folder)


def image_gate() -> Tensors:
    """What an image gate's file holds: a Gaussian of two axes over thumbnails of 28 x 28."""
    layers = gates.ViewClassifier().state_dict()
    return {
        "mean": torch.zeros(784),
        "axes": torch.eye(784)[:2].contiguous(),
        "variances": torch.ones(2),
        "residual": torch.tensor(1.0),
        "least_logit": torch.tensor(-9.0),
        "limit": torch.tensor(9.0),
        **{f"classifier.{name}": part for name, part in layers.items()},
    }


def latent_prior() -> Tensors:
    """Of the tiny model's latents: 4 channels of 8 x 8."""
    return {
        "mean": torch.zeros(256),
        "axes": torch.eye(256)[:3].contiguous(),
        "sd": torch.ones(3),
    }


def cut(name: str) -> Callable[[Tensors], Tensors]:
    """Without the last of what a tensor holds."""
    return lambda tensors: {**tensors, name: tensors[name][..., :-1].contiguous()}


PARTS: dict[str, Callable[[], Tensors]] = {
    weights.IMAGE_GATE: image_gate,
    weights.LATENT_PRIOR: latent_prior,
    weights.LUNG_SEGMENTER: lambda: segmenter.Segmenter().state_dict(),
    weights.LESION_GATE: lambda: lesion_gate.build().state_dict(),
}


def test_parts_of_the_right_shapes_load(folder: Path) -> None:
    for part, made in PARTS.items():
        save_file(made(), folder / part)
    loaded = weights.load(folder, _CPU)
    assert loaded.image_gate is not None
    assert loaded.image_gate.gaussian.distance(np.eye(64, dtype=np.float32)) > 0
    assert sampling.sample(loaded, 0, "right upper zone opacity").normal.shape == (64, 64)


@pytest.mark.parametrize(
    ("part", "alter", "said"),
    [
        (weights.IMAGE_GATE, cut("mean"), "mean is of shape (783,), and (784,) was expected"),
        (weights.IMAGE_GATE, cut("axes"), "axes is of shape (2, 783), and (2, 784) was expected"),
        (weights.IMAGE_GATE, cut("variances"), "variances is of shape (1,), and (2,) was expected"),
        (weights.IMAGE_GATE, cut("classifier.layers.5.weight"), "(1, 1023), and (1, 1024) was"),
        (weights.IMAGE_GATE, without("limit"), "lacks 1 tensor(s), such as limit"),
        (weights.IMAGE_GATE, without("axes"), "lacks 1 tensor(s), such as axes"),
        (weights.LATENT_PRIOR, cut("mean"), "mean is of shape (255,), and (256,) was expected"),
        (weights.LATENT_PRIOR, cut("sd"), "sd is of shape (2,), and (3,) was expected"),
        (weights.LATENT_PRIOR, without("sd"), "lacks 1 tensor(s), such as sd"),
        (weights.LUNG_SEGMENTER, cut("head.bias"), "head.bias is of shape (0,), and (1,) was"),
        (weights.LESION_GATE, cut("head.weight"), "head.weight is of shape (1, 16, 1, 0), and"),
        (weights.LESION_GATE, with_another, "has, and its network does not know, 1 tensor(s)"),
    ],
)
def test_a_part_of_another_shape_is_refused_by_its_file(
    folder: Path, part: str, alter: Callable[[Tensors], Tensors], said: str
) -> None:
    save_file(alter(PARTS[part]()), folder / part)
    refused = refusal(folder)
    assert refused.startswith(f"{folder / part}: ")
    assert said in refused


@pytest.mark.parametrize("part", [*PARTS, weights.WHOLE_LUNG])
def test_a_pickle_with_the_name_of_a_part_is_refused_by_its_file(folder: Path, part: str) -> None:
    (folder / part).write_bytes(b"\x80\x04N.")
    assert refusal(folder).startswith(f"{folder / part}: cannot be loaded: ")


def test_half_a_layer_of_an_adapter_is_refused(folder: Path) -> None:
    parts = {"down_blocks.0.resnets.0.conv1.lora_A.weight": torch.zeros(4, 16, 3, 3)}
    save_file(parts, folder / weights.WHOLE_LUNG)
    assert "lacks 1 tensor(s), such as down_blocks.0.resnets.0.conv1.lora_B" in refusal(folder)


def test_an_adapter_of_another_u_net_is_refused_by_its_file(folder: Path) -> None:
    layer = "down_blocks.0.resnets.0.conv1"
    parts = {
        f"{layer}.lora_A.weight": torch.zeros(4, 24, 3, 3),  # the tiny U-Net has 16 channels there
        f"{layer}.lora_B.weight": torch.zeros(16, 4, 1, 1),
    }
    save_file(parts, folder / weights.WHOLE_LUNG)
    refused = refusal(folder)
    assert refused.startswith(f"{folder / weights.WHOLE_LUNG}: cannot be loaded: ")


def test_text_of_another_width_than_the_u_nets_is_refused(tmp_path: Path) -> None:
    testing.write_stable_diffusion_like(tmp_path, text_width=64)
    assert "64 wide, the U-Net attends to 768" in refusal(tmp_path)


@pytest.mark.parametrize("channels", [3, 8])
def test_a_u_net_that_gives_other_channels_is_refused(folder: Path, channels: int) -> None:
    network = UNet2DConditionModel.from_pretrained(folder / "unet")
    told = {**network.config, "out_channels": channels}
    UNet2DConditionModel.from_config(told).save_pretrained(folder / "unet")
    assert f"gives {channels} channels; the autoencoder has 4, so 4 or 5" in refusal(folder)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"latents_mean": [0.0] * 8}, "latents_mean has 8 values; the autoencoder has 4"),
        ({"latents_std": [1.0] * 3}, "latents_std has 3 values; the autoencoder has 4"),
        ({"latents_std": [0.0] * 4}, "latents_std: every value above 0"),
        ({"latents_mean": ["a"] * 4}, "latents_mean: a list of numbers was expected"),
        ({"grid": 60}, "grid 60: a multiple of 8"),
        ({"grid": 16}, "at least 32"),
        ({"grid": "224"}, "grid: a whole number was expected, not '224'"),
        ({"tokens": 99}, "tokens 99: the text encoder has 32 positions"),
        ({"steps": 0}, "steps: at least 1"),
        ({"steps": True}, "steps: a whole number"),
        ({"passes": 1.5}, "passes: a whole number"),
        ({"paper_steps": 1_000_000}, "paper_steps: at most 1000"),
        ({"strength": 5}, "strength: above 0 and at most 1"),
        ({"blur_px": -1}, "blur_px: at least 0"),
        ({"name": None}, "name: text was expected, not None"),
        ({"limits": 5}, "limits: an object was expected, not 5"),
        ({"limits": {"stability": "x"}}, "limits.stability: a number was expected"),
        ({"limits": {"zz": 1}}, "limits: "),
        ({"calibrated": None}, "calibrated: an object was expected, not None"),
        ({"calibrated": {"threshold": 0.1}}, "calibrated: "),
        ({"calibrated": {"threshold": float("nan"), "scale_max": 1}}, "0 < threshold"),
        ({"paper": {"threshold": 0, "scale_max": 0}}, "paper: 0 < threshold"),
        ({"paper": {"threshold": 0.5, "scale_max": 0.1}}, "paper: 0 < threshold <= scale_max"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_is_refused_by_name(
    folder: Path, values: dict[str, Any], said: str
) -> None:
    say(folder / "vald.json", **values)
    assert said in refusal(folder)


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"_class_name": "np"}, "scheduler"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "no noise schedule of 1000 steps"),
        ({"num_train_timesteps": 50}, "no noise schedule of 1000 steps"),
        ({"num_train_timesteps": 10**10}, "no noise schedule of 1000 steps"),
        ({"num_train_timesteps": 0}, "no noise schedule of 1000 steps"),
        ({"beta_start": 2.0, "beta_end": 2.0}, "no noise schedule of 1000 steps"),
        ({"beta_start": 0.0, "beta_end": 0.0}, "no noise schedule of 1000 steps"),
        (
            {"beta_schedule": "linear", "beta_start": -0.01, "beta_end": -0.01},
            "no noise schedule of 1000 steps",
        ),
        ({"beta_schedule": "foo"}, "cannot be loaded"),
        ({"beta_start": "x"}, "cannot be loaded"),
    ],
    ids=str,
)
def test_a_noise_schedule_of_another_kind_is_refused(
    folder: Path, values: dict[str, Any], said: str, rescaled: bool
) -> None:
    say(folder / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=rescaled, **values)
    assert said in refusal(folder)


@pytest.mark.parametrize(
    ("rescaled", "signal_at_500"),
    # sqrt of the product of 1 - (1e-4 + t (0.02 - 1e-4) / 999) for t of 0 .. 500; rescaled by
    # (that - .0063528) .99995 / (.99995 - .0063528), as 2305.08891, alg. 1 says.
    [(False, 0.27892), (True, 0.27431)],
)
def test_a_checkpoint_is_read_by_its_own_noise_schedule(
    tmp_path: Path, rescaled: bool, signal_at_500: float
) -> None:
    testing.write_tiny_model(tmp_path)
    values = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    path = tmp_path / "scheduler" / "scheduler_config.json"
    say(path, rescale_betas_zero_snr=rescaled, **values)
    digest.write_digests(tmp_path)
    signal, _ = weights.load(tmp_path, _CPU).denoiser.signal(500)
    assert signal == pytest.approx(signal_at_500, abs=1e-5)


def test_a_text_encoder_of_no_known_form_is_refused(folder: Path) -> None:
    say(folder / "text_encoder" / "config.json", architectures=[])
    assert "cannot be loaded" in refusal(folder)


def test_networks_to_be_trained_further_are_those_that_their_digests_list(tmp_path: Path) -> None:
    testing.write_tiny_model(tmp_path)
    assert weights.load_networks(tmp_path, _CPU)
    change(tmp_path, "unet", lambda tensors: {k: v + 1 for k, v in tensors.items()})
    with pytest.raises(ModelError, match=r"not the files that digests\.json lists: unet/"):
        weights.load_networks(tmp_path, _CPU)
    digest.write_digests(tmp_path)
    assert weights.load_networks(tmp_path, _CPU)
