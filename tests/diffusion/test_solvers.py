"""Schedules and solvers against the golden trajectories."""

import pytest
import torch

from ovi.diffusion.solvers import make, schedule
from tests import golden

RUNS = [
    (case, solver, steps)
    for case in ("sampler_shift1", "sampler_shift5")
    for solver in ("unipc", "dpm++", "euler")
    for steps in (10, 50)
]


def toy(x, timestep):
    """The velocity that the golden trajectories follow."""
    s = timestep / 1000
    return torch.sin(1.3 * x + 0.7 * s) - 0.2 * x + (0.5 - s)


@pytest.mark.parametrize(("case", "solver", "steps"), RUNS)
def test_schedule(case, solver, steps):
    want, grid = golden.tensors(case), schedule(solver, steps, golden.config(case)["shift"])
    golden.check(case, torch.tensor(grid.sigmas, dtype=torch.float64), want[f"out/{solver}_{steps}/sigmas"])
    times = want[f"out/{solver}_{steps}/timesteps"]
    got = torch.tensor(grid.timesteps, dtype=torch.float64)
    assert torch.equal(got, times) if solver != "euler" else torch.allclose(got, times, rtol=1e-6)


@pytest.mark.parametrize(("case", "solver", "steps"), RUNS)
def test_trajectory(case, solver, steps):
    """Once by the recorded velocities, once by the velocity at our own points."""
    want, grid = golden.tensors(case), schedule(solver, steps, golden.config(case)["shift"])
    run = f"{solver}_{steps}"
    led, free = make(solver, grid), make(solver, grid)
    x = y = want[f"in/{run}/x"]
    for i, timestep in enumerate(grid.timesteps):
        x = led.step(i, x, want[f"in/{run}/velocities"][i])
        y = free.step(i, y, toy(y, timestep))
        golden.check(case, x, want[f"out/{run}/traj"][i])
        golden.check(case, y, want[f"out/{run}/traj"][i])


@pytest.mark.parametrize("case", ["sampler_shift1", "sampler_shift5"])
def test_audio_latents(case):
    want, grid = golden.tensors(case), schedule("unipc", 10, golden.config(case)["shift"])
    solver, x = make("unipc", grid), want["in/unipc_10_audio/x"]
    for i, timestep in enumerate(grid.timesteps):
        x = solver.step(i, x, toy(x, timestep))
        golden.check(case, x, want["out/unipc_10_audio/traj"][i])


@pytest.mark.parametrize("solver", ["unipc", "dpm++", "euler"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_end_at_the_data(solver, steps):
    """On a straight path every solver lands on the data, however few its steps."""
    draw = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 4, 8, generator=draw)
    grid = schedule(solver, steps, 5.0)
    runner, x = make(solver, grid), data + grid.sigmas[0] * (noise - data)
    for i in range(steps):
        x = runner.step(i, x, noise - data)
    torch.testing.assert_close(x, data, rtol=1e-5, atol=1e-5)
