"""Rules of your own over what may be asked for and what may be handed out: `service.policy` names them, module:name.

The named thing is called once in each process and gives an object with the two methods of `Policy`. What they raise
lets nothing through. It knows nothing of how a rule decides. Try it: `pytest tests/services/test_strict.py`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol

from ovi.errors import ConfigError


class Policy(Protocol):
    """Both answer why not, in words for the caller, or None."""

    def prompt(self, effective: dict[str, Any], image: bytes | None) -> str | None:
        """Before a job is accepted: all its settings, with prompt and negative prompts, and its first frame as PNG."""

    def clip(self, effective: dict[str, Any], mp4: Path) -> str | None:
        """Before a finished clip is handed out or even shown in parts."""


class Withheld(Exception):
    """The clip was made and is not handed out."""


def load(name: str | None) -> Policy | None:
    """Raises ConfigError in one line when there is nothing of that name."""
    if name is None:
        return None
    module, _, attribute = name.partition(":")
    try:
        policy: Policy = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        words = f"service.policy: {name}: cannot be loaded ({error}); write module:name of a class without arguments"
        raise ConfigError(words) from None
    missing = [method for method in ("prompt", "clip") if not callable(getattr(policy, method, None))]
    if missing:
        raise ConfigError(f"service.policy: {name}: has no method {' and no '.join(missing)}")
    return policy
