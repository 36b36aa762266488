"""What a blind study found, in a report: every question and pair of models with its interval.

It draws figures named study/... and computes nothing.
Try it: `ovi evaluate --study out/study/results.json`.
"""

from __future__ import annotations

import re

from ovi.evaluation import page
from ovi.evaluation.figures import number
from ovi.evaluation.results import Results

HEAD = ["models", "won", "question", "95\u00a0% interval", "p", "votes"]


def preferred(results: Results) -> str:
    """A section; "" without a study."""
    names = sorted(name.removesuffix("/rate") for name in results.values if re.fullmatch(r"study/.*/rate", name))
    if not names:
        return ""

    def shown(name: str) -> str:
        value = results.values.get(name)
        return "null" if value is None else number(value)

    rows = []
    for name in names:
        _, question, models = name.split("/", 2)
        interval = f"{shown(f'{name}/ci_low')} to {shown(f'{name}/ci_high')}"
        rate, p, n = (shown(f"{name}/{part}") for part in ("rate", "p_value", "n"))
        rows.append([models.replace("_over_", " over "), rate, question, interval, p, n])
    text = (
        f"Two clips at a time, without knowing whose they are. {shown('study/raters')} raters count, "
        f"{shown('study/excluded')} do not. A tie is half a win; votes of one rater, and on one item, go together."
    )
    return page.section("What people preferred", page.words(text), page.table(HEAD, rows))
