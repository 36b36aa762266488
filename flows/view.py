"""How a pipeline looks while it runs: a bar on a terminal, plain lines elsewhere, the stage's name before each.

Turns a stage's words (flows/jobs.py) into calls of ovi.progress. Everything a stage says is in its log; the chatter of
libraries beside a stage's own JSON lines stays there.
Try it: `ovi demo | cat`.
"""

from __future__ import annotations

from flows.jobs import Outcome, Status, Word
from ovi.progress import reporter

COUNTS = ("done", "total")  # the numbers of a progress event that the bar itself shows


def say(text: str) -> None:
    print(text, flush=True)


class StageView:
    """The voice of one stage; `hear` is a Listener."""

    def __init__(self, stage: str, reasons: list[str], show_lines: bool) -> None:
        """`show_lines`: show plain lines too, for a command that does not speak JSON."""
        self._stage, self._show_lines = stage, show_lines
        self._done: int | None = None  # until the stage says what it starts
        more = f" and {len(reasons) - 2} more" if len(reasons) > 2 else ""
        say(f"{stage}: {'; '.join(reasons[:2])}{more}")
        self._voice = reporter()

    def hear(self, word: Word) -> None:
        event = word["event"]
        if event == "start":
            self._done = 0
            what = f"{self._stage}: {word.get('what', '')}"
            self._voice.start(what, int(word.get("total") or 0), str(word.get("unit") or ""))
        elif event == "progress" and self._done is not None:
            numbers = {name: value for name, value in word.items() if isinstance(value, int | float)}
            figures = {name: numbers[name] for name in numbers if name not in COUNTS}
            done = int(word.get("done") or 0)
            self._voice.advance(done - self._done, **figures)
            self._done = done
        elif event == "note" or (event == "line" and self._show_lines):
            self._voice.note(f"{self._stage}: {word.get('text', '')}")

    def end(self, outcome: Outcome) -> None:
        self._voice.close()
        if outcome.status is Status.SUCCEEDED:
            say(f"{self._stage}: done in {seconds(outcome.seconds)}, {memory(outcome.peak_bytes)}")

    def close(self) -> None:
        self._voice.close()


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 100 else f"{value // 60:.0f} min {value % 60:02.0f} s"


def memory(peak_bytes: int) -> str:
    if peak_bytes < 2**20:
        return "-"
    return f"{peak_bytes / 2**30:.2f} GiB" if peak_bytes >= 2**28 else f"{peak_bytes / 2**20:.0f} MiB"
