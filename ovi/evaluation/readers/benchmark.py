"""A benchmark as its readers give it: what is to be generated, and what is known about each of it.

Readers look at names and texts only, never at media. It does not know which model is asked, nor how it is scored.
Try it: `ovi benchmark table verse-bench --data verse_bench --out prompts.csv`.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovi.errors import OviError

SOUNDS = (".wav", ".flac")


@dataclass(frozen=True)
class Item:
    """One clip to generate."""

    name: str  # of the generated file, without its ending
    caption: str  # the prompt in Ovi's grammar
    speech: str = ""  # what is said
    sound: str = ""  # what is heard
    scene: str | None = None  # the part of the benchmark it belongs to
    image: Path | None = None  # the first frame to start from
    reference: Path | None = None  # its real sound

    @property
    def seed(self) -> None:
        """That of a file is not known."""

    @property
    def clip_id(self) -> str:
        return self.reference.stem if self.reference else ""


@dataclass(frozen=True)
class Benchmark:
    """A published set of prompts, with its protocol."""

    name: str
    items: tuple[Item, ...]
    pictures: bool  # whether clips have any; else sound alone is generated
    seconds: float | None = None  # of the sounds, from their beginning, that count; None: all
    paper: tuple[str, ...] = ()  # metrics for which the paper's tables hold on this set

    @property
    def protocol(self) -> str:
        """For the identities of metrics."""
        length = "" if self.seconds is None else f", the first {self.seconds:g} s"
        return f"{self.name}: {len(self.items)} clips{length}"


def prompt(seen: str, speech: str, sound: str) -> str:
    """In Ovi's grammar (paper 3.4): what is seen, <S>said<E>, and at the end what is <AUDCAP>heard<ENDAUDCAP>."""
    said, heard = f"<S>{speech}<E>" if speech else "", f"<AUDCAP>{sound}<ENDAUDCAP>" if sound else ""
    return " ".join(part for part in (seen, said, heard) if part)


def checked(folder: Path, items: Sequence[Item]) -> tuple[Item, ...]:
    """The items, if their names can be those of files. Raises OviError, also where there are none."""
    if not items:
        raise OviError(f"{folder}: no items there; give the folder that holds the benchmark")
    for item in items:
        if item.name != Path(item.name).name or item.name in ("", ".", ".."):
            raise OviError(f"{folder}: {item.name!r} is no name of a file; the benchmark is damaged")
    twice = next((name for name, count in Counter(item.name for item in items).items() if count > 1), None)
    if twice is not None:
        raise OviError(f"{folder}: {twice!r} is there twice; the benchmark is damaged")
    return tuple(items)


def table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV with a header that has `columns`. Raises OviError naming the column or the line that is not so."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or [])]
            if missing:
                raise OviError(f"{path}: has no column {missing[0]}; a header with {', '.join(columns)} is expected")
            rows = []
            for row in reader:
                if None in row or any(row[column] is None for column in columns):
                    raise OviError(f"{path}, line {reader.line_num}: not as many cells as the header has")
                rows.append({column: row[column].strip() for column in columns})
            return rows
    except FileNotFoundError:
        raise OviError(f"{path}: no such file; give the folder that holds the benchmark") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise OviError(f"{path}: not a CSV in UTF-8 ({error})") from None


def sound_of(folder: Path, name: str) -> Path:
    """The sound file of a name; where there is none, the one that should be there."""
    return next(
        (path for path in (folder / f"{name}{end}" for end in SOUNDS) if path.is_file()), folder / f"{name}.wav"
    )
