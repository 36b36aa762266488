"""Small benchmarks in their published layouts, and clips as a model would have left them."""

from __future__ import annotations

import json
from pathlib import Path

from ovi.evaluation.readers.benchmark import Benchmark
from ovi.media.encode import write_clip, write_wav
from ovi.synthetic.scenes import render

FRAMES, RATE = 36, 16_000  # 1.5 s
SENTENCES = ("We asked over twenty different people.", "Sixteen! Isn't it?", "The café is closed.")


def verse_bench(folder: Path) -> Path:
    items = {
        "set1-I/00007": {"video_prompt": "A ball falls.", "audio_prompt": ["A thud."], "speech_prompt": {"text": ""}},
        "set2-V/419": {"video_prompt": "A lamp.", "audio_prompt": ["Beeps.", "Hum."], "speech_prompt": {"text": None}},
        "set2-V/420": {"video_prompt": "A face.", "audio_prompt": [], "speech_prompt": {"text": "Tea, please!"}},
        "set3-Ted/01083": {"video_prompt": "A man.", "audio_prompt": ["Clap."], "speech_prompt": {"text": "Hello."}},
    }  # fmt: skip
    for name, told in items.items():
        path = folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(told))
        path.with_suffix(".jpg").write_bytes(b"a picture")
    write_wav(folder / "set2-V" / "419.wav", render("blink", 3, frames=FRAMES, size=(16, 16)).audio, RATE)
    return folder


def audiocaps(folder: Path, count: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(f'Y{at}ab,"A dog barks, {at} times"\n' for at in range(count))
    (folder / "data.csv").write_text(f"name,caption\n{rows}")
    for at in range(count):
        write_wav(folder / f"Y{at}ab.wav", render("hammer", at, frames=FRAMES, size=(16, 16)).audio, RATE)
    return folder


def seed_tts(folder: Path) -> Path:
    (folder / "en").mkdir(parents=True)
    lines = [f"utt-{at}|what a voice said|prompt-wavs/{at}.wav|{text}" for at, text in enumerate(SENTENCES)]
    (folder / "en" / "meta.lst").write_text("\n".join(lines) + "\n\n")
    return folder


def javis_bench(folder: Path, name: str = "JavisBench-mini.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    texts = "".join(f'{at},"A drum is hit, {at}"\n' for at in range(3))
    (folder / name).write_text(f"id,text\n{texts}")
    return folder


def clips(benchmark: Benchmark, folder: Path) -> Path:
    """One of every item: mp4 with sound where it has pictures, else WAV."""
    folder.mkdir(parents=True, exist_ok=True)
    for at, item in enumerate(benchmark.items):
        shot = render("mouth" if item.speech else "bounce", 20 + at, frames=FRAMES, size=(32, 32))
        if benchmark.pictures:
            write_clip(folder / f"{item.name}.mp4", shot.frames, 24, shot.audio, RATE)
        else:
            write_wav(folder / f"{item.name}.wav", shot.audio, RATE)
    return folder
