"""Edit-friendly inversion in a world whose denoiser is known in closed form."""

import pytest
import torch

from pipeline import inversion
from pipeline.models import Claim
from pipeline.schedule import Schedule, zero_terminal

_TIMES = inversion.times(10, start=0.7)


class SpokenMean:
    """A world of N(m, 1) latents where the text says m; knows the posterior mean exactly."""

    paired = False

    def __init__(self) -> None:
        self._steps: Schedule = zero_terminal()

    def signal(self, t: int) -> tuple[float, float]:
        return float(self._steps.alpha[t]), float(self._steps.sigma[t])

    def claim(
        self, z_t: torch.Tensor, source: torch.Tensor | None, t: int, text: torch.Tensor
    ) -> Claim:
        assert source is None
        alpha, sigma = self.signal(t)
        mean = text[:, 0, 0].view(-1, 1, 1, 1)
        # With unit variance: E[z_0 | z_t] = m + alpha (z_t - alpha m), since alpha^2 + sigma^2 = 1.
        z_0 = mean + alpha * (z_t - alpha * mean)
        return Claim(z_0=z_0, eps=(z_t - alpha * z_0) / sigma, gate=None)


def says(mean: float, films: int = 1) -> torch.Tensor:
    return torch.full((films, 1, 1), mean)


def source(films: int = 1) -> torch.Tensor:
    return torch.randn(films, 2, 4, 4, generator=torch.Generator().manual_seed(0)) + 3


def noises(films: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(films, 2, 4, 4, generator=generator) for _ in _TIMES]


def inverted(films: int = 1) -> inversion.Inverted:
    return inversion.invert(SpokenMean(), source(films), says(3.0, films), noises(films), _TIMES)


def test_under_its_own_prompt_the_source_comes_back() -> None:
    again = inversion.edit(SpokenMean(), inverted(), says(0.0), says(3.0), guidance=0.0)
    assert torch.allclose(again, source(), atol=1e-4)


def test_under_another_prompt_it_moves_there_and_keeps_what_is_its_own() -> None:
    moved = inversion.edit(SpokenMean(), inverted(), says(0.0), says(3.0), guidance=1.0)
    shift = moved - source()
    # Both worlds differ by their mean alone: every value moves by the same, towards the other mean.
    assert float(shift.std()) < 1e-4
    assert -3 < float(shift.mean()) < -0.5


def test_more_guidance_moves_further() -> None:
    moves = [
        inversion.edit(SpokenMean(), inverted(), says(0.0), says(3.0), guidance=w).mean()
        for w in (0.5, 1.0, 2.0)
    ]
    assert moves[0] > moves[1] > moves[2]


def test_what_is_kept_is_the_source_exactly_and_the_rest_is_edited() -> None:
    keep = torch.zeros(1, 1, 4, 4)
    keep[..., :2] = 1
    made = inversion.edit(SpokenMean(), inverted(), says(0.0), says(3.0), guidance=1.0, keep=keep)
    free = inversion.edit(SpokenMean(), inverted(), says(0.0), says(3.0), guidance=1.0)
    assert torch.equal(made[..., :2], source()[..., :2])
    assert torch.allclose(made[..., 2:], free[..., 2:])


def test_what_is_kept_is_put_back_at_the_same_time_not_one_step_noisier() -> None:
    """A denoiser that records what it is shown sees the source's own path where it is kept."""
    seen: list[torch.Tensor] = []

    class Watching(SpokenMean):
        def claim(
            self, z_t: torch.Tensor, source: torch.Tensor | None, t: int, text: torch.Tensor
        ) -> Claim:
            seen.append(z_t[:1])
            return super().claim(z_t, source, t, text)

    along = inverted()
    inversion.edit(
        Watching(), along, says(0.0), says(3.0), guidance=1.0, keep=torch.ones(1, 1, 4, 4)
    )
    for shown, path in zip(seen, along.path, strict=False):
        assert torch.equal(shown, path)


def test_a_batch_is_edited_as_its_members_are() -> None:
    both = inversion.edit(SpokenMean(), inverted(2), says(0.0, 2), says(3.0, 2), guidance=1.0)
    assert both.shape == (2, 2, 4, 4)
    assert float((both - source(2)).std()) < 1e-4


@pytest.mark.parametrize(("start", "first"), [(1.0, 999), (0.7, 699), (0.001, 0)])
def test_the_steps_begin_where_the_start_says(start: float, first: int) -> None:
    assert inversion.times(1 if start < 0.01 else 10, start)[0] == first
