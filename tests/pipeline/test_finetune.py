"""Fine-tuning a folder of Stable Diffusion's shape: tiny and random, but real diffusers parts."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import digest, lesion_gate, settings, testing, weights
from pipeline.engine.base import Request
from pipeline.engine.local import LocalEngine
from pipeline.errors import ModelError
from pipeline.settings import Settings
from pipeline.training import finetune, pools
from pipeline.training.diffusion import Form
from pipeline.training.finetune import Plan, Tuned
from pipeline.training.pools import Pool
from pipeline.training.session import Recipe, Session
from pipeline.types import Mode, Radiograph, Status, Unlike
from pipeline.weights import Networks

pytestmark = pytest.mark.usefixtures("one_thread")

_CPU = torch.device("cpu")
_MEMBERS = 12


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd")
    testing.write_stable_diffusion_like(folder)
    return folder


def pool() -> Pool:
    """Every source is 0 and every aim 1, in all kinds: what is to be learnt is plain."""
    captions = pools.all_captions()
    normal = captions.index("Frontal chest radiograph. Normal.")
    shape = (_MEMBERS, 4, 8, 8)
    return Pool(
        source=torch.zeros(shape).half(),
        aim=torch.ones(shape).half(),
        mask=torch.zeros(_MEMBERS, 1, 8, 8).half(),
        kind=torch.arange(_MEMBERS) % 4,
        words=torch.full((_MEMBERS,), normal),
        normal=torch.full((_MEMBERS,), normal),
        captions=captions,
    )


def tuned(base: Path, folder: Path, plan: Plan, steps: int = 3) -> tuple[Networks, Tuned]:
    """A few steps of the plan."""
    networks = weights.load_networks(base, _CPU)
    recipe = Recipe(minutes=60, batch=4, learning_rate=1e-3, warmup_steps=1)
    with pytest.MonkeyPatch.context() as patch:
        whole = Session.steps
        patch.setattr(Session, "steps", lambda self: itertools.islice(whole(self), steps))
        made = finetune.train(networks, plan, pool(), recipe, folder, lambda *_: None)
    return networks, made


def test_the_new_half_of_the_first_convolution_changes_nothing_at_first(base: Path) -> None:
    before, after = (weights.load_networks(base, _CPU).unet for _ in range(2))
    finetune.see_source(after, latents=4)
    z, source = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    text, t = torch.randn(1, 5, 768), torch.tensor([500])
    with torch.no_grad():
        assert torch.allclose(
            before(z, t, text).sample, after(torch.cat([z, source], 1), t, text).sample, atol=1e-5
        )
    assert after.config.in_channels == 8


PLANS = {
    "paired": Plan(),
    "plain with its text encoder": Plan(form=Form.PLAIN, train_text=True),
    "paired by adapters": Plan(lora_rank=2),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))
def test_what_is_written_is_a_model_that_explains(base: Path, tmp_path: Path, plan: Plan) -> None:
    networks, made = tuned(base, tmp_path / "run", plan)
    said = Settings(name="mine", version="fine-tuned", grid=64, tokens=32, steps=2, paper_steps=2)
    finetune.write(made, networks, plan, base, tmp_path / "out", said)
    film = Radiograph(pixels=np.random.default_rng(0).random((130, 130)).astype(np.float32))
    engine = LocalEngine(tmp_path / "out", "cpu", threads=1)
    (explained,) = engine.explain(
        [Request(film=film, mode=Mode.CALIBRATED, seed=0, unlike=Unlike.WITHHOLD)]
    )
    assert explained.model.name == "mine"
    assert explained.attribution_map.shape == (130, 130)
    assert explained.status is Status.WITHHELD  # the film is noise: no model of ours is without
    assert "not a chest" in explained.reasons[0]  # an image gate
    assert settings.read(tmp_path / "out") == said


def changed(base: Path, made: Tuned, part: str) -> set[str]:
    """Names of the weights that are not the base's any more."""
    before = weights.load_networks(base, _CPU)
    old = dict(getattr(before, part).named_parameters())
    new = dict(getattr(made, part).named_parameters())
    return {n for n in old.keys() & new.keys() if not torch.equal(old[n], new[n])}


def test_the_u_net_alone_learns_unless_its_text_encoder_is_asked_for(
    base: Path, tmp_path: Path
) -> None:
    networks, alone = tuned(base, tmp_path / "alone", Plan(form=Form.PLAIN))
    assert changed(base, alone, "unet")
    assert not any(p.requires_grad for p in networks.text_encoder.parameters())
    _, both = tuned(base, tmp_path / "both", Plan(form=Form.PLAIN, train_text=True))
    assert changed(base, both, "text_encoder")


def test_adapters_leave_the_base_as_it_was_until_they_are_fused(base: Path, tmp_path: Path) -> None:
    _, made = tuned(base, tmp_path, Plan(lora_rank=2))
    learns = {name for name, p in made.unet.named_parameters() if p.requires_grad}
    assert learns
    assert all("lora" in name or name.startswith("conv_in") for name in learns)


@pytest.mark.parametrize(
    ("folder", "form", "learns"),
    [("base", Form.PAIRED, True), ("base", Form.PLAIN, False), ("own", Form.PAIRED, False)],
)
def test_beside_adapters_the_first_convolution_learns_where_it_was_widened_alone(
    request: pytest.FixtureRequest, folder: str, form: Form, learns: bool
) -> None:
    networks = weights.load_networks(request.getfixturevalue(folder), _CPU)
    made = Tuned(networks, Plan(form=form, lora_rank=2))
    found = {p.requires_grad for p in made.unet.conv_in.parameters()}
    assert found == {learns}


def test_a_run_goes_on_from_its_checkpoint(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = tuned(base, tmp_path, Plan(), steps=3)
    # islice stops a run as a kill would; what a run saves on its way it saves at its checkpoints.
    assert not (tmp_path / "state.json").exists()
    monkeypatch.setattr("pipeline.training.session._CHECKPOINT_EVERY_S", -1.0)
    _, first = tuned(base, tmp_path, Plan(), steps=3)
    saved = json.loads((tmp_path / "state.json").read_text(encoding="utf-8"))
    assert saved["step"] == 2  # the third had been learnt, and was yet to be counted
    kept = load_file(tmp_path / "state.safetensors")
    began: list[tuple[int, dict[str, torch.Tensor]]] = []
    whole = Session.steps

    def watched(self: Session) -> Iterator[int]:
        began.append((self.step, {k: v.clone() for k, v in self.model.state_dict().items()}))
        return whole(self)

    monkeypatch.setattr(Session, "steps", watched)
    _, second = tuned(base, tmp_path, Plan(), steps=2)
    ((step, begun),) = began
    assert step == saved["step"]
    assert all(torch.equal(begun[name], kept[f"model.{name}"]) for name in begun)
    after = json.loads((tmp_path / "state.json").read_text(encoding="utf-8"))
    assert after["step"] == 3
    assert not torch.equal(second.unet.conv_in.weight, first.unet.conv_in.weight)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of our own form: paired, its latents normalised by statistics in vald.json."""
    folder = tmp_path_factory.mktemp("own")
    testing.write_tiny_model(folder)
    said = settings.read(folder)
    mean, std = (0.5, -1.0, 2.0, 0.0), (2.0, 3.0, 0.5, 1.0)
    settings.write(folder, replace(said, latents_mean=mean, latents_std=std))
    save_file(lesion_gate.build().state_dict(), folder / weights.LESION_GATE)
    digest.write_digests(folder)
    return folder


def test_latents_are_trained_on_at_the_scale_that_they_are_explained_at(own: Path) -> None:
    encode = finetune.encoder_of(weights.load_networks(own, _CPU), grid=64, device="cpu")
    x = torch.rand(1, 1, 64, 64) * 2 - 1
    explained = weights.load(own, _CPU).autoencoder.encode(x)
    assert torch.allclose(encode(x), explained, atol=1e-5)


def test_a_paired_u_net_has_no_plain_form(own: Path, tmp_path: Path) -> None:
    networks = weights.load_networks(own, _CPU)
    recipe = Recipe(minutes=60, batch=4, learning_rate=1e-3)
    with pytest.raises(ModelError, match="trained in pairs"):
        finetune.train(
            networks, Plan(form=Form.PLAIN), pool(), recipe, tmp_path / "run", lambda *_: None
        )
    assert not (tmp_path / "run").exists()


def written(base: Path, folder: Path) -> Path:
    """A folder written after a few steps from `base`, with what its settings say."""
    networks, made = tuned(base, folder / "run", Plan())
    finetune.write(made, networks, Plan(), base, folder / "out", settings.read(base))
    return folder / "out"


def test_what_a_base_has_beside_its_networks_stays_with_them(own: Path, tmp_path: Path) -> None:
    out = written(own, tmp_path)
    model = weights.load(out, _CPU)
    assert settings.read(out).latents_std == settings.read(own).latents_std
    assert model.lesion_gate is not None
    for name in (weights.IMAGE_GATE, weights.LUNG_SEGMENTER):  # which this base has not
        assert (out / name).read_bytes() == (digest.EMBEDDED / name).read_bytes()


def test_a_foreign_folder_says_how_many_tokens_it_was_trained_with(
    base: Path, tmp_path: Path
) -> None:
    # Stable Diffusion's 77 are more than this text encoder's 32 positions.
    assert settings.read(written(base, tmp_path)).tokens == 32


def test_a_text_encoder_of_another_width_is_refused(tmp_path: Path) -> None:
    testing.write_stable_diffusion_like(tmp_path, text_width=64)
    with pytest.raises(ModelError, match="64 wide, the U-Net attends to 768"):
        weights.load_networks(tmp_path, _CPU)


def test_films_of_one_channel_become_the_folders_own_latents(base: Path) -> None:
    encode = finetune.encoder_of(weights.load_networks(base, _CPU), grid=64, device="cpu")
    assert encode(torch.zeros(2, 1, 224, 224)).shape == (2, 4, 8, 8)
