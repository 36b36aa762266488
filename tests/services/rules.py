"""Rules as a user of the service writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Rules:
    def prompt(self, effective: dict[str, Any], image: bytes | None) -> str | None:
        return "says what may not be said" if "forbidden" in effective["prompt"] else None

    def clip(self, effective: dict[str, Any], mp4: Path) -> str | None:
        assert mp4.stat().st_size > 0
        if "broken rule" in effective["prompt"]:
            raise RuntimeError("a rule that breaks")
        return "shows what may not be shown" if "withheld" in effective["prompt"] else None


class Half:
    def prompt(self, effective: dict[str, Any], image: bytes | None) -> str | None:
        return None
