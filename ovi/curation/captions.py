"""Captions with tags: `what is seen, <S>speech<E>. <AUDCAP>what is heard<ENDAUDCAP>` (paper 3.3), strictly parsed.

A caption comes from a file beside the source, or else from a model (captioning.py) or from a template filled with what
was measured; the manifest says which. It does not know what is in the picture.
Try it: `python -c "from ovi.curation.captions import parse; print(parse('A cat. <AUDCAP>Purring.<ENDAUDCAP>'))"`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ovi import storage
from ovi.errors import OviError, one_line

SIDECAR, TEMPLATE = "sidecar", "template-v1"
SPEECH, SPEECH_END, SOUND, SOUND_END = "<S>", "<E>", "<AUDCAP>", "<ENDAUDCAP>"
_TOKEN = re.compile("(<S>|<E>|<AUDCAP>|<ENDAUDCAP>|[<>])")


class CaptionError(OviError):
    """A caption that breaks the grammar; the message names the first thing that is wrong."""


@dataclass(frozen=True)
class Caption:
    """`visual` keeps its <S>speech<E> tags; `sound` is the text between the sound tags. str() is the caption again."""

    visual: str
    sound: str

    @property
    def speech(self) -> list[str]:
        """What is said, in order."""
        return [said.partition(SPEECH_END)[0] for said in self.visual.split(SPEECH)[1:]]

    def __str__(self) -> str:
        return f"{self.visual} {SOUND}{self.sound}{SOUND_END}".strip()


def parse(text: str) -> Caption:
    """The parts of a caption; white space is collapsed. CaptionError when it breaks the grammar.

    The grammar: text, in which balanced, not nested <S>...<E> hold speech that is not empty; then, at the very end,
    exactly one <AUDCAP>...<ENDAUDCAP>, not empty and without tags inside. Angle brackets occur in tags only.
    """
    opened: str | None = None
    bodies: dict[str, str] = {}
    parts = _TOKEN.split(" ".join(text.split()))
    for token, body in zip(parts[1::2], parts[2::2], strict=True):
        if token in "<>":
            raise CaptionError(f"caption: a stray {token!r}; angle brackets belong to {SPEECH}, {SOUND} and their ends")
        if SOUND_END in bodies:
            raise CaptionError(f"caption: {token} after {SOUND_END}, which ends a caption")
        if token in (SPEECH, SOUND):
            if opened:
                raise CaptionError(f"caption: {token} inside {opened}")
            if not body.strip():
                raise CaptionError(f"caption: nothing said or heard after {token}")
            opened = token
        else:
            start = SPEECH if token == SPEECH_END else SOUND
            if opened != start:
                raise CaptionError(f"caption: {token} without {start} before it")
            opened = None
        bodies[token] = body
    if opened:
        raise CaptionError(f"caption: {opened} is never closed")
    if SOUND not in bodies:
        raise CaptionError(f"caption: no {SOUND}...{SOUND_END} at its end")
    if bodies[SOUND_END]:
        raise CaptionError(f"caption: text after {SOUND_END}")
    visual = "".join(parts[: parts.index(SOUND)])
    return Caption(visual.strip(), bodies[SOUND].strip())


def sidecar(media: str, exists: Callable[[str], bool] = storage.exists) -> str | None:
    """Address of what describes a media file: `<stem>.json` beside it, else `<stem>.txt` (a caption alone), if any."""
    folder, slash, name = media.rpartition("/")
    stem = f"{folder}{slash}{name.rpartition('.')[0] or name}"
    return next((address for address in (f"{stem}.json", f"{stem}.txt") if exists(address)), None)


def read_sidecar(address: str | None) -> dict[str, Any]:
    """What a sidecar says; {} without one. CaptionError when it cannot be understood."""
    if address is None:
        return {}
    name = address.rpartition("/")[2]
    try:
        text = storage.read_bytes(address).decode()
        if name.endswith(".txt"):
            return {"caption": text}
        values = json.loads(text)
    except (OSError, ValueError) as error:
        raise CaptionError(f"{name}: cannot be read: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise CaptionError(f"{name}: must hold an object, holds {type(values).__name__}")
    return values


def video_words(brightness: float, flow: float) -> str:
    """A visual sentence from mean luma (0..1) and motion (frame diagonals in half a second)."""
    light = "dark" if brightness < 0.2 else "bright" if brightness > 0.6 else "softly lit"
    pace = "very little motion" if flow < 0.003 else "fast motion" if flow > 0.05 else "motion"
    return f"A {light} video clip with {pace}."


def sound_words(volume_db: float) -> str:
    """A sound sentence from mean volume (dB of full scale)."""
    return "Quiet sound." if volume_db < -35 else "Loud sound." if volume_db > -18 else "Sound."
