"""JavisBench (Liu et al., 2025, arXiv 2503.23377): texts of what is seen and heard together.

Layout as published: JavisBench.csv, or JavisBench-mini.csv, with a column text; row number i asks for sample_i, in four
digits. Real clips are not released.
Try it: `ovi benchmark table javis-bench-mini --data JavisBench --out prompts.csv`.
"""

from __future__ import annotations

from pathlib import Path

from ovi.evaluation.readers.benchmark import Benchmark, Item, checked, table


def read(folder: Path) -> Benchmark:
    """All of it. Raises OviError for a table that is missing or not as published."""
    return _read(folder, "javis-bench", "JavisBench.csv")


def read_mini(folder: Path) -> Benchmark:
    """The thousand that are drawn from it. Raises OviError as `read`."""
    return _read(folder, "javis-bench-mini", "JavisBench-mini.csv")


def _read(folder: Path, name: str, file: str) -> Benchmark:
    texts = [row["text"] for row in table(folder / file, ("text",))]
    items = [Item(f"sample_{number:04d}", text, sound=text) for number, text in enumerate(texts)]
    return Benchmark(name, checked(folder / file, items), pictures=True)
