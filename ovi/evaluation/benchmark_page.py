"""The report of a benchmark: metrics with intervals, the paper's rows beside them, the published scorer's, every clip.

It draws what report.json says and computes nothing; equal inputs give equal bytes.
Try it: `ovi benchmark score audiocaps --data AudioCaps-test-audioldm-ver --clips out/clips`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovi.evaluation import page, paper_page, quality_page
from ovi.evaluation.figures import number
from ovi.evaluation.readers.benchmark import Benchmark
from ovi.evaluation.report import everything
from ovi.evaluation.results import Results


def build(benchmark: Benchmark, about: Mapping[str, Any], results: Results) -> str:
    """The page as HTML; `about` is what report.json holds."""
    missing = about["missing"]
    there = about["files"] - len(missing)
    line = f"{benchmark.protocol}. {there} of {about['files']} files were there; seed {about['seed']}."
    lost = page.section("Missing files", page.words(f"They count as failed: {'; '.join(missing)}.")) if missing else ""
    parts = [
        f"<h1>{benchmark.name}</h1>{page.words(line, 'soft')}", lost, quality_page.metrics(about),
        paper_page.tables(about, benchmark.paper), _published(about), quality_page.clips(about), everything(results),
    ]  # fmt: skip
    return page.page(f"Ovi: {benchmark.name}", "\n".join(part for part in parts if part))


def _published(about: Mapping[str, Any]) -> str:
    if not about["published"]:
        return ""
    head = ["figure", "value", "n", "not there because", "what is wrong with it"]
    rows = [
        [one["name"], _shown(one["value"]), str(one["n"]), one["reason"], one["defect"]] for one in about["published"]
    ]
    text = "To compare with published numbers only: these are computed as that scorer does, with its defects."
    return page.section("As published", page.words(text), page.table(head, rows))


def _shown(value: float | None) -> str:
    return "null" if value is None else number(value)
