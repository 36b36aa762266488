"""The paper's Tables 2 and 3 in a report, with the evaluated model's own row above them.

It draws what it is given and computes nothing.
Try it: `ovi evaluate`, then open out/evaluation/report.html.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ovi.evaluation import page
from ovi.evaluation.figures import number
from ovi.evaluation.paper import COLUMNS, TABLE_2, TABLE_3, Reported

ELSEWHERE = (
    "The paper measured on AudioCaps (sound) and Seed-TTS test-en (speech). Where this model's own row was measured on "
    "other clips, the rows below it are for orientation only and cannot be compared with it."
)
ABSTAINS = "\u2013"


def tables(about: Mapping[str, Any], held: Sequence[str] = ()) -> str:
    """Both tables; `held`: the metrics for which these clips are those of the paper. "" where no metric is there."""
    own = [_own(about["metrics"].get(name), name in held) for name in COLUMNS]
    if all(cell == ABSTAINS for cell in own):
        return ""
    head = ["model", *COLUMNS.values()]
    first = ["this model", *own]
    parts = [
        page.words(ELSEWHERE),
        page.card("Table 2: sound and speech", "", page.figures_table(head, [first, *map(_row, TABLE_2)])),
        page.card("Table 3: how prompts are encoded", "", page.figures_table(head, [first, *map(_row, TABLE_3)])),
    ]
    return page.section("Beside the paper", parts[0], f'<div class="stack">{parts[1]}{parts[2]}</div>')


def table_3() -> str:
    """Table 3 alone."""
    return page.card(
        "Table 3", "", page.figures_table(["prompts", *COLUMNS.values()], [*map(_row, TABLE_3)], own=False)
    )


def _row(reported: Reported) -> list[str]:
    return [reported.model, *(ABSTAINS if figure is None else f"{figure:g}" for figure in reported.figures)]


def _own(metric: Mapping[str, Any] | None, held: bool) -> str:
    if metric is None or metric["value"] is None:
        return ABSTAINS
    value = number(metric["value"])
    if metric["ci_low"] is not None:
        value += f" ({number(metric['ci_low'])} to {number(metric['ci_high'])})"
    if not metric["comparable"]:
        return f"{value}, not comparable"
    return value if held else f"{value}, other clips"
