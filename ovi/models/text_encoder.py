"""Captions -> text embeddings: what the T5 encoders share, and a small frozen one of random weights for the demo.

The random one reads bytes and stands in for umT5-xxl (`ovi.models.umt5`). Its weights are drawn here and not by
transformers, so that a seed means the same model in every version. Position biases are strong enough that heads look
at near neighbours: a byte's row then tells of its word, and captions that differ in one word differ in many rows.
Nothing here knows of the towers, which pad and project what it gives.
Try it: `pytest tests/models/test_text_encoder.py`.
"""

from __future__ import annotations

import logging
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

PAD, END, FIRST_BYTE, VOCABULARY = 0, 1, 3, 384  # as in the byte-level T5 family: unknown is 2, then 256 bytes
HEAD_DIM = 16
POSITION_SPREAD = 2.0  # standard deviation of the relative position biases

log = logging.getLogger(__name__)


class TextEncoder(nn.Module):
    """A frozen umT5 encoder: texts -> rows, at most max_tokens a text, the last one of </s>.

    `sizes` are fields of transformers' UMT5Config. The state dict has the token table once, as `t5.shared.weight`.
    """

    def __init__(self, max_tokens: int, **sizes: Any) -> None:
        super().__init__()
        from transformers import UMT5Config, UMT5EncoderModel  # takes seconds to import

        self.max_tokens = max_tokens
        self.t5 = UMT5EncoderModel(UMT5Config(dropout_rate=0.0, **sizes))
        # One module under both names, and not two that share a weight: that ends with load_state_dict(assign=True).
        self.t5.set_input_embeddings(self.t5.shared)
        self.eval().requires_grad_(False)
        self.register_state_dict_post_hook(_drop_second_name)
        self.register_load_state_dict_pre_hook(_add_second_name)

    def tokens(self, text: str) -> list[int]:
        """The whole text's tokens, </s> included; `encode` keeps the first max_tokens - 1 and </s>."""
        raise NotImplementedError

    def encode(self, texts: list[str]) -> list[Tensor]:
        """One [n_tokens, dim] float32 a text. A text that is too long is cut, and the log says so."""
        return self.embed([self._cut(self.tokens(text), text) for text in texts])

    @torch.no_grad()
    def embed(self, rows: list[list[int]]) -> list[Tensor]:
        """Token ids, a list for each text -> one [n_tokens, dim] float32 each, computed in the weights' dtype."""
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        device = self.t5.shared.weight.device
        hidden = self.t5(input_ids=ids.to(device), attention_mask=mask.long().to(device)).last_hidden_state.float()
        return [one[: len(row)].clone() for one, row in zip(hidden, rows, strict=True)]

    def _cut(self, tokens: list[int], text: str) -> list[int]:
        if len(tokens) <= self.max_tokens:
            return tokens
        log.warning("text of %d tokens cut to %d: %.60s...", len(tokens), self.max_tokens, text)
        return [*tokens[: self.max_tokens - 1], END]


class RandomT5(TextEncoder):
    """A umT5 encoder of a few layers. Rows have unit variance (its last layer is a norm)."""

    def __init__(self, dim: int, layers: int, max_tokens: int) -> None:
        super().__init__(
            max_tokens,
            vocab_size=VOCABULARY,
            d_model=dim,
            d_kv=HEAD_DIM,
            d_ff=2 * dim,
            num_layers=layers,
            num_heads=max(1, dim // HEAD_DIM),
        )

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
        return [*(byte + FIRST_BYTE for byte in text.encode()), END]


def _drop_second_name(_: nn.Module, state: dict[str, Tensor], prefix: str, __: object) -> None:
    """The token table is held under two names; one is enough in a file."""
    del state[f"{prefix}t5.encoder.embed_tokens.weight"]


def _add_second_name(_: nn.Module, state: dict[str, Tensor], prefix: str, *__: object) -> None:
    if f"{prefix}t5.shared.weight" in state:
        state[f"{prefix}t5.encoder.embed_tokens.weight"] = state[f"{prefix}t5.shared.weight"]
