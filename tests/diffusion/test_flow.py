"""The straight path between data and noise."""

import torch

from ovi.diffusion.flow import estimate_data, interpolate, shifted, velocity_target


def test_ends_and_middle_of_the_path():
    draw = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 3, 4, 5, generator=draw)
    assert torch.equal(interpolate(data, noise, torch.zeros(3)), data)
    torch.testing.assert_close(interpolate(data, noise, torch.ones(3)), noise)
    x = interpolate(data, noise, torch.tensor([0.0, 0.25, 1.0]))
    torch.testing.assert_close(x[1], 0.75 * data[1] + 0.25 * noise[1])


def test_the_velocity_points_back_to_the_data():
    draw = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 3, 4, 5, 2, 2, generator=draw)
    sigma = torch.tensor([0.1, 0.5, 0.9])
    x = interpolate(data, noise, sigma)
    torch.testing.assert_close(estimate_data(x, velocity_target(data, noise), sigma), data, rtol=1e-5, atol=1e-5)


def test_a_shift_moves_levels_towards_noise_and_keeps_the_ends():
    levels = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert torch.equal(shifted(levels, 1), levels)
    torch.testing.assert_close(shifted(levels, 3), torch.tensor([0.0, 0.5, 0.75, 1.0]))
