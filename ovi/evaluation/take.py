"""A generated clip as metrics see it: its picture and sound, the prompt it was made for, what it is compared with.

It does not know where clips come from: `Made` holds them in memory, `ovi.evaluation.filed` reads them from files.
Try it: `python -c "from ovi.evaluation.take import said; print(said('A man says <S>hello<E>.'))"`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Sound = NDArray[np.float32]
SPEECH = re.compile(r"<S>(.*?)<E>", re.S)
HEARD = re.compile(r"<AUDCAP>(.*?)<ENDAUDCAP>", re.S)


class Take(Protocol):
    """One clip. Picture or sound that cannot be had raises OviError when it is asked for."""

    @property
    def name(self) -> str: ...

    @property
    def caption(self) -> str:
        """The prompt; clips of one prompt go together."""

    @property
    def speech(self) -> str:
        """What the prompt has said, "" where nothing is."""

    @property
    def sound(self) -> str:
        """What the prompt says is heard, "" where it does not."""

    @property
    def partner(self) -> str:
        """The real clip that the prompt was written for, by its name among the references; "" where there is none."""

    @property
    def fps(self) -> float: ...

    @property
    def rate(self) -> int:
        """Samples a second of `audio`."""

    @property
    def frames(self) -> Picture:
        """uint8 [T, H, W, 3]."""

    @property
    def audio(self) -> Sound:
        """float32 [N], mono."""


@dataclass(frozen=True)
class Made:
    """A clip in memory, of a prompt in Ovi's grammar."""

    name: str
    caption: str
    partner: str
    frames: Picture
    audio: Sound
    fps: float = 24
    rate: int = 16_000

    @property
    def speech(self) -> str:
        return said(self.caption)

    @property
    def sound(self) -> str:
        return told(self.caption)


def said(caption: str) -> str:
    """What a caption has said in it."""
    return " ".join(part.strip() for part in SPEECH.findall(caption))


def told(caption: str) -> str:
    """What a caption says is heard, where that is set apart; else all of it, without tags."""
    apart = HEARD.findall(caption)
    return " ".join(apart) if apart else re.sub(r"<[A-Z]+>", "", caption)
