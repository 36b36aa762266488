"""How many tokens a prompt has for the served model's text encoder, told without loading the encoder.

Try it: `pytest tests/services/test_tokens.py`.
"""

from __future__ import annotations

from pathlib import Path

from services.generation.schemas import Served


class Tokens:
    """Counts for the model of one bundle."""

    def __init__(self, bundle: Path, served: Served) -> None:
        self._tokenizer = None if served.tokenizer is None else bundle / "model" / served.tokenizer
        self.limit = served.max_tokens

    def count(self, text: str) -> int:
        """Tokens of the whole text, its end included."""
        if self._tokenizer is None:
            return len(text.encode()) + 1  # an encoder without a tokenizer reads bytes
        from tokenizers import Tokenizer  # both take seconds to import, and only who asks waits

        from ovi.models.umt5 import clean

        tokenizer = Tokenizer.from_file(str(self._tokenizer))
        return len(tokenizer.encode(clean(text), add_special_tokens=False).ids) + 1
