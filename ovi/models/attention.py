"""Self-attention, and the cross-attention that hears text and the other tower with one query (paper 4.1).

Key biases are additive and broadcast to [B, heads, L, keys]; None means every key counts as it is. While they are
attended to, tokens may be arranged otherwise than for all else, see Layout; a bias is of that arrangement.
This module knows nothing of modulation, residuals or grids.
Try it: `pytest tests/models/test_fusion.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from ovi.models.rope import rotate

Watch = Callable[[Tensor, Tensor], None]


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps) * weight over the whole width, before heads are split."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class Attention(nn.Module):
    """The projections every attention of a block has: q, k, v, o and the RMS norms of q and k."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, eps), RMSNorm(dim, eps)

    def split(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, heads, D/heads]."""
        return x.unflatten(-1, (self.heads, -1))


class SelfAttention(Attention):
    def forward(self, x: Tensor, rope: Tensor, bias: Tensor | None, layout: Layout | None = None) -> Tensor:
        """x [B, L, D] -> [B, L, D]; rope is the tokens' table, bias hides keys past a sample's length."""
        q = rotate(self.split(self.norm_q(self.q(x))), rope)
        k = rotate(self.split(self.norm_k(self.k(x))), rope)
        return self.o(attend(q, k, self.split(self.v(x)), bias, layout, layout))


class CrossAttention(Attention):
    """One query asks the text and, where there is another tower, that tower's tokens.

    The two answers are added before the shared output projection; the other tower has its own key and value
    projections here and no projection between the towers (paper 4.1).
    """

    watch: Watch | None = None  # is shown the queries and keys between the towers, see attention_maps.py

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__(dim, heads, eps)
        self.k_fusion, self.v_fusion = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.pre_attn_norm_fusion = nn.LayerNorm(dim, eps)
        self.norm_k_fusion = RMSNorm(dim, eps)

    def forward(
        self, x: Tensor, text: Tensor, text_bias: Tensor | None, layout: Layout | None = None,
        text_layout: Layout | None = None,
    ) -> Tensor:  # fmt: skip
        """x [B, L, D] asks text [B, N, D] alone."""
        return self.o(self._ask_text(self._query(x), text, text_bias, layout, text_layout))

    def fused(
        self, x: Tensor, text: Tensor, text_bias: Tensor | None, rope: Tensor, layout: Layout | None,
        other: Tensor, other_bias: Tensor | None, other_rope: Tensor, other_layout: Layout | None,
    ) -> Tensor:  # fmt: skip
        """x [B, L, D] asks text [B, N, D] and the other tower's tokens [B, M, D] on their common clock."""
        q = self._query(x)
        y = self.pre_attn_norm_fusion(other)
        turned, k = rotate(q, rope), rotate(self.split(self.norm_k_fusion(self.k_fusion(y))), other_rope)
        if self.watch:
            self.watch(turned.transpose(1, 2), k.transpose(1, 2))
        heard = attend(turned, k, self.split(self.v_fusion(y)), other_bias, layout, other_layout)
        return self.o(self._ask_text(q, text, text_bias) + heard)

    def _query(self, x: Tensor) -> Tensor:
        return self.split(self.norm_q(self.q(x)))

    def _ask_text(
        self, q: Tensor, text: Tensor, bias: Tensor | None, layout: Layout | None = None,
        text_layout: Layout | None = None,
    ) -> Tensor:  # fmt: skip
        return attend(q, self.split(self.norm_k(self.k(text))), self.split(self.v(text)), bias, layout, text_layout)


class Layout(Protocol):
    """How tokens are arranged while they are attended to."""

    def apart(self, x: Tensor) -> Tensor:
        """[B, L, heads, d] as everything else has them -> as attention does."""

    def together(self, x: Tensor) -> Tensor:
        """Back again."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, asking: Layout | None = None, told: Layout | None = None
) -> Tensor:
    """Softmax attention, scale 1/sqrt(head width): q [B, L, heads, d], k and v [B, M, heads, d] -> [B, L, heads*d]."""
    q = q if asking is None else asking.apart(q)
    k, v = (k, v) if told is None else (told.apart(k), told.apart(v))
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if bias is not None:
        bias = bias.to(q.dtype)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)
    return (y if asking is None else asking.together(y)).flatten(2)
