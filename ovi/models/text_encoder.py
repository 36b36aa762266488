"""Captions -> text embeddings, by a small frozen T5 of random weights that reads bytes: the demo's umT5-xxl.

Its weights are drawn here and not by transformers, so that a seed means the same model in every version. Position
biases are strong enough that heads look at near neighbours: a byte's row then tells of its word, and captions that
differ in one word differ in many rows. It knows nothing of the towers, which pad and project what it gives.
Try it: `pytest tests/models/test_text_encoder.py`.
"""

from __future__ import annotations

import logging
from typing import Self

import torch
from torch import Tensor, nn

END, FIRST_BYTE, VOCABULARY = 1, 3, 384  # as in the byte-level T5 family: pad 0, </s> 1, unknown 2, then 256 bytes
HEAD_DIM = 16
POSITION_SPREAD = 2.0  # standard deviation of the relative position biases

log = logging.getLogger(__name__)


class RandomT5(nn.Module):
    """A umT5 encoder of a few layers. Rows have unit variance (its last layer is a norm)."""

    def __init__(self, dim: int, layers: int, max_tokens: int) -> None:
        super().__init__()
        from transformers import UMT5Config, UMT5EncoderModel  # takes seconds to import

        self.max_tokens = max_tokens
        self.t5 = UMT5EncoderModel(
            UMT5Config(
                vocab_size=VOCABULARY,
                d_model=dim,
                d_kv=HEAD_DIM,
                d_ff=2 * dim,
                num_layers=layers,
                num_heads=max(1, dim // HEAD_DIM),
                dropout_rate=0.0,
            )
        )
        self.eval().requires_grad_(False)
        self.register_state_dict_post_hook(_drop_second_name)

    @torch.no_grad()
    def init(self, seed: int) -> Self:
        """Draw all weights from the seed."""
        draw = torch.Generator().manual_seed(seed)
        for name, weight in sorted(self.named_parameters()):
            if "norm" in name:
                weight.fill_(1)
            elif "relative_attention_bias" in name:
                weight.normal_(0, POSITION_SPREAD, generator=draw)
            elif "shared" in name:
                weight.normal_(0, 1, generator=draw)
            else:
                spread = weight.shape[1] ** -0.5 * (HEAD_DIM**-0.5 if name.endswith(".q.weight") else 1)
                weight.normal_(0, spread, generator=draw)
        return self

    def tokens(self, text: str) -> list[int]:
        """The whole text's tokens, </s> included; `encode` keeps the first max_tokens - 1 and </s>."""
        return [*(byte + FIRST_BYTE for byte in text.encode()), END]

    @torch.no_grad()
    def encode(self, texts: list[str]) -> list[Tensor]:
        """One [n_tokens, dim] float32 a text. A text that is too long is cut, and the log says so."""
        rows = [self._cut(self.tokens(text), text) for text in texts]
        longest = max(map(len, rows), default=0)
        device = self.t5.shared.weight.device
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
        hidden = self.t5(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state.float()
        return [one[: len(row)].clone() for one, row in zip(hidden, rows, strict=True)]

    def _cut(self, tokens: list[int], text: str) -> list[int]:
        if len(tokens) <= self.max_tokens:
            return tokens
        log.warning("text of %d tokens cut to %d: %.60s...", len(tokens), self.max_tokens, text)
        return [*tokens[: self.max_tokens - 1], END]


def _drop_second_name(_: nn.Module, state: dict[str, Tensor], prefix: str, __: object) -> None:
    """The token table is held under two names; one is enough in a file."""
    del state[f"{prefix}t5.encoder.embed_tokens.weight"]
