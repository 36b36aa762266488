"""A benchmark's generated clips and real sounds as files: which there are, which are missing, and what is in them.

Of item NAME are read NAME.mp4 and, where it lies beside it, NAME.wav or NAME.flac; without one, the sound of the mp4.
What `ovi generate --table` made of the benchmark's table is found by the number of its row. Files are decoded when a
metric asks for them, so a benchmark of any size fits into memory.
Try it: `ovi benchmark score seed-tts --data seedtts_testset --clips out/clips`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovi.errors import OviError
from ovi.evaluation.listening import Real
from ovi.evaluation.readers.benchmark import SOUNDS, Benchmark, Item
from ovi.evaluation.take import Picture, Sound
from ovi.media import decode
from ovi.media.audio import to_mono
from ovi.media.probe import probe

ABSENT = "no such file"
NUMBERED = re.compile(r"(\d{4,})_.*\.mp4")  # as `ovi generate --table` names them


@dataclass(frozen=True)
class Filed:
    """A take (see ovi.evaluation.take) in files; None: there is no such file."""

    item: Item
    video: Path | None
    sounding: Path | None
    seconds: float | None  # from its beginning that count; None: all

    @property
    def name(self) -> str:
        return self.item.name

    @property
    def caption(self) -> str:
        return self.item.caption

    @property
    def speech(self) -> str:
        return self.item.speech

    @property
    def sound(self) -> str:
        return self.item.sound

    @property
    def partner(self) -> str:
        return self.item.clip_id

    @property
    def fps(self) -> float:
        rate = probe(_there(self.video)).pictures().average_rate
        if not rate:
            raise OviError(f"{self.video}: does not say how many frames a second it has")
        return float(rate)

    @property
    def rate(self) -> int:
        return probe(_there(self.sounding)).sound().rate

    @property
    def frames(self) -> Picture:
        return np.stack([frame.rgb for frame in decode.frames(_there(self.video))])

    @property
    def audio(self) -> Sound:
        return heard(_there(self.sounding), self.seconds)[0]


@dataclass(frozen=True)
class RealSounds(Mapping[str, Real]):
    """The real sounds of a benchmark by their names, decoded when they are asked for."""

    paths: Mapping[str, Path]
    seconds: float | None

    def __getitem__(self, name: str) -> Real:
        return heard(self.paths[name], self.seconds)

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class Gathered:
    """The files of a benchmark: `missing` are those that are not there or cannot be opened, of `expected`."""

    takes: tuple[Filed, ...]
    reference: RealSounds
    missing: tuple[str, ...]
    expected: int

    def check(self, most: float) -> None:
        """Raises OviError with the list where a greater share than `most` is missing."""
        if len(self.missing) > most * self.expected:
            raise OviError(
                f"{len(self.missing)} of {self.expected} files are missing or unreadable, more than "
                f"evaluation.max_missing={most:g} allows: {'; '.join(self.missing)}"
            )


def gather(benchmark: Benchmark, folder: Path) -> Gathered:
    """The benchmark's clips in `folder`, and its real sounds. Raises OviError when there is no such folder."""
    numbered = _numbered(folder)
    takes: list[Filed] = []
    real: dict[str, Path] = {}
    missing: list[str] = []
    for number, item in enumerate(benchmark.items):
        video = _first([folder / f"{item.name}.mp4", numbered.get(number)])
        sounding = _first([*(folder / f"{item.name}{end}" for end in SOUNDS), video])
        takes.append(Filed(item, video, sounding, benchmark.seconds))
        wrong = _wrong(video, True) if benchmark.pictures else None
        missing += [f"{item.name}: {reason}" for reason in [wrong or _wrong(sounding, False)] if reason]
        if item.reference is None:
            continue
        wrong = _wrong(_first([item.reference]), False)
        missing += [f"real {item.reference.name}: {wrong}"] if wrong else []
        real |= {} if wrong else {item.clip_id: item.reference}
    expected = len(takes) + sum(item.reference is not None for item in benchmark.items)
    return Gathered(tuple(takes), RealSounds(real, benchmark.seconds), tuple(missing), expected)


def heard(path: Path, seconds: float | None) -> Real:
    """Mono float32 [N] and its rate, cut after `seconds`."""
    sound = decode.audio(path)
    kept = None if seconds is None else round(seconds * sound.rate)
    return to_mono(sound.samples)[:kept], sound.rate


def _numbered(folder: Path) -> dict[int, Path]:
    """The files that are named as rows of a table are, by their rows."""
    if not folder.is_dir():
        raise OviError(f"{folder}: no such folder; give the one that holds the generated clips")
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if match := NUMBERED.fullmatch(path.name):
            before = found.setdefault(int(match[1]), path)
            if before != path:
                raise OviError(f"{folder}: {before.name} and {path.name} are both of row {int(match[1])}; keep one")
    return found


def _first(paths: Sequence[Path | None]) -> Path | None:
    return next((path for path in paths if path is not None and path.is_file()), None)


def _wrong(path: Path | None, pictures: bool) -> str | None:
    """Why a file cannot be used, as far as its header tells."""
    if path is None:
        return ABSENT
    try:
        info = probe(path)
        _ = info.pictures() if pictures else info.sound()
    except OviError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


def _there(path: Path | None) -> Path:
    if path is None:
        raise OviError(ABSENT)
    return path
