"""The curate stage: a corpus in, a folder of clips out. Sources are examined in parallel and packed in order.

    out/manifest.parquet   one row per candidate           out/report.html    the same for eyes
    out/shards/{av,pretrain,finetune}-00000.tar + .index.json                 out/summary.json   counts and figures
    out/shards/strips-00000.tar + .index.json    three small pictures of every candidate that has pictures
    out/refused/<clip_id>.json   captions of a model that were refused; what it answered is kept in <out>-captions,
                                 with curation.work in <work>/clips-captions
A clip's members are in packed.py, beside them `<clip_id>.json`. Neither the number of workers, nor how the work was
shared, nor being killed on the way changes a byte of it (parts.py). A source that fails, even by killing its process,
is a row. Both may lie in a bucket, s3://bucket/prefix (place.py).
Try it: `ovi corpus --set corpus.clips=20 --out /tmp/corpus && ovi curate --corpus /tmp/corpus --out /tmp/clips`.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovi import storage
from ovi.config import Curation, Settings
from ovi.curation import captioning, duplicates, looks, manifest, packed, parts, people, place, previews, report
from ovi.curation.caption_dialogue import Backend
from ovi.curation.captions import TEMPLATE, sidecar
from ovi.curation.counts import Ledger, summary
from ovi.curation.manifest import KEPT, PLACE, REJECTED, SETS, Row
from ovi.curation.place import MANIFEST, REFUSED, SHARDS
from ovi.curation.select import assign_splits, decide
from ovi.curation.shards import ShardReader, ShardWriter
from ovi.curation.sources import Source, failed
from ovi.errors import OviError
from ovi.progress import Progress

STRIPS = "strips"  # the set of pictures to look at
UNKNOWN = "unknown"  # how a corpus index says that nobody said


def curate(
    settings: Settings, corpus: str | Path, out: str | Path, progress: Progress, share: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Curate every file in corpus/index.jsonl into `out`, which is replaced; returns what summary.json holds.

    What was examined before, by a run that was killed or by shares, is not examined again. With `share` (i, n) only
    every n-th part from i on is examined, `out` is left alone, and the counts of parts are returned.
    Raises OviError for a network's file that is missing or is not that network, for a missing corpus, for an `out` that
    holds something else, and, after the manifest and the report are written, when nothing is kept.
    """
    looks.load(settings.curation.weights)  # a file that is none is told now, and only to find that out
    captioner = captioning.backend(settings, progress)
    corpus, out = place.address(corpus), place.address(out)
    sources = _sources(corpus)
    place.check(out)
    fresh, copies = _first_of_each(sources)
    work = parts.Work(settings, fresh, out)
    if share is not None:
        return _work_share(work, share, progress)
    work.examine(work.parts, progress)
    examined = work.rows()
    rows = [row for at, source in enumerate(sources) for row in copies.get(at) or examined[source.path]]
    made = _Clips(settings, sources, rows, packed.Folder(work.clips), captioner, progress).write(out)
    work.remove(others=True)
    return _answer(made, rows, corpus, out, progress)


def select(settings: Settings, corpus: str | Path, out: str | Path, progress: Progress) -> dict[str, Any]:
    """Decide again about the clips in `out`, from their stored scores, by the thresholds in `settings`.

    Where all that is kept now is packed already, no shard is touched: rows change, and a clip that is left out keeps
    its place, so that it can come back. Else the files of those that are not packed are examined again, they alone,
    and the shards are written anew. Raises OviError when `out` was not made from this corpus with these settings.
    """
    looks.load(settings.curation.weights)
    captioner = captioning.backend(settings, progress)
    corpus, out = place.address(corpus), place.address(out)
    sources = _sources(corpus)
    rows = manifest.rows(f"{out}/{MANIFEST}", status=None)
    _check_made(settings, sources, rows, out)
    _decide(rows, settings.curation)
    lacking = {str(row["source_path"]) for row in rows if _lacks_pixels(row, settings.curation)}
    if not lacking and not (captioner and any(_uncaptioned(row) for row in rows)):
        members = _packed(f"{out}/{SHARDS}")
        made = _Clips(settings, sources, rows, members, None, progress).write(out, keep=(SHARDS, REFUSED))
        return _answer(made, rows, corpus, out, progress)
    progress.note(f"{len(lacking)} files have clips that are kept now and were not packed; they are read again")
    work = parts.Work(settings, [source for source in _first_of_each(sources)[0] if source.path in lacking], out)
    work.examine(work.parts, progress)
    rows = _replaced(rows, work.rows())
    with tempfile.TemporaryDirectory(prefix="ovi-shards-") as old:
        layers = packed.Layers(packed.Folder(work.clips), _packed(place.here(f"{out}/{SHARDS}", old)))
        made = _Clips(settings, sources, rows, layers, captioner, progress).write(out, keep=(REFUSED,))
    work.remove()
    return _answer(made, rows, corpus, out, progress)


@dataclass
class _Clips:
    """From rows with scores to the folder that the stage leaves; `rows` are changed in place."""

    settings: Settings
    sources: list[Source]
    rows: list[Row]
    members: packed.Members
    captioner: Backend | None
    progress: Progress
    ledger: Ledger = field(init=False)

    def write(self, out: str, keep: Collection[str] = ()) -> dict[str, Any]:
        """What summary.json holds. keep: what is as it was in `out`; shards that are hold all that is kept now, at the
        places that the rows say."""
        curation = self.settings.curation
        refused = self._judge(parts.beside(self.settings, out, "captions"))
        assign_splits(self.rows, curation)
        with place.written(out, keep) as folder:
            if SHARDS not in keep:
                self._pack(f"{folder}/{SHARDS}")
            for name, said in refused.items():
                storage.write_json(f"{folder}/{REFUSED}/{name}.json", said)
            found = summary(self.sources, self.rows) | {
                "steps": self.ledger.steps,
                "captions": captioning.summary(self.rows, curation.captions),
                "people": people.summary(self.rows, curation.people),
                "settings": parts.made_by(self.settings),
            }
            storage.write_json(f"{folder}/summary.json", found)
            storage.write_bytes(f"{folder}/report.html", self._page(found).encode())
            manifest.write(f"{folder}/{MANIFEST}", self.rows)
        return found

    def _judge(self, answers: str) -> dict[str, dict[str, Any]]:
        """Thresholds, then duplicates among what they keep, then captions of what is left; refused answers by clip."""
        _decide(self.rows, self.settings.curation)
        self.ledger = Ledger(self.sources, self.rows)
        duplicates.reject(self.rows, self.settings.curation.duplicate_bits)
        self.ledger.close("duplicates")
        people.balance(self.rows, self.settings.curation.people)
        self.ledger.close("people")
        refused = {}
        if self.captioner is not None:
            refused = captioning.caption(self.rows, self.settings, self.captioner, self.members, answers, self.progress)
        self.ledger.close("captions")
        return refused

    def _pack(self, shards: str) -> None:
        """Put the kept clips into shards and note their places in the rows."""
        most = self.settings.curation.shard_mib << 20
        for row in self.rows:
            row |= dict.fromkeys(PLACE)
        for name in SETS:
            with ShardWriter(f"{shards}/{name}", most) as writer:
                for row in self.rows:
                    if row["set"] == name and row["status"] == KEPT:
                        _pack_clip(row, writer, self.members)
        with ShardWriter(f"{shards}/{STRIPS}", most) as writer:
            for name in (f"{row['clip_id']}.png" for row in self.rows if row.get("clip_id")):
                if name in self.members:
                    writer.add(name, self.members.read(name))

    def _page(self, found: dict[str, Any]) -> str:
        files = {source.path: source.file for source in self.sources}
        players = previews.make(previews.chosen(self.rows), self.members, files, self.settings.clip)
        return report.page(self.settings, self.rows, found, self.members, players)


def _packed(shards: str) -> packed.Members:
    return packed.Layers(*(ShardReader(shards, name) for name in (*SETS, STRIPS)))


def _pack_clip(row: Row, writer: ShardWriter, members: packed.Members) -> None:
    described = {
        key: row.get(key)
        for key in ("clip_id", "set", "caption", "scene", "events", "samples", "sample_rate", "licence", "attribution")
    }
    if row.get("frames") is not None:
        described |= {key: row[key] for key in ("width", "height", "frames", "fps")}
    for column, kinds in (("frames", packed.PICTURES), ("pcm", packed.SOUNDS)):
        for name in (f"{row['clip_id']}.{kind}" for kind in kinds):
            if name in members:
                place = writer.add(name, members.read(name))
                row |= {"shard": place.shard, f"{column}_offset": place.offset, f"{column}_length": place.length}
    if row["pcm_length"] is None or (row.get("frames") is not None and row["frames_length"] is None):
        raise OviError(f"{row['clip_id']}: what was examined of it is gone; run the curate stage again")
    place = writer.add(f"{row['clip_id']}.json", json.dumps(described, sort_keys=True, ensure_ascii=False).encode())
    row |= {"json_offset": place.offset, "json_length": place.length}


def _work_share(work: parts.Work, share: tuple[int, int], progress: Progress) -> dict[str, Any]:
    first, every = share
    mine = work.parts[first::every]
    work.examine(mine, progress)
    counts = {"parts": len(mine), "done": len(work.done()), "of": len(work.parts)}
    progress.result(**counts)
    return counts


def _answer(found: dict[str, Any], rows: list[Row], corpus: str, out: str, progress: Progress) -> dict[str, Any]:
    if not any(row["status"] == KEPT for row in rows):
        reasons = ", ".join(f"{reason} {n}" for reason, n in Counter(row["reason"] for row in rows).most_common())
        raise OviError(f"{corpus}: no clip was kept ({reasons}); {out}/report.html says why for each")
    counts = {name: sum(found["kept"][name].values()) for name in SETS}
    progress.result(clips=out, **counts, figures=found["figures"])
    return found


def _decide(rows: list[Row], curation: Curation) -> None:
    for row in rows:
        if row.get("clip_id") is not None:
            row |= decide(row, curation) | {"duplicate_of": None}


def _uncaptioned(row: Row) -> bool:
    return bool(row["status"] == KEPT and row["caption_by"] == TEMPLATE)


def _lacks_pixels(row: Row, curation: Curation) -> bool:
    """Kept, but not packed; or too small as a whole, and now perhaps not."""
    if row["clip_id"] is None:
        return row["reason"] == "too_small" and (row["pixels"] or 0) >= curation.min_pixels
    return row["status"] == KEPT and row["shard"] is None


def _replaced(rows: list[Row], examined: dict[str, list[Row]]) -> list[Row]:
    """The rows with those of the sources that were examined again in their places; captions by a model stay."""
    written = {
        row["clip_id"]: {name: row[name] for name in manifest.COLUMNS if name.startswith("caption")}
        | {"message": row["message"]}
        for row in rows
        if row["clip_id"] is not None
    }
    for row in (row for found in examined.values() for row in found):
        if row["caption_by"] == TEMPLATE:
            row |= written.get(row["clip_id"], {})
    changed: list[Row] = []
    for row in rows:
        changed += examined.get(row["source_path"], [row])
        if row["source_path"] in examined:
            examined[row["source_path"]] = []
    return changed


def _check_made(settings: Settings, sources: list[Source], rows: list[Row], out: str) -> None:
    asked, made = parts.made_by(settings), storage.read_json(f"{out}/summary.json").get("settings", {})
    if differs := [name for name in asked if asked[name] != made.get(name)]:
        raise OviError(f"{out}: was made with another {differs[0]}, which changes clips; run `ovi curate` again")
    if {(row["source_path"], row["source_sha256"]) for row in rows} != {(s.path, s.sha256) for s in sources}:
        raise OviError(f"{out}: was made from other files than the corpus lists; run `ovi curate` again")


def _sources(corpus: str) -> list[Source]:
    """The corpus index, sorted by path. Its paths are relative to the corpus, absolute, or addresses in a bucket."""
    listed = frozenset(storage.list_files(corpus)) if storage.is_remote(corpus) else frozenset()
    index = f"{corpus}/index.jsonl"
    if not storage.exists(index):
        raise OviError(f"{index}: no such file; run `ovi corpus --out {corpus}` first")

    def exists(address: str) -> bool:
        return address in listed if listed and address.startswith(f"{corpus}/") else storage.exists(address)

    found = []
    for number, line in enumerate(storage.read_bytes(index).decode(errors="replace").splitlines(), 1):
        try:
            item = json.loads(line)
            known = {name: item[name] for name in ("path", "sha256", "bytes", "kind", "licence", "provenance")}
            file = _file(corpus, known["path"])
        except (ValueError, KeyError, TypeError):
            raise OviError(f"{index}:{number}: not an entry of a corpus index; run `ovi corpus` again") from None
        said = {name: None if known[name] == UNKNOWN else known[name] for name in ("licence", "provenance")}
        found.append(Source(file=file, sidecar=sidecar(file, exists), **(known | said)))
    if not found:
        raise OviError(f"{index}: lists no files; there is nothing to curate")
    return sorted(found, key=lambda source: source.path)


def _file(corpus: str, path: str) -> str:
    if storage.is_remote(path):
        return path
    return f"{corpus}/{path}" if storage.is_remote(corpus) else str((Path(corpus) / path).resolve())


def _first_of_each(sources: list[Source]) -> tuple[list[Source], dict[int, list[Row]]]:
    """The sources to examine, and the rows of those, by place, that have the content of one before them."""
    first: dict[str, Source] = {}
    copies: dict[int, list[Row]] = {}
    for at, source in enumerate(sources):
        same = first.setdefault(source.sha256, source)
        if same is not source:
            rows = failed(source, REJECTED, duplicates.REASON, f"same content as {same.path}")
            copies[at] = [{**row, "duplicate_of": same.path} for row in rows]
    return list(first.values()), copies
