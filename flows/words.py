"""What a stage says, line by line: JSON events as they are, everything else as {"event": "line", "text"}.

The same for a log file on this machine and for the log of a pod. Keeps the two things an outcome needs: the last plain
line, where an error message is, and the last `result`.
Try it: `pytest tests/flows/test_local.py -k heard`.
"""

from __future__ import annotations

import json
from typing import Any

from flows.jobs import Listener


class Words:
    def __init__(self, listen: Listener) -> None:
        self._listen = listen
        self.last_line = ""
        self.result: dict[str, Any] = {}

    def hear(self, line: str) -> None:
        """One line; an empty one says nothing."""
        text = line.strip()
        if not text:
            return
        word = _event(text)
        if word is None:
            self.last_line = text
            word = {"event": "line", "text": text}
        elif word["event"] == "result":
            self.result = {name: value for name, value in word.items() if name != "event"}
        self._listen(word)


def _event(text: str) -> dict[str, Any] | None:
    if '{"event"' not in text:
        return None
    try:
        word = json.loads(text[text.index('{"event"') :])  # a library's unfinished line may stand before it
    except ValueError:
        return None
    return word if isinstance(word.get("event"), str) else None
