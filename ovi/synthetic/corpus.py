"""The corpus: rendered files with their truth beside them, or a list of your own.

    av/<scene>_<nnnn>.mp4           good clips       bad/<defect>_<n>.mp4   planted defects
    audio/<kind>_<nnnn>.wav|m4a     sound alone      index.jsonl            one line a file

Beside each rendered file lies <stem>.json with its scene, caption, event times, planted defect, offset and seed;
an index line has path, sha256, bytes, kind ("av" or "audio"), licence and provenance.
Two builds with the same settings give the same bytes, whatever the number of workers.
Try it: `ovi corpus --set corpus.clips=20 --out /tmp/corpus`.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Set
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ovi import storage
from ovi.config import Clip, Corpus, Settings
from ovi.errors import ConfigError, OviError
from ovi.media import encode
from ovi.progress import Progress
from ovi.synthetic import planted, sounds
from ovi.synthetic.scenes import SCENES

VIDEO = {
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".ts",
    ".mts",
    ".mpg",
    ".mpeg",
    ".flv",
    ".wmv",
    ".ogv",
    ".3gp",
}
AUDIO = {".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus", ".wma", ".aiff"}
SPEECH_SHARE = 0.7  # of the audio-only files; the rest are effects
RICH_EVERY = 12  # every so many clips carry 48 kHz stereo instead of the clip's rate in mono
M4A_EVERY = 3  # every so many audio-only files are AAC instead of WAV
LICENCE, UNKNOWN = "CC0-1.0", "unknown"


@dataclass(frozen=True)
class Job:
    """One file to render. kind: "av", "bad" or "audio"; what: the scene, the defect, or "speech" and the effects."""

    kind: str
    what: str
    number: int
    seed: int

    @property
    def stem(self) -> str:
        return f"{self.kind}/{self.what}_{self.number:0{1 if self.kind == 'bad' else 4}d}"


def build(settings: Settings, out: Path, progress: Progress) -> dict[str, int]:
    """Write the corpus into `out`, replacing what was there; returns the number of files of each kind and their bytes.

    Raises ConfigError for an unknown scene, OviError for a source folder that is missing or holds no media.
    """
    with storage.atomic_folder(out) as folder:
        if settings.corpus.source is not None:
            lines = list(_listed(settings.corpus.source, progress))
        else:
            lines = list(_rendered(settings, folder, progress))
        text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in sorted(lines, key=lambda line: line["path"]))
        (folder / "index.jsonl").write_text(text)
    counts = {kind: sum(line["kind"] == kind for line in lines) for kind in ("av", "audio")}
    counts["bytes"] = sum(line["bytes"] for line in lines)
    progress.result(**counts)
    return counts


def jobs(corpus: Corpus, seed: int) -> list[Job]:
    """Every file to render, in a fixed order. Raises ConfigError for an unknown scene."""
    unknown = sorted(set(corpus.scenes) - set(SCENES))
    if unknown:
        raise ConfigError(f"corpus.scenes: {unknown[0]!r} is unknown; there are {', '.join(SCENES)}")
    effects = sorted(sounds.EFFECTS)
    spoken = round(SPEECH_SHARE * corpus.audio_files)
    noises = corpus.audio_files - spoken
    counts = [("av", scene, count) for scene, count in _shares(corpus.scenes, corpus.clips).items()]
    counts += [("bad", defect, planted.EACH) for defect in planted.DEFECTS] if corpus.planted else []
    counts += [("audio", "speech", spoken)] + [
        ("audio", kind, len(range(k, noises, 4))) for k, kind in enumerate(effects)
    ]
    first = {"av": 0, "bad": 500_000, "audio": 0}  # a bad file never shows what a good one does
    return [
        Job(kind, what, k, seed * 1_000_000 + first[kind] + k) for kind, what, count in counts for k in range(count)
    ]


def _shares(shares: dict[str, float], total: int) -> dict[str, int]:
    """`total` split by the shares: whole parts first, then one more each for the largest remainders."""
    whole = {name: share / sum(shares.values()) * total for name, share in shares.items()}
    counts = {name: int(part) for name, part in whole.items()}
    left = sorted(whole, key=lambda name: (counts[name] - whole[name], name))
    for name in left[: total - sum(counts.values())]:
        counts[name] += 1
    return dict(sorted(counts.items()))


def _rendered(settings: Settings, folder: Path, progress: Progress) -> Iterator[dict[str, Any]]:
    todo = jobs(settings.corpus, settings.seed)
    for name in ("av", "bad", "audio"):
        (folder / name).mkdir()
    progress.start("rendering the corpus", len(todo), "files")
    # spawned, not forked: a fork of a process with threads (a server's, a trainer's) can hang
    pool = ProcessPoolExecutor(settings.corpus.workers, multiprocessing.get_context("spawn"))
    try:
        count = len(todo)
        corpora, clips, folders = [settings.corpus] * count, [settings.clip] * count, [folder] * count
        for line in pool.map(_render, todo, corpora, clips, folders, chunksize=8):
            progress.advance()
            yield line
    except BrokenProcessPool:
        raise OviError("rendering: a worker died, probably for want of memory; try --set corpus.workers=1") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _render(job: Job, corpus: Corpus, clip: Clip, folder: Path) -> dict[str, Any]:
    """Render one file and its sidecar; returns its index line. Runs in a worker process."""
    path, facts = _sound(job, clip, folder) if job.kind == "audio" else _shot(job, corpus, clip, folder)
    sidecar = {"planted": None, "offset_ms": 0.0, "seed": job.seed, **facts}
    sidecar["events"] = [round(event, 6) for event in sidecar["events"]]
    path.with_suffix(".json").write_text(json.dumps(sidecar, indent=1, sort_keys=True) + "\n")
    provenance = f"rendered by ovi.synthetic: {job.what} {job.seed}"
    return _line(
        path, path.relative_to(folder).as_posix(), "audio" if job.kind == "audio" else "av", LICENCE, provenance
    )


def _shot(job: Job, corpus: Corpus, clip: Clip, folder: Path) -> tuple[Path, dict[str, Any]]:
    rich = job.kind == "av" and job.number % RICH_EVERY == 0
    frames = clip.frames + int(sounds.generator("length", job.kind, job.what, job.seed).integers(4, 10))
    size = (corpus.height, corpus.width)
    stage = planted.Stage(clip.fps, 48_000 if rich else clip.sample_rate, size, frames, job.seed)
    shot = stage.take(job.what) if job.kind == "av" else planted.make(job.what, stage, job.number % 2 == 1)
    audio = shot.audio
    if rich and audio is not None:
        audio = np.stack([audio, 0.8 * audio], axis=1)
    path = folder / f"{job.stem}.mp4"
    encode.write_clip(path, shot.frames, clip.fps, audio, shot.rate, ticks=shot.ticks)
    if shot.truncated:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    facts = {"scene": shot.scene, "caption": shot.caption, "events": shot.events, "offset_ms": shot.offset_ms}
    return path, facts | ({} if job.kind == "av" else {"planted": job.what})


def _sound(job: Job, clip: Clip, folder: Path) -> tuple[Path, dict[str, Any]]:
    longest = 12.0 if job.what == "speech" else 8.0
    seconds = float(sounds.generator("seconds", job.what, job.seed).uniform(2.0, longest))
    if job.what == "speech":
        track = sounds.speech(job.seed, seconds, clip.sample_rate)
    else:
        track = sounds.effect(job.what, job.seed, seconds, clip.sample_rate)
    aac = job.number % M4A_EVERY == M4A_EVERY - 1
    path = folder / f"{job.stem}.{'m4a' if aac else 'wav'}"
    (encode.write_m4a if aac else encode.write_wav)(path, track.audio, track.rate)
    return path, {"scene": job.what, "caption": track.caption, "events": track.events}


def _listed(source: str, progress: Progress) -> Iterator[dict[str, Any]]:
    """Index lines with addresses of the media below `source`; a sidecar may name licence and provenance."""
    if not storage.is_remote(source):
        source = str(Path(source).expanduser().resolve())
        if not Path(source).is_dir():
            raise OviError(f"corpus.source: {source} is not a folder; give a folder of video or audio files")
    names = storage.list_files(source)
    files = [name for name in names if _ending(name) in VIDEO | AUDIO]
    if not files:
        raise OviError(f"corpus.source: {source} holds no video or audio files ({', '.join(sorted(VIDEO | AUDIO))})")
    progress.start("listing your files", len(files), "files")
    sidecars = {name for name in names if _ending(name) == ".json"}
    for name in files:
        said = _said(name.removesuffix(PurePosixPath(name).suffix) + ".json", sidecars)
        licence, provenance = (str(said.get(key, UNKNOWN)) for key in ("licence", "provenance"))
        yield _line(name, name, "av" if _ending(name) in VIDEO else "audio", licence, provenance)
        progress.advance()


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _said(name: str, sidecars: Set[str]) -> dict[str, Any]:
    """What a sidecar says; one that is damaged says nothing."""
    if name not in sidecars:
        return {}
    try:
        said = json.loads(storage.read_bytes(name))
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _line(path: str | Path, name: str, kind: str, licence: str, provenance: str) -> dict[str, Any]:
    return {
        "path": name, "sha256": storage.sha256(path), "bytes": storage.size(path), "kind": kind,
        "licence": licence, "provenance": provenance,
    }  # fmt: skip
