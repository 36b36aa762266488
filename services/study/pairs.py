"""From a folder of models to clips that differ in nothing but what the models made.

    PAIRS/MODEL/ITEM.mp4      clips of one file name, in the folders of two or more models, are compared

The clips of one item are made equally long, large and loud, and written again, so that no name, date, tag, size of
picture or level tells whose they are. Attention checks are rendered: a good clip beside one that is plainly damaged.
It knows no raters and no votes. Try it: `pytest tests/services/study/test_pairs.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ovi import storage
from ovi.errors import OviError
from ovi.media import cut, decode, encode
from ovi.media.audio import peak_db, resample, to_mono
from ovi.media.probe import MediaError, MediaInfo, probe
from ovi.progress import Progress
from ovi.synthetic.scenes import render
from services.study.design import Comparison
from services.study.loudness import lufs

FORMAT = 1  # of the prepared clips; part of their names
SUFFIXES = {".mp4", ".mov", ".mkv", ".webm"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of a model: it becomes part of a metric's name
RATE = 48000
LOUDNESS, PEAK_DB = -23.0, -1.0  # LUFS of every clip (EBU R128), lower where a clip of the item would pass the peak
CHECK_S = 2.0  # an attention check lasts at least this long
CHECKS = (("hammer", "late", "sync"), ("bounce", "silent", "audio"), ("slide", "coarse", "video"),
          ("mouth", "noise", "audio"))  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One clip is plainly better: asked `question`, an attentive rater names it."""

    kind: str
    question: str
    good: str  # names of prepared clips
    bad: str
    seconds: float


@dataclass(frozen=True)
class Pairs:
    """What there is to compare. clips[item][model] is the name of a prepared clip, seconds[item] how long it lasts."""

    clips: dict[str, dict[str, str]]
    seconds: dict[str, float]
    checks: list[Check]

    @property
    def comparisons(self) -> list[Comparison]:
        return [
            Comparison(item, first, second)
            for item, models in sorted(self.clips.items())
            for first, second in combinations(sorted(models), 2)
        ]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Pairs:
        return cls(record["clips"], record["seconds"], [Check(**check) for check in record["checks"]])


@dataclass(frozen=True)
class _Box:
    """What the clips of an item have in common."""

    width: int
    height: int
    seconds: Fraction


def prepare(folder: Path, out: Path, progress: Progress) -> Pairs:
    """Writes the clips of `folder` and the checks into `out`; what is there already is not made again.

    Raises OviError when there is nothing to compare, MediaError for a clip that cannot be used.
    """
    found = _found(folder)
    progress.start("preparing clips", sum(map(len, found.values())) + 2 * len(CHECKS), "clips")
    clips: dict[str, dict[str, str]] = {}
    seconds: dict[str, float] = {}
    for item, paths in sorted(found.items()):
        clips[item], box = _item(paths, out, progress)
        seconds[item] = float(box.seconds)
    longest = max(CHECK_S, *seconds.values())
    checks = [_check(number, min(box.width, box.height), longest, out, progress) for number in range(len(CHECKS))]
    return Pairs(clips, seconds, checks)


def _found(folder: Path) -> dict[str, dict[str, Path]]:
    """{item: {model: path}} of every item that two models or more have."""
    if not folder.is_dir():
        raise OviError(f"{folder}: no such folder; make one folder a model in it, with clips of equal names")
    items: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("*/*")):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        model, item = path.parent.name, path.stem
        if not NAME.fullmatch(model):
            raise OviError(f"{path.parent}: a model's name may have letters, digits and . _ - only; rename the folder")
        if model in items.setdefault(item, {}):
            raise OviError(f"{path}: {item} is there twice; keep one")
        items[item][model] = path
    shared = {item: paths for item, paths in items.items() if len(paths) > 1}
    if not shared:
        raise OviError(f"{folder}: no two models in it have a clip of one name; the layout is MODEL/ITEM.mp4")
    return shared


def _item(paths: dict[str, Path], out: Path, progress: Progress) -> tuple[dict[str, str], _Box]:
    """The prepared clips of one item by model. One is decoded for its length and level, then again to be written."""
    infos = {model: probe(path) for model, path in paths.items()}
    pictures = [info.pictures() for info in infos.values()]
    seconds = min(_length(paths[model], info) for model, info in infos.items())
    box = _Box(max(p.width for p in pictures), max(p.height for p in pictures), seconds)
    sounds = {model: _sound(path, infos[model], seconds) for model, path in paths.items()}
    gains = _gains(sounds)
    names = {}
    for model, path in paths.items():
        names[model] = _name(storage.sha256(path), asdict(box), round(gains[model], 3))
        if not (out / names[model]).exists():
            rate = _grid(infos[model])
            frames = max(1, int(seconds * rate))
            shown = cut.pictures(
                decode.frames(path, infos[model]), infos[model].pictures().start, rate, frames, str(path)
            )
            _write(out / names[model], (_fit(picture, box) for picture in shown), rate, sounds[model] * gains[model])
        progress.advance()
    return names, box


def _length(path: Path, info: MediaInfo) -> Fraction:
    """Until the last picture ends."""
    end = info.pictures().start
    for frame in decode.frames(path, info):
        end = frame.end
    return end - info.pictures().start


def _grid(info: MediaInfo) -> int:
    return max(1, round(info.pictures().average_rate or 24))


def _sound(path: Path, info: MediaInfo, seconds: Fraction) -> NDArray[np.float32]:
    """[N] or [N, 2] at RATE from the first picture on; silence where there is none."""
    count = int(seconds * RATE)
    try:
        whole = decode.audio(path, info)
    except MediaError as error:
        if error.reason != "no_audio":
            raise
        return np.zeros(count, np.float32)
    samples = whole.samples if whole.samples.shape[1] == 2 else to_mono(whole.samples)
    samples = resample(samples, whole.rate, RATE)
    skip = round((info.pictures().start - whole.start) * RATE)
    early = samples[max(skip, 0) :]
    margins = [(max(-skip, 0), count)] + [(0, 0)] * (early.ndim - 1)
    return np.pad(early, margins)[:count]


def _gains(sounds: dict[str, NDArray[np.float32]]) -> dict[str, float]:
    """By model, what makes all equally loud: at LOUDNESS, or as loud as the one with the highest peaks can be."""
    loud = {model: level for model, sound in sounds.items() if (level := lufs(sound, RATE)) is not None}
    target = min([LOUDNESS, *(level + PEAK_DB - peak_db(sounds[model]) for model, level in loud.items())])
    return {model: 10 ** ((target - loud[model]) / 20) if model in loud else 1.0 for model in sounds}


def _fit(picture: NDArray[np.uint8], box: _Box) -> NDArray[np.uint8]:
    """[H, W, 3] as large as goes into the box, black around it."""
    height, width = picture.shape[:2]
    scale = min(box.height / height, box.width / width)
    size = min(box.width, round(width * scale)), min(box.height, round(height * scale))
    if size != (width, height):
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LANCZOS4)  # type: ignore[assignment]
    top, left = (box.height - size[1]) // 2, (box.width - size[0]) // 2
    margins = ((top, box.height - size[1] - top), (left, box.width - size[0] - left), (0, 0))
    return np.pad(picture, margins)


def _check(number: int, side: int, seconds: float, out: Path, progress: Progress) -> Check:
    """The good and the damaged clip of attention check `number`."""
    scene, kind, question = CHECKS[number]
    side = side // 2 * 2
    names = [_name(f"check {number} {version}", side, seconds) for version in ("good", kind)]
    if not all((out / name).exists() for name in names):
        good = render(scene, 3, frames=int(seconds * 24), size=(side, side), rate=RATE, samples=int(seconds * RATE))
        for name, (frames, audio) in zip(
            names, ((good.frames, good.audio), damaged(good.frames, good.audio, good.events, kind)), strict=True
        ):
            gain = _gains({"": audio})[""]
            _write(out / name, iter(frames), 24, audio * gain)
    progress.advance(2)
    return Check(kind, question, names[0], names[1], seconds)


def damaged(
    frames: NDArray[np.uint8], audio: NDArray[np.float32], events: list[float], kind: str
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The clip with its sound between the events (late), gone (silent) or drowned (noise), or in coarse pixels."""
    if kind == "silent":
        return frames, np.zeros_like(audio)
    if kind == "noise":
        hiss = np.random.default_rng(0).normal(0, 1, len(audio)) * np.sqrt(np.mean(np.square(audio, dtype=np.float64)))
        return frames, (audio * 0.1 + hiss).astype(np.float32)
    if kind == "late":
        late = round(float(np.median(np.diff(events))) / 2 * RATE)
        return frames, np.concatenate([np.zeros(late, np.float32), audio[:-late]])
    block = max(1, frames.shape[1] // 8)
    rows = (np.arange(frames.shape[1]) // block * block + block // 2).clip(max=frames.shape[1] - 1)
    return frames[:, rows][:, :, rows], audio


def _name(*facts: Any) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *facts], default=str).encode()).hexdigest()[:32] + ".mp4"


def _write(path: Path, pictures: Iterator[NDArray[np.uint8]], rate: int, audio: NDArray[np.floating]) -> None:
    frames = (picture[None] for picture in pictures)
    encode.write_clip(path, frames, rate, audio.astype(np.float32), RATE, crf=16, preset="medium")
