"""The edit, in a world where the right answer is known."""

import pytest
import torch

from pipeline import editing, guidance
from pipeline.editing import Edit
from pipeline.testing import GaussianDenoiser

TEXT = torch.zeros(1, 1, 1)


def test_from_pure_noise_the_edit_follows_the_probability_flow_of_a_gaussian() -> None:
    # z_0 ~ N(3, 2^2) maps noise eps at T to 3 + 2 eps at 0 (2010.02502, the ODE of eq. 14).
    denoiser = GaussianDenoiser(mean=3.0, sd=2.0)
    noise = torch.tensor([[-1.0, 0.0, 0.5]]).view(1, 3, 1, 1)
    edit = editing.paired_edit(denoiser, torch.zeros_like(noise), TEXT, noise, steps=500)
    expected = torch.tensor([1.0, 3.0, 4.0]).view(1, 3, 1, 1)
    assert torch.allclose(edit.latent, expected, atol=0.05)


def test_a_world_with_one_answer_is_reached_in_one_step() -> None:
    denoiser = GaussianDenoiser(mean=3.0, sd=0.0)
    edit = editing.paired_edit(denoiser, torch.zeros(1, 1, 2, 2), TEXT, torch.randn(1, 1, 2, 2), 1)
    assert torch.allclose(edit.latent, torch.full((1, 1, 2, 2), 3.0))


def test_the_gate_keeps_what_is_the_patients_own() -> None:
    source, latent = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([5.0, 5.0, 5.0])
    gate = torch.tensor([0.0, 0.25, 1.0])
    shape = (1, 1, 1, 3)
    edit = Edit(latent=latent.view(shape), gate=gate.view(shape), first_gate=gate.view(shape))
    got = editing.gated(source.view(shape), edit)
    assert torch.allclose(got.flatten(), torch.tensor([1.0, 2.0, 5.0]))


def test_the_gate_is_the_mean_over_the_steps() -> None:
    denoiser = GaussianDenoiser(mean=0.0, sd=1.0, gate=0.25)
    edit = editing.paired_edit(denoiser, torch.zeros(1, 1, 2, 2), TEXT, torch.randn(1, 1, 2, 2), 4)
    assert torch.allclose(edit.gate, torch.full((1, 1, 2, 2), 0.25))


def test_each_pass_takes_a_part_of_what_the_one_before_has_left() -> None:
    # From 0 towards 8 with the gate a quarter open: 2, then a quarter of the 6 left more, 3.5.
    denoiser = GaussianDenoiser(mean=8.0, sd=0.0, gate=0.25)
    noise = [torch.randn(1, 1, 2, 2) for _ in range(2)]
    made = editing.counterpart(denoiser, torch.zeros(1, 1, 2, 2), TEXT, noise, steps=1)
    assert torch.allclose(made.latent, torch.full((1, 1, 2, 2), 3.5))
    assert torch.allclose(made.first.latent, torch.full((1, 1, 2, 2), 8.0))


def test_a_gate_that_is_to_stay_open_closes_no_further() -> None:
    # Held half open from 0 towards 8: 4, then half of the 4 left more, 6. Where it is held shut
    # the denoiser's own quarter counts: 2, then 3.5.
    denoiser = GaussianDenoiser(mean=8.0, sd=0.0, gate=0.25)
    noise = [torch.randn(1, 1, 1, 2) for _ in range(2)]
    held = torch.tensor([[[[0.5, 0.0]]]])
    made = editing.counterpart(denoiser, torch.zeros(1, 1, 1, 2), TEXT, noise, 1, open_to=held)
    assert torch.allclose(made.latent, torch.tensor([[[[6.0, 3.5]]]]))


def test_a_counterpart_without_a_pass_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pass"):
        editing.counterpart(GaussianDenoiser(0, 1), torch.zeros(1, 1, 2, 2), TEXT, [], 1)


def test_noise_of_a_draw_does_not_depend_on_how_many_are_drawn() -> None:
    two, four = editing.noises((3, 2), seed=7, draws=2), editing.noises((3, 2), seed=7, draws=4)
    assert torch.equal(two, four[:2])
    assert not torch.equal(four[0], four[1])
    assert not torch.equal(two, editing.noises((3, 2), seed=8, draws=2))


def test_img2img_of_no_strength_returns_almost_the_source() -> None:
    denoiser = GaussianDenoiser(mean=0.0, sd=1.0)
    source = torch.randn(1, 1, 4, 4)
    got = _img2img(denoiser, source, strength=0.001)
    assert torch.allclose(got, source, atol=0.1)


def test_img2img_of_full_strength_forgets_the_source() -> None:
    denoiser = GaussianDenoiser(mean=2.0, sd=0.0)
    got = _img2img(denoiser, torch.full((1, 1, 4, 4), -9.0), strength=1.0)
    assert torch.allclose(got, torch.full((1, 1, 4, 4), 2.0), atol=1e-4)


@pytest.mark.parametrize("steps", [0, -1])
def test_an_edit_without_steps_is_refused(steps: int) -> None:
    with pytest.raises((ValueError, ZeroDivisionError)):
        editing.paired_edit(
            GaussianDenoiser(0, 1), torch.zeros(1, 1, 2, 2), TEXT, torch.zeros(1, 1, 2, 2), steps
        )


def _img2img(denoiser: GaussianDenoiser, source: torch.Tensor, strength: float) -> torch.Tensor:
    return guidance.image_to_image(
        denoiser,
        source,
        TEXT,
        TEXT,
        torch.randn(source.shape, generator=torch.Generator().manual_seed(0)),
        strength=strength,
        guidance=1.0,
        steps=10,
    )
