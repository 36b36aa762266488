"""The captioning step of curation: clips that are kept so far and have no written caption get one from a model.

Answers are kept in a folder, one file a clip, named by what the model was given, its name and the prompts' version: a
stopped stage asks for nothing twice. A clip whose answers are refused, or that cannot be asked about, loses its caption
and is judged again; refused answers are left beside the manifest. It knows neither prompts nor protocols.
Try it: `pytest tests/curation/test_captioning.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from ovi import storage
from ovi.config import Captions, Settings
from ovi.curation import packed
from ovi.curation.caption_dialogue import Backend, CaptionFailed, Record, converse
from ovi.curation.caption_format import parse_answer
from ovi.curation.caption_prompts import PROMPTS, Material, Picture, Track
from ovi.curation.captions import TEMPLATE
from ovi.curation.manifest import KEPT, Row
from ovi.curation.packed import Members
from ovi.curation.select import decide
from ovi.errors import OviError, one_line
from ovi.progress import Progress

REFUSED, FAILED = "caption_refused", "caption_failed"  # reasons
STOP_AFTER = 10  # clips that fail in a row: then it is not the clips


def backend(settings: Settings, progress: Progress) -> Backend | None:
    """The captioning model of the settings; None when there is none. ConfigError when it cannot work."""
    captions = settings.curation.captions
    if captions.source == "http":
        from ovi.curation.captioner import HttpCaptioner

        return HttpCaptioner(captions, progress, settings.seed)
    if captions.source == "local":
        from ovi.curation.caption_local import LocalCaptioner

        return LocalCaptioner(captions)
    return None


def caption(
    rows: list[Row], settings: Settings, model: Backend, clips: Members, answers: str, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Give the rows their captions, in place; by clip_id, what was answered about clips whose answers were all refused.

    `clips` holds what was kept of each clip, `answers` (a folder or prefix) what was answered in earlier runs.
    OviError when the model cannot be asked at all, or when STOP_AFTER clips in a row fail.
    """
    todo = [row for row in rows if row["status"] == KEPT and row["caption_by"] == TEMPLATE]
    progress.start("captioning", len(todo), "clips")
    work = _Work(settings, model, clips, answers, progress)
    asyncio.run(work.run(todo))
    totals = summary(todo, settings.curation.captions)
    words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in totals.items() if name != "by")
    progress.note(f"captions by {model.name}: {words}")
    return work.refused


def summary(rows: list[Row], captions: Captions) -> dict[str, Any]:
    """Counts by who captioned what is kept, what was lost, and what the answers took; cost in the prices' currency."""
    tokens = {name: sum(row.get(f"caption_{name}") or 0 for row in rows) for name in ("input_tokens", "output_tokens")}
    price = tokens["input_tokens"] * captions.input_price + tokens["output_tokens"] * captions.output_price
    lost = Counter(row.get("caption_reason") for row in rows)
    return {
        "by": dict(sorted(Counter(row["caption_by"] for row in rows if row["status"] == KEPT).items())),
        "refused": lost[REFUSED],
        "failed": lost[FAILED],
        **tokens,
        "cost": round(price / 1e6, 6),
    }


class _Work:
    def __init__(self, settings: Settings, model: Backend, clips: Members, answers: str, progress: Progress) -> None:
        self._settings, self._model, self._progress = settings, model, progress
        self._clips, self._answers = clips, answers
        self.refused: dict[str, dict[str, Any]] = {}
        self._by = f"{model.name} {PROMPTS}"
        self._locks: dict[str, asyncio.Lock] = {}
        self._failed_in_a_row = 0

    async def run(self, todo: list[Row]) -> None:
        rows = iter(todo)
        workers = [asyncio.create_task(self._work(rows)) for _ in range(min(self._model.concurrency, len(todo)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self._model.close()

    async def _work(self, rows: Iterator[Row]) -> None:
        for row in rows:
            row |= await self._captioned(row)
            row |= decide(row, self._settings.curation)
            self._progress.advance(1)

    async def _captioned(self, row: Row) -> Row:
        captions = self._settings.curation.captions
        material = await asyncio.to_thread(_material, row, self._clips, captions.frames)
        key = hashlib.sha256(f"{self._by}\0{material.digest()}".encode()).hexdigest()
        place = f"{self._answers}/{key[:2]}/{key}.json"
        async with self._locks.setdefault(key, asyncio.Lock()):  # equal clips are asked about once
            record = await asyncio.to_thread(_read, place, bool(material.pictures))
            if record is None or (record.caption is None and record.reasks < captions.reasks):
                try:
                    record = await converse(self._model, material, captions.reasks)
                except CaptionFailed as error:
                    return self._failure(error)
                self._failed_in_a_row = 0
                await asyncio.to_thread(storage.write_json, place, _plain(record))
        found: Row = {
            "caption": None, "caption_by": self._by,
            "caption_input_tokens": record.input_tokens, "caption_output_tokens": record.output_tokens,
        }  # fmt: skip
        if record.caption is not None:
            return {**found, "caption": str(record.caption)}
        self.refused[row["clip_id"]] = _plain(record)
        return {**found, "caption_reason": REFUSED, "message": record.refused[-1][1]}

    def _failure(self, error: CaptionFailed) -> Row:
        self._failed_in_a_row += 1
        if self._failed_in_a_row == STOP_AFTER:
            raise OviError(
                f"captioner {self._model.name}: {STOP_AFTER} clips in a row failed, the last one with: {error}; "
                "the answers so far are kept: mend it and run the same command again"
            )
        return {"caption": None, "caption_by": self._by, "caption_reason": FAILED, "message": one_line(error)}


def _material(row: Row, clips: Members, count: int) -> Material:
    """`count` evenly spaced pictures of a clip, the first and the last among them, and its whole sound."""
    track = Track(packed.pcm(clips, row), row["sample_rate"])
    if row.get("frames") is None:
        return Material((), (), track)
    places = [int(place) for place in np.linspace(0, row["frames"] - 1, count).round()]
    pictures = tuple(Picture(picture) for picture in packed.some_frames(clips, row, places))
    return Material(pictures, tuple(place / row["fps"] for place in places), track)


def _plain(record: Record) -> dict[str, Any]:
    return vars(record) | {"caption": record.caption and str(record.caption)}


def _read(address: str, pictures: bool) -> Record | None:
    """What was answered before; None when nothing was, or when the file does not hold what _plain makes."""
    try:
        said = storage.read_json(address)
        caption = said["caption"]
        parsed = None if caption is None else parse_answer(caption, pictures=pictures, spoken=said["spoken"])
        refused = [(str(answer), str(fault)) for answer, fault in said["refused"]]
        numbers = {name: int(said[name]) for name in ("reasks", "input_tokens", "output_tokens")}
        return Record(caption=parsed, spoken=bool(said["spoken"]), refused=refused, **numbers)
    except (OviError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
