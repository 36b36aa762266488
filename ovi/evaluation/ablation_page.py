"""The report of an ablation: what each factor does to each figure, every cell, and the paper's Table 3 beside it.

It draws what ablation.json says and computes nothing; equal inputs give equal bytes.
Try it: `ovi ablate`, then open out/ablation/report.html.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ovi.evaluation import figures, page, paper_page
from ovi.evaluation.figures import Span, number
from ovi.evaluation.quality_page import STRANGE

TEXT = (
    "Each dot is how much a figure changes where one factor alone is turned: the mean over all pairs of cells that are "
    "equal in everything else, seeds included. The bar is its 95\u00a0% interval over pairs, the upright line is none. "
    "p-values are corrected for all effects at once (Holm). Few pairs make wide intervals."
)
INTERVALS = "With the 95\u00a0% interval over its clips, where there is one."
PAPER = "In the paper one combined prompt beats separate encoders in all but the word error rate, where they are equal:"


def build(about: Mapping[str, Any]) -> str:
    """The page as HTML; `about` is what ablation.json holds."""
    head = f"Profile {about['profile']}, {len(about['cells'])} cells: {_grid(about['factors'])}."
    absent = [[name, "null", reason] for name, reason in sorted(about["absent"].items())]
    parts = [
        f"<h1>Ablation</h1>{page.words(head, 'soft')}",
        page.section("What each factor does", page.words(TEXT), _warning(about["strange"]), *_effects(about)),
        page.section("Every cell", page.words(INTERVALS), _cells(about)),
        page.section("In the paper", page.words(PAPER), paper_page.table_3()),
        page.section("Could not be compared", page.table(["figure", "", "why"], absent)) if absent else "",
    ]  # fmt: skip
    return page.page("Ovi: ablation", "\n".join(part for part in parts if part))


def _grid(factors: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} ({', '.join(levels)})" for name, levels in factors.items())


def _warning(strange: Sequence[str]) -> str:
    if not strange:
        return ""
    return page.words(f"{STRANGE} with anything: {', '.join(strange)}. Their networks are filled by a formula.", "bad")


def _effects(about: Mapping[str, Any]) -> list[str]:
    cards = []
    for figure in dict.fromkeys(effect["figure"] for effect in about["effects"]):
        mine = [effect for effect in about["effects"] if effect["figure"] == figure]
        rows = [[_turned(effect), number(effect["difference"]), _sure(effect), _p(effect), str(effect["pairs"])]
                for effect in mine]  # fmt: skip
        table = page.table(["turned from, to", "change", "95\u00a0% interval", "p", "pairs"], rows)
        cards.append(page.card(figure, "", figures.changes([_span(effect) for effect in mine]), table))
    return [f'<div class="stack">{"".join(cards)}</div>'] if cards else [page.words("No figure is in all cells.")]


def _turned(effect: Mapping[str, Any]) -> str:
    return f"{effect['factor'].replace('_', ' ')}: {effect['base']} → {effect['other']}"


def _sure(effect: Mapping[str, Any]) -> str:
    return "no spread" if effect["low"] is None else f"{number(effect['low'])} to {number(effect['high'])}"


def _p(effect: Mapping[str, Any]) -> str:
    return "" if effect["p_holm"] is None else number(effect["p_holm"])


def _span(effect: Mapping[str, Any]) -> Span:
    value = effect["difference"]
    low, high = (value if effect[end] is None else effect[end] for end in ("low", "high"))
    return Span(_turned(effect), "", value, low, high, [])


def _cells(about: Mapping[str, Any]) -> str:
    shown = [
        name for name in about["figures"] if any(cell["figures"][name]["value"] is not None for cell in about["cells"])
    ]
    rows = [[cell["name"], *(_figure(cell["figures"][name]) for name in shown)] for cell in about["cells"]]
    return page.figures_table(["cell", *shown], rows, own=False)


def _figure(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return paper_page.ABSTAINS
    if figure["ci_low"] is None:
        return number(figure["value"])
    return f"{number(figure['value'])} ({number(figure['ci_low'])} to {number(figure['ci_high'])})"
