"""The parts of the report that show metrics: each with its interval, and a table of all clips that sorts by any column.

The table sorts without a script: every row knows its place in each order, and the chosen column's radio button tells
which one counts. It draws what report.json says and computes nothing.
Try it: `ovi evaluate`, then open out/evaluation/report.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovi.evaluation import figures, page
from ovi.evaluation.figures import Span, number

BETTER = {1: "higher is better", -1: "lower is better", 0: ""}
STRANGE = "not comparable"
TEXT = (
    "The dot is the figure, the bar its 95\u00a0% interval, thin ticks are single clips. A Fréchet distance and an "
    "inception score are biased by the number of clips; their interval is of what infinitely many would give."
)
WARNING = "Their networks are filled by a formula, to try the path; the figures mean nothing."
SORTING = "Choose a column to sort by it, from small to large; what could not be scored comes last."


def metrics(about: Mapping[str, Any]) -> str:
    """Every metric of report.json that has a value, drawn over its clips and listed; nothing where there is none."""
    there = {name: one for name, one in about["metrics"].items() if one["value"] is not None}
    if not there:
        return ""
    strange = [name for name, one in there.items() if not one["comparable"]]
    warning = page.words(f"{STRANGE}: {', '.join(strange)}. {WARNING}", "bad") if strange else ""
    drawn = figures.spans([_span(name, one, about["clips"]) for name, one in there.items()])
    head = ["metric", "value", "95 % interval", "n", "failed", "identity"]
    listed = page.table(head, [_row(name, one) for name, one in there.items()])
    return page.section("Metrics", page.words(TEXT), warning, page.card("All clips", "", drawn), listed)


def clips(about: Mapping[str, Any]) -> str:
    """One row a clip, one column a metric that single clips have."""
    names = [clip["name"] for clip in about["clips"]]
    columns = {
        metric: [clip["values"].get(metric) for clip in about["clips"]]
        for metric in about["metrics"]
        if any(metric in clip["values"] for clip in about["clips"])
    }
    if not columns:
        return ""
    orders = [_places(sorted(range(len(names)), key=names.__getitem__))]
    orders += [_places(_sorted(column)) for column in columns.values()]
    titles = ["clip", *(_called(metric, about["metrics"][metric]) for metric in columns)]
    rows = [
        [clip["name"], *("null" if column[at] is None else number(column[at]) for column in columns.values())]
        for at, clip in enumerate(about["clips"])
    ]
    table = page.sorting_table(titles, rows, orders, [clip["caption"] for clip in about["clips"]])
    shown = f"<details><summary>{len(names)} clips</summary>{table}</details>"
    return page.section("Clip by clip", page.words(SORTING), shown)


def _called(name: str, one: Mapping[str, Any]) -> str:
    return name if one["comparable"] else f"{name} ({STRANGE})"


def _span(name: str, one: Mapping[str, Any], listed: list[dict[str, Any]]) -> Span:
    low, high = (one["value"] if one[end] is None else one[end] for end in ("ci_low", "ci_high"))
    values = sorted(clip["values"][name] for clip in listed if name in clip["values"])
    return Span(_called(name, one), BETTER[one["better"]], one["value"], low, high, values)


def _row(name: str, one: Mapping[str, Any]) -> list[str]:
    sure = one["no_interval"] or f"{number(one['ci_low'])} to {number(one['ci_high'])}"
    if one["at_infinity"] is not None:
        sure += f"; {number(one['at_infinity'])} with infinitely many"
    value = number(one["value"]) if one["comparable"] else f"{number(one['value'])} ({STRANGE})"
    return [name, value, sure, str(one["n"]), str(one["n_failed"]), one["hash"]]


def _sorted(column: list[float | None]) -> list[int]:
    return sorted(range(len(column)), key=lambda row: (column[row] is None, column[row] or 0.0))


def _places(order: list[int]) -> list[int]:
    """The place of each row in an order."""
    places = [0] * len(order)
    for place, row in enumerate(order):
        places[row] = place
    return places
