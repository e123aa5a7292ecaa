"""The noise schedule and its identities."""

import math

import torch

from pipeline import schedule


def test_signal_and_noise_have_unit_energy_at_every_step() -> None:
    steps = schedule.zero_terminal()
    energy = steps.alpha.double() ** 2 + steps.sigma.double() ** 2
    assert torch.allclose(energy, torch.ones(1000, dtype=torch.float64), atol=1e-6)


def test_the_last_step_is_pure_noise_and_the_first_is_unchanged() -> None:
    steps = schedule.zero_terminal()
    assert float(steps.alpha[-1]) == 0.0
    assert math.isclose(float(steps.alpha[0]), math.sqrt(1 - 0.00085), rel_tol=1e-6)


def test_trailing_steps_start_at_the_end_and_are_evenly_spaced() -> None:
    assert schedule.trailing_steps(4) == [999, 749, 499, 249]
    assert schedule.trailing_steps(3, start=600) == [599, 399, 199]


def test_an_uneven_strength_is_not_rounded_to_a_step_of_the_full_list() -> None:
    assert schedule.trailing_steps(5, start=370)[0] == 369


def test_velocity_gives_back_what_it_was_made_of() -> None:
    z, eps = torch.tensor([2.0]), torch.tensor([-1.0])
    alpha, sigma = torch.tensor(0.6), torch.tensor(0.8)
    z_t = alpha * z + sigma * eps  # 1.2 - 0.8
    v = schedule.velocity(z, eps, alpha, sigma)
    assert torch.allclose(v, torch.tensor([-2.2]))  # 0.6 * -1 - 0.8 * 2
    back = schedule.from_velocity(z_t, v, alpha, sigma)
    assert torch.allclose(back[0], z)
    assert torch.allclose(back[1], eps)


def test_min_snr_weight_is_capped_and_never_above_the_cap_over_snr_plus_one() -> None:
    alpha = torch.tensor([math.sqrt(0.5), math.sqrt(0.9), 0.0])
    sigma = torch.tensor([math.sqrt(0.5), math.sqrt(0.1), 1.0])
    weight = schedule.min_snr_weight(alpha, sigma)  # SNR 1, 9, 0
    assert torch.allclose(weight, torch.tensor([0.5, 0.5, 0.0]), atol=1e-6)
