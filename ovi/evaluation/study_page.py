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
BESIDE = ["question", "agreement (alpha)", "decided for the left", "p", "strengths (Elo, Davidson)"]
LEFT_OUT = {
    "tones": "left at the headphone check", "refused": "without headphones", "trials": "unfinished",
    "checks": "attention checks failed",
}  # fmt: skip


def preferred(results: Results) -> str:
    """A section; "" without a study."""
    names = sorted(name.removesuffix("/rate") for name in results.values if re.fullmatch(r"study/.*/rate", name))
    if not names:
        return ""
    questions = sorted({name.split("/", 2)[1] for name in names})
    parts = [
        page.words(_who(results)),
        page.table(HEAD, [_pair(name, results) for name in names]),
        page.table(BESIDE, [_question(name, results) for name in questions]),
    ]
    return page.section("What people preferred", *parts)


def _who(results: Results) -> str:
    left_out = [
        f"{number(count)} {words}"
        for why, words in LEFT_OUT.items() if (count := results.values.get(f"study/excluded/{why}"))
    ]  # fmt: skip
    told = f" ({', '.join(left_out)})" if left_out else ""
    return (
        f"Two clips at a time, without knowing whose they are. {_shown('study/raters', results)} raters count, "
        f"{_shown('study/excluded', results)} do not{told}. "
        "A tie is half a win; votes of one rater, and on one item, go together."
    )


def _pair(name: str, results: Results) -> list[str]:
    _, question, models = name.split("/", 2)
    rate, low, high, p, n = (
        _shown(f"{name}/{part}", results) for part in ("rate", "ci_low", "ci_high", "p_value", "n")
    )
    return [models.replace("_over_", " over "), rate, question, f"{low} to {high}", p, n]


def _question(name: str, results: Results) -> list[str]:
    start = f"study/{name}/elo/"
    elo = {key.removeprefix(start): value for key, value in results.values.items() if key.startswith(start)}
    strengths = ", ".join(f"{model} {number(value)}" for model, value in elo.items() if value is not None)
    beside = (_shown(f"study/{name}/{part}", results) for part in ("alpha", "left_share", "left_p_value"))
    return [name, *beside, strengths or "null"]


def _shown(name: str, results: Results) -> str:
    value = results.values.get(name)
    return "null" if value is None else number(value)
