"""The report of a curation: what was kept, what was left out and why, the scores with their thresholds, some pictures.

One HTML file that needs nothing else. It is given rows, strips of pictures and small clips; it decides nothing.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from ovi.config import Settings
from ovi.curation import packed
from ovi.curation.histogram import histogram
from ovi.curation.manifest import ERROR, KEPT, REJECTED, SETS, SPLITS, Row
from ovi.curation.select import MIN_CHANGE
from ovi.curation.sync import FRAME_MS

SHOWN = 4  # strips of pictures for each verdict
METHODS = {
    "cut_score": "cut_by", "motion": "motion_by", "flow": "flow_by", "aesthetic": "aesthetic_by", "faces": "faces_by",
    "sync_score": "sync_by", "lip": "lip_by", "caption": "caption_by",
}  # fmt: skip

REASONS = {
    "static": "neither flows nor changes enough",
    "silent": "mean volume too low",
    "no_audio": "has no sound stream",
    "no_video": "has no picture stream",
    "plain": "too little pleasing to look at",
    "out_of_sync": "picture and sound agree best at an offset that is too large",
    "unsure_sync": "lips and voice agree at no offset much better than at others",
    "quota": "there are more like it, by the number of people, than were asked for",
    "too_short": "shorter than one clip",
    "short": "shorter than one clip",
    "cut_in_window": "long enough, but no window between its cuts is",
    "too_small": "too few pixels inside its margins",
    "bad_caption": "its caption file breaks the tag grammar",
    "caption_refused": "no caption that a model wrote for it follows the grammar",
    "caption_failed": "the captioning model gave no answer for it",
    "duplicate": "the same as another file, or as another clip",
    "no_licence": "nobody says what it may be used for",
    "interlaced": "interlaced pictures",
    "hdr": "HDR pictures",
    "unreadable": "cannot be read as media",
    "truncated": "ends before its header says",
    "crashed": "failed while it was examined",
}


def page(
    settings: Settings, rows: list[Row], summary: dict[str, Any], members: packed.Members, players: dict[str, bytes]
) -> str:
    """The whole page. `members` holds `<clip_id>.png` strips, `players` MP4 or M4A by clip_id."""
    shown = _Shown(members, players)
    kept = [row for row in rows if row["status"] == KEPT]
    lost = [row for row in rows if row["status"] != KEPT]
    body = [
        "<h1>Curated clips</h1>",
        f'<p class="soft">{summary["sources"]} files gave {len(rows)} candidates; {len(kept)} were kept. '
        f"Profile {escape(settings.profile)}, manifest.parquet has every candidate with its scores.</p>",
        _tiles(summary, lost),
        "<h2>Kept</h2>", _kept_table(summary), _coded(kept), shown.strips(kept), shown.players(kept),
        "<h2>Left out, and why</h2>", *_left_out(lost, shown),
        "<h2>Step by step</h2>", _steps(summary),
        "<h2>Licences</h2>", _table(["licence", "clips kept"], sorted(map(list, summary["licences"].items()))),
        *_people(summary), *_planted(summary),
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
    late, unheard = (curation.max_offset_frames + 0.5) * FRAME_MS, "below it picture and sound have no common cause"
    pleasing = [] if curation.min_aesthetic is None else [curation.min_aesthetic]
    cards: list[tuple[str, str, str, list[float], str]] = [
        ("motion", "Motion", "mean optical flow in half a second", [curation.min_motion], "diagonals"),
        ("change", "Change", "how far grey levels stray in time; static is below both", [MIN_CHANGE], "of full scale"),
        ("flow", "Flow", "motion as RAFT sees it", [curation.min_flow], "diagonals"),
        ("aesthetic_mean", "Looks", "mean of a picture a second, about 1 to 10", pleasing, ""),
        ("volume_db", "Mean volume", "full scale is 0 dB", [curation.min_volume_db], "dB"),
        ("sync_score", "Sync score", unheard, [curation.min_sync_score], ""),
        ("sync_offset_ms", "Sync offset", "positive: sound late; only where the score counts", [-late, late], "ms"),
        ("lip_confidence", "Lips", "SyncNet's confidence where a face was followed", [curation.min_confidence], ""),
        ("lip_offset_ms", "Lip offset", "positive: sound late", [-late, late], "ms"),
        ("psnr_db", "Coding", "PSNR of what is packed against what was cut", [], "dB"),
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


def _coded(kept: list[Row]) -> str:
    codings = ", ".join(sorted({row["coding"] for row in kept if row.get("coding")}))
    psnr = sorted(row["psnr_db"] for row in kept if row.get("psnr_db") is not None)
    if not psnr:
        return _soft(f"Coding: {codings}, exact.") if codings else ""
    return _soft(f"Coding: {codings}. PSNR {psnr[0]:.1f} dB at least, {psnr[len(psnr) // 2]:.1f} dB in the middle.")


def _steps(summary: dict[str, Any]) -> str:
    columns = ("step", "inputs", "kept", "rejected", "errors")
    return _table(list(columns), [[step[name] for name in columns] for step in summary["steps"]])


def _left_out(lost: list[Row], shown: _Shown) -> Iterable[str]:
    if not lost:
        yield _soft("Nothing was.")
    for reason, count in Counter(str(row["reason"]) for row in lost).most_common():
        these = [row for row in lost if row["reason"] == reason]
        said = next((row["message"] for row in these if row.get("message")), None)
        yield f'<h3>{escape(reason)} <span class="soft">{count}</span></h3>'
        yield _soft(escape(REASONS.get(reason, "")) + (f". For example: <code>{escape(said)}</code>" if said else ""))
        yield shown.strips(these)
        yield shown.players(these)


@dataclass(frozen=True)
class _Shown:
    """Where pictures and small clips come from."""

    members: packed.Members
    media: dict[str, bytes]

    def strips(self, rows: list[Row]) -> str:
        """A few strips of pictures, spread over the rows that have one."""
        drawn = [row for row in rows if row.get("clip_id") and f"{row['clip_id']}.png" in self.members]
        chosen = [drawn[at * len(drawn) // SHOWN] for at in range(SHOWN)] if len(drawn) > SHOWN else drawn
        data = [_data("image/png", self.members.read(f"{row['clip_id']}.png")) for row in chosen]
        return _figures((row, f'<img alt="" src="{url}">') for row, url in zip(chosen, data, strict=True))

    def players(self, rows: list[Row]) -> str:
        """A player for each row whose clip is there."""
        return _figures((row, self._player(row)) for row in rows if row.get("clip_id") in self.media)

    def _player(self, row: Row) -> str:
        tag, kind = ("video", "video/mp4") if row.get("frames") else ("audio", "audio/mp4")
        return f'<{tag} controls preload="metadata" src="{_data(kind, self.media[row["clip_id"]])}"></{tag}>'


def _figures(shown: Iterable[tuple[Row, str]]) -> str:
    parts = []
    for row, html in shown:
        under = f"{escape(Path(row['source_path']).name)} at {row['start']} s"
        if row.get("duplicate_of"):
            under += f", the same as {escape(row['duplicate_of'])}"
        parts.append(f"<figure>{html}<figcaption>{under}</figcaption></figure>")
    return f'<div class="strips">{"".join(parts)}</div>' if parts else ""


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _people(summary: dict[str, Any]) -> Iterable[str]:
    if not summary["people"]:
        return
    yield "<h2>People</h2>"
    yield _soft("Kept clips by how many faces they show, and how many were left out so that no kind is too common.")
    lines = [
        [kind, found["kept"], f"{found['share']:.0%}", f"{found['most']:.0%}", found["left_out"]]
        for kind, found in summary["people"].items()
    ]
    yield _table(["people", "kept", "share", "at most", "left out"], lines)


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
