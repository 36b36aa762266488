"""What a user sees of a stage where no terminal is: its name before each line, its own words, not its libraries'."""

from __future__ import annotations

import pytest

from flows.demo import sync_words
from flows.jobs import Outcome, Status
from flows.view import StageView, memory, seconds

WORDS = [
    {"event": "progress", "done": 1},  # before any start: nothing to show it in
    {"event": "start", "what": "rendering", "total": 2, "unit": "files"},
    {"event": "line", "text": "a library chats"},
    {"event": "progress", "what": "rendering", "done": 2, "total": 2, "loss": 0.5, "psnr": None},
    {"event": "note", "text": "one file skipped"},
    {"event": "result", "files": 2},
    {"event": "an event of a later version"},
]


@pytest.mark.parametrize("show_lines", [False, True])
def test_plain_lines(capsys: pytest.CaptureFixture[str], show_lines: bool) -> None:
    view = StageView("corpus", ["parameter seed changed (0 -> 1)", "code ovi/media changed", "a", "b"], show_lines)
    for word in WORDS:
        view.hear(word)
    view.end(Outcome(Status.SUCCEEDED, 0, 12.34, 3 * 2**30))
    assert capsys.readouterr().out.splitlines() == [
        "corpus: parameter seed changed (0 -> 1); code ovi/media changed and 2 more",
        *(["corpus: a library chats"] if show_lines else []),
        "corpus: rendering  2/2 files  about 0 s left  loss 0.5",
        "corpus: one file skipped",
        "corpus: done in 12.3 s, 3.00 GiB",
    ]


def test_amounts() -> None:
    assert (seconds(4.25), seconds(99.94), seconds(125)) == ("4.2 s", "99.9 s", "2 min 05 s")
    assert (memory(0), memory(100 * 2**20), memory(2**30)) == ("-", "100 MiB", "1.00 GiB")


def test_the_sync_figure_in_words() -> None:
    figures = {"sync/blink/auc": 0.712, "sync/blink/real_auc": 0.98, "sync/blink/p_value": 0.002, "sync/blink/n": 24.0}
    assert sync_words("blink", figures, {}) == (
        "sync (blink): a generated clip's own sound fits its picture better than another clip's sound 71% of the time "
        "(AUC 0.71, chance 0.50, real clips 0.98, p = 0.002, 24 clips)"
    )
    reasons = {"sync/blink/auc": "not applicable: no blink scene"}
    assert sync_words("blink", {"sync/blink/auc": None}, reasons).endswith(
        "not measured, not applicable: no blink scene"
    )
