"""What covers whole lungs: how it is taught, what the adapter may change, and what it may not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from pipeline import anatomy, digest, testing, weights
from pipeline.errors import ModelError
from pipeline.evidence import Evidence, findings
from pipeline.explainer import Explainer
from pipeline.training import diffusion, lesions, pools, whole_lung
from pipeline.training.lesions import Donor
from pipeline.training.pools import Pool
from pipeline.training.session import Recipe
from pipeline.types import Mode, Target
from tests.pipeline import chests

pytestmark = pytest.mark.usefixtures("one_thread")


def hazed(seed: int = 0) -> np.ndarray:
    """A flat chest whose lungs have the brightness of a donor with lungs as light as tissue."""
    hazy = np.full_like(chests.flat(), chests.TISSUE)
    rng = np.random.default_rng(seed)
    return lesions.diffuse(
        rng, chests.flat(), chests.lungs(), Donor(film=hazy, lungs=chests.lungs())
    )


def test_a_diffuse_disease_brightens_both_lungs_or_one_and_nothing_beyond_their_hull() -> None:
    # The donor's lungs are 0.4 brighter; from 0.5 to 1.1 of that is added.
    sides = {"both": 0, "one": 0}
    for seed in range(12):
        change = hazed(seed) - chests.flat()
        assert not change[anatomy.hull(chests.lungs()) == 0].any()
        lifted = [
            float(change[90:130, slice(cols[0] + 20, cols[1] - 20)].mean())
            for cols in (chests.RIGHT_COLS, chests.LEFT_COLS)
        ]
        assert 0.15 < max(lifted) < 0.5
        sides["both" if min(lifted) > 0.15 else "one"] += 1
    assert min(sides.values()) > 0


def test_a_sick_films_lungs_are_estimated_as_dark_as_normal_ones_with_lines_of_their_own() -> None:
    # Lungs as light as tissue with lines of 0.1, two pixels apart; normal lungs are 0.4 darker.
    sick = np.full_like(chests.flat(), chests.TISSUE)
    sick[:, ::4] += 0.1
    donors = [Donor(film=chests.flat(), lungs=chests.lungs())] * 3
    well = lesions.estimated(np.random.default_rng(0), sick, chests.lungs(), donors)
    change = well - sick
    assert not change[anatomy.hull(chests.lungs()) == 0].any()
    for cols in (chests.RIGHT_COLS, chests.LEFT_COLS):
        middle = change[90:130, slice(cols[0] + 20, cols[1] - 20)]
        assert -0.5 < middle.mean() < -0.25  # the rim, half tissue, is met first
        assert np.ptp(middle) < 0.05  # the lines stay: nothing so sharp is taken away


def test_a_run_begins_with_the_adapter_it_is_given_and_refuses_another_u_nets(
    model: Path, tmp_path: Path
) -> None:
    taught = said(adapted(model))
    start = model / weights.WHOLE_LUNG
    begun = whole_lung.train(
        unet_of(model), *_nothing_to_learn(), tmp_path / "run", lambda *_: None, start
    )
    assert torch.allclose(said(begun), taught, atol=2e-2)  # it is kept in halves
    save_file({"other.lora_A.weight": torch.zeros(4, 4)}, start)
    with pytest.raises(ModelError, match="adapter"):
        whole_lung.train(
            unet_of(model), *_nothing_to_learn(), tmp_path / "other", lambda *_: None, start
        )


def _nothing_to_learn() -> tuple[Pool, torch.Tensor, Recipe]:
    captions = pools.all_captions()
    none = torch.zeros(0, 4, 8, 8)
    pool = Pool(
        source=none,
        aim=none,
        mask=none,
        kind=torch.zeros(0, dtype=torch.int64),
        words=torch.zeros(0, dtype=torch.int64),
        normal=torch.zeros(0, dtype=torch.int64),
        captions=captions,
    )
    return pool, torch.zeros(len(captions), 4, 16), Recipe(minutes=0, batch=1, learning_rate=1e-3)


def test_what_must_change_is_the_distance_of_latents_as_a_share_of_a_plain_lesions() -> None:
    # One cell of 5 x 5 differs by 0.9 in each channel: its mean square with the eight around is
    # 0.09, the root 0.3, half of the 0.6 that count as all; two cells away nothing differs.
    source, aim = torch.zeros(2, 5, 5), torch.zeros(2, 5, 5)
    aim[:, 2, 2] = 0.9
    needed = diffusion.need(source, aim)
    assert needed[0, 2, 2] == pytest.approx(0.5)
    assert needed[0, 2, 4] == 0
    assert diffusion.need(source, aim * 100)[0, 2, 2] == 1


def unet_of(model: Path) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(model / "unet", use_safetensors=True)


def said(unet: UNet2DConditionModel) -> torch.Tensor:
    torch.manual_seed(1)
    config = unet.config
    z = torch.randn(1, config.in_channels, config.sample_size, config.sample_size)
    text = torch.randn(1, 4, config.cross_attention_dim)
    with torch.no_grad():
        out: torch.Tensor = unet(z, torch.tensor([999]), text).sample
    return out


def spoilt(unet: UNet2DConditionModel) -> None:
    """Its adapter says something, as after training."""
    torch.manual_seed(2)
    for name, parameter in unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    testing.write_tiny_model(tmp_path / "model")
    return tmp_path / "model"


def test_a_new_adapter_changes_nothing_and_learns_alone(model: Path) -> None:
    unet = unet_of(model)
    before = said(unet)
    whole_lung.adapt(unet)
    assert torch.equal(said(unet), before)
    learning = {name for name, p in unet.named_parameters() if p.requires_grad}
    assert learning
    assert all("lora" in name for name in learning)
    assert not any("time_emb" in name for name in learning)


def adapted(model: Path) -> UNet2DConditionModel:
    """The folder's U-Net with an adapter, which lies in the folder from now on."""
    unet = unet_of(model)
    whole_lung.adapt(unet)
    spoilt(unet)
    whole_lung.save(unet, model / weights.WHOLE_LUNG)
    digest.write_digests(model)
    return unet


def test_a_folders_adapter_is_the_one_that_was_trained_and_leaves_the_first_u_net_alone(
    model: Path,
) -> None:
    cpu = torch.device("cpu")
    alone = weights.load(model, cpu)
    adapted_unet = adapted(model)
    loaded = weights.load(model, cpu)
    assert alone.whole_lung is None
    assert loaded.whole_lung is not None
    torch.manual_seed(0)
    channels = adapted_unet.config.in_channels // 2
    side = adapted_unet.config.sample_size
    z = torch.randn(1, channels, side, side)
    text = torch.randn(1, 4, adapted_unet.config.cross_attention_dim)
    with torch.no_grad():
        raw = adapted_unet(torch.cat([z, z], 1), torch.tensor([999]), text).sample
    claim = loaded.whole_lung.claim(z, z, 999, text)
    # At t = T the velocity is minus the clean latent; the adapter is kept in half precision.
    assert torch.allclose(claim.z_0, -raw[:, :channels], atol=2e-2)
    first = [folder.denoiser.claim(z, z, 999, text).z_0 for folder in (alone, loaded)]
    assert torch.equal(*first)
    assert not torch.allclose(claim.z_0, first[0], atol=0.1)


def evidence(model: Path, target: Target | None = None) -> Evidence:
    plane = np.random.default_rng(0).random((testing.TINY_GRID,) * 2, np.float32)
    explainer = Explainer(weights.load(model, torch.device("cpu")))
    return explainer.evidence(plane, Mode.CALIBRATED, seed=0, target=target)


def test_the_adapter_changes_the_counterpart_and_neither_places_nor_checks(model: Path) -> None:
    without = evidence(model)
    adapted(model)
    made = evidence(model)
    assert np.array_equal(made.maps, without.maps)
    assert np.array_equal(made.local, without.changes)
    assert np.abs(made.changes - without.changes).max() > 0.01
    assert findings(made, 0.0) == findings(without, 0.0)


def test_what_is_asked_for_in_words_is_made_without_the_adapter(model: Path) -> None:
    asked = Target(prompt="PA chest radiograph. Left lower zone nodule.")
    without = evidence(model, asked).changes
    adapted(model)
    assert np.array_equal(evidence(model, asked).changes, without)


def test_the_adapted_network_is_looked_at_for_a_probe_and_for_nothing_else(model: Path) -> None:
    assert evidence(model).traits is None
    adapted(model)
    traits = evidence(model).traits
    assert traits is not None
    explainer = Explainer(weights.load(model, torch.device("cpu")))
    plane = np.random.default_rng(0).random((64, 64), np.float32)
    assert np.array_equal(explainer.traits(plane, seed=0), explainer.traits(plane, seed=0))
    assert explainer.traits(plane, seed=0).shape == traits.shape
