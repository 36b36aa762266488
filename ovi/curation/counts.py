"""What became of everything: counts that add up at every step, and figures for a tracking server. It decides nothing.

Inputs = kept + rejected + errors, of files and of candidates; a run in which they are not has a defect and ends.
"""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import Any

from ovi.curation.manifest import ERROR, KEPT, REJECTED, SETS, STATUSES, Row
from ovi.curation.sources import Source
from ovi.errors import OviError

MEDIANS = ("motion", "volume_db", "sync_score", "aesthetic_mean", "psnr_db")  # figures: over what is kept


class Ledger:
    """Steps one after another; each begins with what the one before it kept."""

    def __init__(self, sources: list[Source], rows: list[Row]) -> None:
        """The two first steps: files, by the best that became of their candidates, and candidates by thresholds."""
        by_file: dict[str, set[str]] = {source.path: set() for source in sources}
        for row in rows:
            if row["source_path"] not in by_file or row["status"] not in STATUSES:
                raise OviError(f"{row['source_path']}: a row that no file accounts for; run the curate stage again")
            by_file[row["source_path"]].add(row["status"])
        names = Counter(row["clip_id"] for row in rows if row.get("clip_id") is not None)
        wrong = [path for path, found in by_file.items() if not found] + [name for name, n in names.items() if n > 1]
        if wrong:
            raise OviError(f"{wrong[0]}: lost or doubled on the way; run the curate stage again")
        best = Counter(next(status for status in STATUSES if status in found) for found in by_file.values())
        self.steps = [_step("files", len(by_file), best)]
        self._inside = rows
        self.close("thresholds")

    def close(self, step: str) -> None:
        """Note what became of the candidates that were kept until this step."""
        self.steps.append(_step(step, len(self._inside), Counter(row["status"] for row in self._inside)))
        self._inside = [row for row in self._inside if row["status"] == KEPT]


def summary(sources: list[Source], rows: list[Row]) -> dict[str, Any]:
    """Counts by set and split or reason, what became of planted defects, packed sizes; and figures, which are flat."""

    def counted(column: str, status: str) -> dict[str, dict[str, int]]:
        pairs = Counter((str(row["set"]), str(row.get(column))) for row in rows if row["status"] == status)
        return {name: {key: n for (of, key), n in pairs.items() if of == name} for name, _ in pairs}

    planted = Counter((str(row["planted"]), row["reason"] or row["status"]) for row in rows if row.get("planted"))
    kept = counted("split", KEPT)
    pictures = [row for row in rows if row["set"] == "av" and row["status"] == KEPT]
    found = {
        "sources": len(sources),
        "candidates": len(rows),
        "kept": {name: kept.get(name, {}) for name in SETS},
        "rejected": counted("reason", REJECTED),
        "errors": counted("reason", ERROR),
        "planted": {what: {word: n for (of, word), n in planted.items() if of == what} for what, _ in sorted(planted)},
        "sizes": dict(Counter(f"{row['width']}x{row['height']}" for row in pictures)),
        "licences": dict(Counter(str(row.get("licence")) for row in rows if row["status"] == KEPT)),
    }
    return found | {"figures": _figures(found, rows)}


def _figures(found: dict[str, Any], rows: list[Row]) -> dict[str, float]:
    """Flat names and numbers, as a tracking server wants them."""
    figures: dict[str, float] = {"sources": found["sources"], "candidates": found["candidates"]}
    figures |= {f"kept/{name}": sum(found["kept"][name].values()) for name in SETS}
    for status in ("rejected", "errors"):
        totals: Counter[str] = Counter()
        for reasons in found[status].values():
            totals.update(reasons)
        figures |= {f"{status}/{reason}": n for reason, n in sorted(totals.items())}
    for column in MEDIANS:
        values = [row[column] for row in rows if row["status"] == KEPT and row.get(column) is not None]
        if values:
            figures[f"median/{column}"] = float(median(values))
    return figures


def _step(step: str, inputs: int, found: Counter[str]) -> dict[str, Any]:
    if sum(found[status] for status in STATUSES) != inputs:
        raise OviError(f"{step}: {inputs} inputs, but {dict(found)} came out; run the curate stage again")
    return {"step": step, "inputs": inputs, "kept": found[KEPT], "rejected": found[REJECTED], "errors": found[ERROR]}
