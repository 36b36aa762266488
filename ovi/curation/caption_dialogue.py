"""The talk with a captioning model about one clip: are words heard, then the caption; what is refused is asked again.

A model contradicts itself when its caption has speech that it did not hear before, or none of what it did: then it gets
the other question, so that it is never pressed to invent speech. It knows models as a Backend, and neither rows nor
files.
Try it: `pytest tests/curation/test_caption_dialogue.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from ovi.curation.caption_format import Disagreement, parse_answer, parse_heard
from ovi.curation.caption_prompts import Material, Turn, again, describe, listen
from ovi.curation.captions import Caption, CaptionError
from ovi.errors import OviError, one_line

HEARD_TOKENS, CAPTION_TOKENS = 16, 1024  # longest answers

T = TypeVar("T")


class CaptionFailed(OviError):
    """The model cannot be asked about this clip; others may do."""


@dataclass(frozen=True)
class Answer:
    """What a model wrote. `whole` is false when it was cut off; tokens are 0 where they are not counted."""

    text: str
    whole: bool
    input_tokens: int
    output_tokens: int


class Backend(Protocol):
    """A captioning model."""

    name: str  # what the manifest calls it
    concurrency: int  # clips it is asked about at once

    async def ask(self, turns: list[Turn], max_tokens: int) -> Answer:
        """Its answer. CaptionFailed when there is none for this clip, another OviError when there is none for any."""

    async def close(self) -> None: ...


@dataclass
class Record:
    """What came of a clip: a caption, or none; the answers that were refused with the reason; what all of them took."""

    reasks: int  # how often a question could be asked again
    caption: Caption | None = None
    spoken: bool = False
    refused: list[tuple[str, str]] = field(default_factory=list)  # (answer, fault)
    input_tokens: int = 0
    output_tokens: int = 0


async def converse(backend: Backend, material: Material, reasks: int) -> Record:
    """Ask for a clip's caption; a question is asked `1 + reasks` times at most. Errors are those of Backend.ask."""
    record = Record(reasks)
    turns = listen(material)
    for _ in range(1 + reasks):
        try:
            record.spoken = await _taken(backend, record, turns, HEARD_TOKENS, parse_heard)
            break
        except CaptionError as fault:
            turns = again(listen(material), record.refused[-1][0], one_line(fault))
    else:
        return record
    turns = describe(material, record.spoken)
    for _ in range(1 + reasks):
        try:
            record.caption = await _taken(backend, record, turns, CAPTION_TOKENS, _parser(material, record.spoken))
            break
        except Disagreement:
            record.spoken = not record.spoken
            turns = describe(material, record.spoken)
        except CaptionError as fault:
            turns = again(describe(material, record.spoken), record.refused[-1][0], one_line(fault))
    return record


def _parser(material: Material, spoken: bool) -> Callable[[str], Caption]:
    return lambda text: parse_answer(text, pictures=bool(material.pictures), spoken=spoken)


async def _taken(
    backend: Backend, record: Record, turns: list[Turn], max_tokens: int, parse: Callable[[str], T]
) -> T:  # fmt: skip
    """The answer as `parse` takes it. A refused one is recorded, and its CaptionError raised."""
    answer = await backend.ask(turns, max_tokens)
    record.input_tokens += answer.input_tokens
    record.output_tokens += answer.output_tokens
    try:
        if not answer.whole:
            raise CaptionError(f"it was cut off after {max_tokens} tokens; be shorter")
        return parse(answer.text)
    except CaptionError as fault:
        record.refused.append((answer.text, one_line(fault)))
        raise
