"""Verse-Bench (Wang et al., 2025, arXiv 2509.06155): a picture, and what happens, sounds and is said after it.

Layout as published: folders set1, set2 and set3 (a longer name may follow, as in set1-I); in each NAME.json with
video_prompt, audio_prompt (a list of which the first counts) and speech_prompt.text, and NAME.jpg, the first frame. Of
set2 alone there is real sound, NAME.wav. What is said in set3 is all that its sound is scored by.
Try it: `ovi benchmark table verse-bench --data verse_bench --out prompts.csv`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovi import storage
from ovi.errors import OviError
from ovi.evaluation.readers.benchmark import Benchmark, Item, checked, prompt

SETS = ("set1", "set2", "set3")
REAL = "set2"
SPEECH_ALONE = "set3"


def read(folder: Path) -> Benchmark:
    """The benchmark at `folder`. Raises OviError for a set that is missing or an item that is not as published."""
    items = [_item(name, path) for name in SETS for path in sorted(_set(folder, name).glob("*.json"))]
    return Benchmark("verse-bench", checked(folder, items), pictures=True)


def _set(folder: Path, name: str) -> Path:
    found = sorted(path for path in folder.glob(f"{name}*") if path.is_dir() and path.name.split("-")[0] == name)
    if len(found) != 1:
        raise OviError(f"{folder}: {len(found)} folders for {name}; Verse-Bench has {', '.join(SETS)}, one folder each")
    return found[0]


def _item(part: str, path: Path) -> Item:
    told = storage.read_json(path)
    seen, sounds, speech = (_field(path, told, key) for key in ("video_prompt", "audio_prompt", "speech_prompt"))
    said = _field(path, speech, "text") if speech else ""
    if not (isinstance(seen, str) and isinstance(said or "", str)):
        raise OviError(f"{path}: video_prompt and speech_prompt.text must be texts")
    if not (isinstance(sounds, list) and all(isinstance(sound, str) for sound in sounds)):
        raise OviError(f"{path}: audio_prompt must be a list of texts")
    image = path.with_suffix(".jpg")
    if not image.is_file():
        raise OviError(f"{image}: no such file; every item of Verse-Bench has its first frame")
    sound, said = (sounds[0].strip() if sounds else ""), (said or "").strip()
    counted = "" if part == SPEECH_ALONE else sound
    real = path.with_suffix(".wav") if part == REAL and sound else None
    return Item(path.stem, prompt(seen.strip(), said, sound), said, counted, part, image, real)


def _field(path: Path, told: Any, key: str) -> Any:
    if not isinstance(told, dict) or key not in told:
        raise OviError(
            f"{path}: has no {key}; an item of Verse-Bench has video_prompt, audio_prompt, speech_prompt.text"
        )
    return told[key]
