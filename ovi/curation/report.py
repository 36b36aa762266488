"""The report of a curation: what was kept, what was left out and why, the scores with their thresholds, some pictures.

One HTML file that needs nothing else. It reads rows and the strips of pictures in the scratch folder; it decides
nothing.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from ovi.config import Settings
from ovi.curation.histogram import histogram
from ovi.curation.manifest import ERROR, KEPT, REJECTED, SETS, SPLITS, Row
from ovi.curation.select import MIN_CHANGE
from ovi.curation.sync import FRAME_MS

SHOWN = 4  # strips of pictures for each verdict
METHODS = {
    "cut_score": "cut_by", "motion": "motion_by", "sync_score": "sync_by", "faces": "faces_by",
    "aesthetic": "aesthetic_by", "caption": "caption_by",
}  # fmt: skip

REASONS = {
    "static": "neither flows nor changes enough",
    "silent": "mean volume too low",
    "no_audio": "has no sound stream",
    "no_video": "has no picture stream",
    "out_of_sync": "picture and sound agree best at an offset that is too large",
    "too_short": "shorter than one clip",
    "short": "shorter than one clip",
    "cut_in_window": "long enough, but no window between its cuts is",
    "too_small": "too few pixels inside its margins",
    "bad_caption": "its caption file breaks the tag grammar",
    "duplicate": "same content as another file",
    "interlaced": "interlaced pictures",
    "hdr": "HDR pictures",
    "unreadable": "cannot be read as media",
    "truncated": "ends before its header says",
    "crashed": "failed while it was examined",
}


def page(settings: Settings, rows: list[Row], summary: dict[str, Any], scratch: Path) -> str:
    """The whole page. `scratch` holds `<clip_id>.png` strips."""
    kept = [row for row in rows if row["status"] == KEPT]
    lost = [row for row in rows if row["status"] != KEPT]
    body = [
        "<h1>Curated clips</h1>",
        f'<p class="soft">{summary["sources"]} files gave {len(rows)} candidates; {len(kept)} were kept. '
        f"Profile {escape(settings.profile)}, manifest.parquet has every candidate with its scores.</p>",
        _tiles(summary, lost),
        "<h2>Kept</h2>", _kept_table(summary), _strips([row for row in kept if row["set"] == "av"], scratch),
        "<h2>Left out, and why</h2>", *_left_out(lost, scratch),
        *_planted(summary),
        "<h2>Scores and thresholds</h2>",
        '<p class="soft"><i class="key kept"></i>kept &nbsp; <i class="key out"></i>left out &nbsp; '
        "dashed: the threshold. Values beyond the axis are in its last bar.</p>",
        f'<div class="grid">{"".join(_histograms(settings, rows))}</div>',
        "<h2>What computed the scores</h2>", _methods(rows),
    ]  # fmt: skip
    style = (files("ovi.curation") / "report.css").read_text()
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>\n{style}</style>'
    main = "\n".join(body)
    return f'<!doctype html>\n<html lang="en"><head><title>Curated clips</title>{head}</head>' \
           f"\n<body><main>\n{main}\n</main></body></html>\n"  # fmt: skip


def _histograms(settings: Settings, rows: list[Row]) -> Iterable[str]:
    curation = settings.curation
    late, unheard = curation.max_offset_frames * FRAME_MS, "below it picture and sound have no common cause"
    cards: list[tuple[str, str, str, list[float], str]] = [
        ("motion", "Motion", "mean optical flow in half a second", [curation.min_motion], "diagonals"),
        ("change", "Change", "how far grey levels stray in time; static is below both", [MIN_CHANGE], "of full scale"),
        ("volume_db", "Mean volume", "full scale is 0 dB", [curation.min_volume_db], "dB"),
        ("sync_score", "Sync score", unheard, [curation.min_sync_score], ""),
        ("sync_offset_ms", "Sync offset", "positive: sound late; only where the score counts", [-late, late], "ms"),
        ("cut_score", "Largest jump", "between neighbouring pictures of a window", [], "levels"),
    ]
    for column, title, words, limits, unit in cards:
        counted = [row for row in rows if row.get(column) is not None]
        if column == "sync_offset_ms":
            counted = [row for row in counted if row["sync_score"] >= curation.min_sync_score]
        if not counted:
            continue
        kept = [row[column] for row in counted if row["status"] == KEPT]
        out = [row[column] for row in counted if row["status"] != KEPT]
        yield f'<div class="card"><h3>{title}</h3><p>{words}</p>{histogram(kept, out, limits, unit)}</div>'


def _tiles(summary: dict[str, Any], lost: list[Row]) -> str:
    tiles = [(sum(summary["kept"][name].values()), f"{name} clips kept") for name in SETS]
    for status, words in ((REJECTED, "rejected"), (ERROR, "errors")):
        tiles.append((sum(row["status"] == status for row in lost), words))
    inside = (f'<div class="tile"><b>{n}</b><span>{words}</span></div>' for n, words in tiles)
    return f'<div class="tiles">{"".join(inside)}</div>'


def _kept_table(summary: dict[str, Any]) -> str:
    lines = [[name, *(summary["kept"][name].get(split, 0) for split in SPLITS)] for name in SETS]
    sizes = ", ".join(f"{n} of {size}" for size, n in sorted(summary["sizes"].items()))
    return _table(["set", *SPLITS], lines) + (_soft(f"Packed pictures: {sizes} pixels.") if sizes else "")


def _left_out(lost: list[Row], scratch: Path) -> Iterable[str]:
    if not lost:
        yield _soft("Nothing was.")
    for reason, count in Counter(str(row["reason"]) for row in lost).most_common():
        these = [row for row in lost if row["reason"] == reason]
        said = next((row["message"] for row in these if row.get("message")), None)
        yield f'<h3>{escape(reason)} <span class="soft">{count}</span></h3>'
        yield _soft(escape(REASONS.get(reason, "")) + (f". For example: <code>{escape(said)}</code>" if said else ""))
        yield _strips(these, scratch)


def _strips(rows: list[Row], scratch: Path) -> str:
    """A few strips of pictures, spread over the rows that have one."""
    drawn = [row for row in rows if row.get("clip_id") and (scratch / f"{row['clip_id']}.png").exists()]
    chosen = [drawn[at * len(drawn) // SHOWN] for at in range(SHOWN)] if len(drawn) > SHOWN else drawn
    shown = []
    for row in chosen:
        data = base64.b64encode((scratch / f"{row['clip_id']}.png").read_bytes()).decode()
        under = f"{escape(Path(row['source_path']).name)} at {row['start']} s"
        picture = f'<img alt="" src="data:image/png;base64,{data}">'
        shown.append(f"<figure>{picture}<figcaption>{under}</figcaption></figure>")
    return f'<div class="strips">{"".join(shown)}</div>' if shown else ""


def _planted(summary: dict[str, Any]) -> Iterable[str]:
    if not summary["planted"]:
        return
    yield "<h2>Planted defects</h2>"
    yield _soft("Files of the synthetic corpus that were made bad on purpose, and what became of their candidates.")
    lines = []
    for what, found in summary["planted"].items():
        lines.append([what, ", ".join(f"{verdict} {n}" for verdict, n in sorted(found.items()))])
    yield _table(["planted", "verdicts"], lines)


def _methods(rows: list[Row]) -> str:
    clips = [row for row in rows if row.get("clip_id")]
    lines = []
    for score, by in METHODS.items():
        names = Counter(str(row[by]) for row in clips if row.get(by))
        reasons = Counter(str(row[f"{score}_reason"]) for row in clips if row.get(f"{score}_reason"))
        lines.append([score, _listed(names) or "none", _listed(reasons)])
    return _table(["score", "computed by (clips)", "not computed because (clips)"], lines)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({n})" for name, n in sorted(counts.items()))


def _soft(html: str) -> str:
    return f'<p class="soft">{html}</p>'


def _table(head: list[str], lines: list[list[Any]]) -> str:
    def cell(tag: str, value: Any, number: bool) -> str:
        return f"<{tag}{' class=n' if number else ''}>{escape(str(value))}</{tag}>"

    numbers = [bool(lines) and isinstance(lines[0][at], int) for at in range(len(head))]
    table = [("th", head), *(("td", line) for line in lines)]
    rows = ("".join(cell(tag, *pair) for pair in zip(line, numbers, strict=True)) for tag, line in table)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
