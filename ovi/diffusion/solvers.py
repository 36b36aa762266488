"""Schedules of noise levels and the three solvers of the release: UniPC (its default), DPM++ and Euler.

A solver is made for one schedule and one array, and called once a step with the network's velocity. Arrays stay in
float32; all coefficients are Python floats, so that no step waits for the device. alpha = 1 - sigma,
lambda = ln(alpha / sigma), and data estimates are m = x - sigma * velocity.
Try it: `pytest tests/diffusion/test_solvers.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ovi.diffusion.flow import TIMESTEPS, shifted

if TYPE_CHECKING:
    from torch import Tensor

UNIPC_START = 0.999  # the first sigma of UniPC's training grid


@dataclass(frozen=True)
class Schedule:
    sigmas: tuple[float, ...]  # n+1, falling to 0
    timesteps: tuple[float, ...]  # n, as the network is told them


class Solver(Protocol):
    def step(self, i: int, x: Tensor, velocity: Tensor) -> Tensor:
        """x at sigmas[i] and the network's velocity there -> x at sigmas[i+1]. Called with i = 0, 1, 2, ..."""
        ...

    def remember(self) -> dict[str, Tensor]:
        """What the next step needs of the steps before."""
        ...

    def recall(self, i: int, memory: dict[str, Tensor]) -> None:
        """Go on at step i with what a solver of the same schedule remembered after step i-1."""
        ...


def schedule(solver: str, steps: int, shift: float) -> Schedule:
    """The released noise levels: shifted towards noise, S*s/(1+(S-1)*s).

    UniPC and DPM++ tell the network whole timesteps, cut off and not rounded; Euler shifts its low end twice.
    """
    if solver == "euler":
        sigmas = shifted(np.linspace(1.0, float(shifted(np.array(0.001), shift)), steps), shift)
        timesteps = sigmas * TIMESTEPS
    else:
        start = UNIPC_START if solver == "unipc" else 1.0
        sigmas = shifted(np.linspace(start, 0.0, steps + 1)[:-1], shift)
        timesteps = np.trunc(sigmas * TIMESTEPS)
    return Schedule((*map(float, sigmas), 0.0), tuple(map(float, timesteps)))


def make(solver: str, schedule: Schedule) -> Solver:
    """A fresh solver for one array."""
    return SOLVERS[solver](schedule.sigmas)


class Euler:
    def __init__(self, sigmas: tuple[float, ...]) -> None:
        self.sigmas = sigmas

    def step(self, i: int, x: Tensor, velocity: Tensor) -> Tensor:
        return x + (self.sigmas[i + 1] - self.sigmas[i]) * velocity

    def remember(self) -> dict[str, Tensor]:
        return {}

    def recall(self, i: int, memory: dict[str, Tensor]) -> None:
        """Nothing: every step stands alone."""


class DPMPlusPlus:
    """DPM-Solver++ (2M, midpoint): first and last step of order 1."""

    def __init__(self, sigmas: tuple[float, ...]) -> None:
        self.sigmas = sigmas
        self.lambdas = [_lambda(sigma) for sigma in sigmas]
        self.before: Tensor | None = None

    def step(self, i: int, x: Tensor, velocity: Tensor) -> Tensor:
        sigma, following = self.sigmas[i], self.sigmas[i + 1]
        h = self.lambdas[i + 1] - self.lambdas[i]
        m = x - sigma * velocity
        estimate = m
        if self.before is not None and i < len(self.sigmas) - 2:
            r0 = (self.lambdas[i] - self.lambdas[i - 1]) / h
            estimate = m + (m - self.before) * (0.5 / r0)
        self.before = m
        return x * (following / sigma) - estimate * ((1 - following) * math.expm1(-h))

    def remember(self) -> dict[str, Tensor]:
        return {} if self.before is None else {"before": self.before}

    def recall(self, i: int, memory: dict[str, Tensor]) -> None:  # noqa: ARG002
        self.before = memory.get("before")


class UniPC:
    """UniPC of order 2 (B(h) = e^h - 1, data prediction): each step first corrects x, then predicts the next."""

    def __init__(self, sigmas: tuple[float, ...]) -> None:
        self.sigmas = sigmas
        self.lambdas = [_lambda(sigma) for sigma in sigmas]
        self.estimates: list[Tensor] = []  # of data, the last two steps'
        self.corrected: Tensor | None = None  # x of the last step
        self.order = 0  # of the last prediction

    def step(self, i: int, x: Tensor, velocity: Tensor) -> Tensor:
        m = x - self.sigmas[i] * velocity
        if self.corrected is not None:
            x = self._correct(i, self.corrected, m)
        self.estimates = [*self.estimates[-1:], m]
        self.corrected = x
        self.order = self._order(i)
        return self._predict(i, x, m)

    def remember(self) -> dict[str, Tensor]:
        if self.corrected is None:
            return {}
        return {"corrected": self.corrected} | {f"estimate{j}": m for j, m in enumerate(self.estimates)}

    def recall(self, i: int, memory: dict[str, Tensor]) -> None:
        self.corrected = memory.get("corrected")
        self.estimates = [memory[name] for name in sorted(memory) if name.startswith("estimate")]
        self.order = self._order(i - 1)

    def _order(self, i: int) -> int:
        """Of the prediction at step i: the first and the last step are of order 1."""
        return min(2, len(self.sigmas) - 1 - i, i + 1)

    def _predict(self, i: int, x: Tensor, m: Tensor) -> Tensor:
        following = self.sigmas[i + 1]
        h = self.lambdas[i + 1] - self.lambdas[i]
        weight = (1 - following) * math.expm1(-h)
        y = x * (following / self.sigmas[i]) - m * weight
        if self.order == 2:
            rk = (self.lambdas[i - 1] - self.lambdas[i]) / h
            y = y - (self.estimates[0] - m) * (weight * 0.5 / rk)
        return y

    def _correct(self, i: int, x: Tensor, m: Tensor) -> Tensor:
        """The x of step i again, from the corrected x of step i-1, now that the estimate m at step i is known."""
        sigma = self.sigmas[i]
        h = self.lambdas[i] - self.lambdas[i - 1]
        e = math.expm1(-h)
        weight = (1 - sigma) * e
        last = self.estimates[-1]
        y = x * (sigma / self.sigmas[i - 1]) - last * weight
        if self.order == 1:
            return y - (m - last) * (weight * 0.5)
        rk = (self.lambdas[i - 2] - self.lambdas[i - 1]) / h
        g1 = e / -h - 1
        b1, b2 = g1 / e, 2 * (g1 / -h - 0.5) / e
        rho1 = (b1 - b2) / (1 - rk)
        return y - (self.estimates[0] - last) * (weight * rho1 / rk) - (m - last) * (weight * (b1 - rho1))


SOLVERS: dict[str, type[UniPC] | type[DPMPlusPlus] | type[Euler]] = {
    "unipc": UniPC,
    "dpm++": DPMPlusPlus,
    "euler": Euler,
}


def _lambda(sigma: float) -> float:
    if sigma in (0.0, 1.0):
        return math.inf if sigma == 0.0 else -math.inf
    return math.log((1 - sigma) / sigma)
