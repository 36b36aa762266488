"""One sample's tokens shared by several processes: each holds a part of them, and attends for a part of the heads.

Around every attention over tokens the parts change places (Ulysses, arXiv 2309.14509): all heads of some tokens become
some heads of all tokens, and back. The rest happens token by token, in each process on its own. Every process gets the
whole result and takes the same loss of it: the mean of their gradients is the gradient of one process.
It knows nothing of towers.
Try it: `pytest tests/models/test_team.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Team:
    """`size` processes with one sample between them, of which this is number `rank`."""

    group: dist.ProcessGroup
    rank: int
    size: int

    @classmethod
    def of(cls, rank: int, ranks: int, size: int) -> Team:
        """This process' team, of `size` neighbours among all `ranks`. Every process must ask."""
        groups = [dist.new_group(list(range(first, first + size))) for first in range(0, ranks, size)]
        return cls(groups[rank // size], rank % size, size)


@dataclass(frozen=True)
class Shared:
    """`length` tokens in `units` equal pieces, such as frames: each process has as many whole pieces, the last ones
    perhaps of zeros. A layout of attention, see attention.py.
    """

    team: Team
    units: int
    length: int

    def part(self, x: Tensor, dim: int = 1) -> Tensor:
        """This process' share of a dimension of pieces or of tokens."""
        each = -(-self.units // self.team.size) * (x.shape[dim] // self.units)
        first = min(self.team.rank * each, x.shape[dim])
        mine = x.narrow(dim, first, min(each, x.shape[dim] - first))
        return F.pad(mine, (0, 0) * (x.ndim - 1 - dim) + (0, each - mine.shape[dim]))

    def whole(self, x: Tensor) -> Tensor:
        """Everybody's parts of the tokens [B, part, ...] -> [B, length, ...]."""
        return _Whole.apply(x, self.team)[:, : self.length]

    def apart(self, x: Tensor) -> Tensor:
        """[B, part, heads, d] -> [B, length, heads/size, d]."""
        return _ToHeads.apply(x, self.team)[:, : self.length]

    def together(self, x: Tensor) -> Tensor:
        """[B, length, heads/size, d] -> [B, part, heads, d]."""
        full = self.team.size * -(-self.units // self.team.size) * (self.length // self.units)
        return _ToTokens.apply(F.pad(x, (0, 0, 0, 0, 0, full - self.length)), self.team)


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, team: Team) -> Tensor:
        ctx.team, ctx.length = team, x.shape[1]
        parts = [torch.empty_like(x) for _ in range(team.size)]
        dist.all_gather(parts, x.contiguous(), group=team.group)
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """As many losses as there are processes, all equal, are taken of the result."""
        team = ctx.team
        return team.size * grad.narrow(1, team.rank * ctx.length, ctx.length), None


class _ToHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, team: Team) -> Tensor:
        ctx.team = team
        return _to_heads(x, team)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _to_tokens(grad, ctx.team), None


class _ToTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, team: Team) -> Tensor:
        ctx.team = team
        return _to_tokens(x, team)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _to_heads(grad, ctx.team), None


def _to_heads(x: Tensor, team: Team) -> Tensor:
    heads = x.unflatten(2, (team.size, -1)).movedim(2, 0)  # [whose heads, B, tokens, heads/size, d]
    return _exchanged(heads, team).movedim(0, 1).flatten(1, 2)


def _to_tokens(x: Tensor, team: Team) -> Tensor:
    tokens = x.unflatten(1, (team.size, -1)).movedim(1, 0)  # [whose tokens, B, tokens, heads/size, d]
    return _exchanged(tokens, team).movedim(0, 2).flatten(2, 3)


def _exchanged(x: Tensor, team: Team) -> Tensor:
    """x[i] goes to process i; what comes back is, in place i, what process i sent."""
    got = torch.empty_like(x, memory_format=torch.contiguous_format)
    dist.all_to_all_single(got, x.contiguous(), group=team.group)
    return got
