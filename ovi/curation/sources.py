"""One source from file to rows: decoded once, cut, scored, judged; what is kept is left in a scratch folder to pack.

Whatever is wrong with a source ends as rows with a reason, never as an exception. It runs in worker processes, knows
one source at a time and neither shards nor splits.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ovi.config import Settings
from ovi.curation import captions, people, sync
from ovi.curation.captions import Caption, CaptionError
from ovi.curation.manifest import ERROR, KEPT, REJECTED, Row, clip_id
from ovi.curation.margins import Box, measure
from ovi.curation.scenes import METHOD as CUT_BY
from ovi.curation.select import decide
from ovi.curation.signals import Tally, Window, windows
from ovi.curation.size import fit, packed_size
from ovi.errors import one_line
from ovi.media import cut, decode
from ovi.media.audio import mean_volume_db, peak_db
from ovi.media.clock import sample_at
from ovi.media.decode import Sound
from ovi.media.probe import MediaError, MediaInfo, probe
from ovi.perception import faces
from ovi.perception.motion import METHOD as MOTION_BY
from ovi.perception.motion import motion

BROKEN = {"unreadable", "truncated"}  # reasons that are errors; every other one is a rejection
FULL_SCALE = 32768


@dataclass(frozen=True)
class Source:
    """A media file of the corpus: `path` as the manifest names it, `file` where it lies."""

    path: str
    file: str
    sha256: str
    bytes: int
    kind: str  # "av" or "audio"
    licence: str
    provenance: str

    @property
    def sets(self) -> tuple[str, ...]:
        return ("av",) if self.kind == "av" else ("pretrain", "finetune")


def examine(source: Source, settings: Settings, scratch: str) -> list[Row]:
    """The source's rows, without split and shard places. For each kept one scratch holds `<clip_id>.pcm`, with pictures
    `<clip_id>.frames` as well, and for each candidate with pictures a strip of three of them, `<clip_id>.png`."""
    work = _Work(source, settings, Path(scratch))
    try:
        work.read_sidecar()
        return work.clips() if source.kind == "av" else work.sounds()
    except MediaError as error:
        words = one_line(error).removeprefix(f"{source.file}: ")  # the row names the file, by its place in the corpus
        return work.outcome(ERROR if error.reason in BROKEN else REJECTED, error.reason, words)
    except Exception as error:  # a defect of ours or of a decoder must not end the run
        words = f"{type(error).__name__}: {one_line(error)}"
        return work.outcome(ERROR, "crashed", words.replace(source.file, source.path))


def failed(source: Source, status: str, reason: str, message: str) -> list[Row]:
    """Rows for a source that gave no candidates: one for each set that it was meant for."""
    common = {"status": status, "reason": reason, "message": message}
    return [{"set": name, **_facts(source), **common} for name in source.sets]


def pcm(audio: NDArray[np.float32]) -> bytes:
    """Mono float32 in [-1, 1] as s16le bytes; a reader divides by 32768."""
    return np.clip(np.rint(audio * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype("<i2").tobytes()


class _Work:
    def __init__(self, source: Source, settings: Settings, scratch: Path) -> None:
        self._source, self._settings, self._scratch = source, settings, scratch
        self._row: Row = _facts(source)
        self._sidecar: dict[str, Any] = {}
        self._fault: str | None = None

    def read_sidecar(self) -> None:
        try:
            self._sidecar = captions.read_sidecar(Path(self._source.file))
        except CaptionError as error:
            self._fault = one_line(error)
        self._row |= {"scene": self._sidecar.get("scene"), "planted": self._sidecar.get("planted")}

    def outcome(self, status: str, reason: str, message: str) -> list[Row]:
        """As `failed`, with what is known of the source by now."""
        return [{**self._row, **row} for row in failed(self._source, status, reason, message)]

    # pictures with sound

    def clips(self) -> list[Row]:
        clip, curation = self._settings.clip, self._settings.curation
        info = probe(self._source.file)
        video = info.pictures()
        self._note(info)
        if video.width * video.height < curation.min_pixels:
            self._row["pixels"] = video.width * video.height
            return self.outcome(REJECTED, "too_small", f"{video.width}x{video.height}")
        info.sound()
        sound = decode.audio(self._source.file, info)
        rows: list[Row] = []
        tally, known = Tally(), None
        shown = decode.frames(self._source.file, info)
        for window in windows(shown, video.average_rate, clip, curation.target_pixels, tally):
            known = measure(window.looks, known)
            rows.append(self._clip(window, known, sound, info))
        seen = {
            "source_cuts": tally.cuts, "source_seconds": float(tally.seconds),
            "source_variable_rate": tally.variable_rate,
        }  # fmt: skip
        if not rows:
            long_enough = tally.seconds * clip.fps > clip.frames - 1
            reason = "cut_in_window" if tally.cuts and long_enough else "too_short"
            rows = self.outcome(REJECTED, reason, f"{float(tally.seconds):.2f} s with {tally.cuts} cuts")
        return [{**row, **seen} for row in rows]

    def _clip(self, window: Window, margins: Box | None, sound: Sound, info: MediaInfo) -> Row:
        clip, curation, video = self._settings.clip, self._settings.curation, info.pictures()
        inside = (margins or Box(0, 0, window.looks.shape[2], window.looks.shape[1])).scaled(1 / window.looks_scale)
        small = inside.scaled(window.small_scale).cut(window.small)
        audio = cut.window(sound, window.start, clip.sample_rate, clip.samples)
        heard = _native(sound, window.start, Fraction(clip.samples, clip.sample_rate))
        moved = motion(small, clip.fps)
        step = sync.score(small, clip.fps, audio, clip.sample_rate)
        size = packed_size(inside.width, inside.height, curation.target_pixels, curation.side_multiple)
        row: Row = {
            **self._row, "set": "av",
            "clip_id": clip_id("av", self._source.sha256, window.start, clip.frames),
            "start": str(window.start), "frames": clip.frames, "fps": clip.fps,
            "samples": clip.samples, "sample_rate": clip.sample_rate, "width": size[0], "height": size[1],
            "crop": str(inside) if margins else None, "pixels": inside.width * inside.height,
            "motion": moved.flow, "change": moved.change, "brightness": moved.brightness, "motion_by": MOTION_BY,
            "cut_score": window.jump, "cut_by": CUT_BY,
            "aesthetic_reason": "no aesthetic network configured (curation.weights.aesthetic)",
            "volume_db": mean_volume_db(heard), "peak_db": peak_db(heard),
            "sync_offset_ms": step.offset_ms, "sync_score": step.score, "sync_at_zero": step.at_zero,
            "sync_by": sync.METHOD, "events": self._events(window.start - video.start),
            **self._faces(inside.scaled(window.scale), window),
        }  # fmt: skip
        visual = captions.video_words(moved.brightness, moved.flow)
        row |= self._caption(Caption(visual, captions.sound_words(row["volume_db"])))
        row |= decide(row, curation)
        if row["status"] == KEPT:
            frames = fit(window.frames, inside.scaled(window.scale), size)
            self._leave(row, "frames", frames.tobytes())
            self._leave(row, "pcm", pcm(audio))
        strip = np.concatenate([small[0], small[len(small) // 2], small[-1]], axis=1)
        self._leave(row, "png", cv2.imencode(".png", strip[..., ::-1])[1].tobytes())
        return row

    def _faces(self, inside: Box, window: Window) -> Row:
        weights = self._settings.curation.weights.yunet
        if weights is None:
            return {"faces_reason": people.UNCONFIGURED}
        counted = people.count_faces([inside.cut(frame) for frame in window.frames], _counter(weights))
        return {"faces": counted, "faces_by": faces.METHOD}

    # sound alone

    def sounds(self) -> list[Row]:
        clip, (least, most) = self._settings.clip, self._settings.curation.pretrain_seconds
        info = probe(self._source.file)
        self._note(info)
        sound = decode.audio(self._source.file, info)
        rate = clip.sample_rate
        total = len(sound.samples) * rate // sound.rate
        self._row["source_seconds"] = len(sound.samples) / sound.rate
        rows: list[Row] = []
        for name, longest, padded in (("pretrain", round(most * rate), False), ("finetune", clip.samples, True)):
            for first in range(0, total, longest):
                length = min(longest, total - first)
                if length >= least * rate:
                    start = sound.start + Fraction(first, rate)
                    rows.append(self._sound(name, sound, start, length, longest if padded else length))
        if not rows:
            return self.outcome(REJECTED, "too_short", f"{total / rate:.2f} s of sound")
        return rows

    def _sound(self, name: str, sound: Sound, start: Fraction, length: int, padded: int) -> Row:
        """A row for `length` samples from `start`, packed as `padded` samples with silence at the end."""
        rate = self._settings.clip.sample_rate
        heard = _native(sound, start, Fraction(length, rate))
        row: Row = {
            **self._row, "set": name, "clip_id": clip_id(name, self._source.sha256, start, padded),
            "start": str(start), "samples": padded, "sample_rate": rate,
            "volume_db": mean_volume_db(heard), "peak_db": peak_db(heard),
            "events": self._events(start - sound.start, Fraction(length, rate)),
        }  # fmt: skip
        row |= self._caption(Caption("", captions.sound_words(row["volume_db"])))
        row |= decide(row, self._settings.curation)
        if row["status"] == KEPT:
            audio = cut.window(sound, start, rate, length)
            self._leave(row, "pcm", pcm(np.pad(audio, (0, padded - length))))
        return row

    # both

    def _note(self, info: MediaInfo) -> None:
        self._row["source_container"] = info.container
        if info.video is not None:
            video = info.video
            self._row |= {
                "source_video_codec": video.codec, "source_pix_fmt": video.pix_fmt, "source_width": video.width,
                "source_height": video.height, "source_rotation": video.rotation,
                "source_rate": str(video.average_rate),
            }  # fmt: skip
        if info.audio is not None:
            sound = info.audio
            self._row |= {
                "source_audio_codec": sound.codec, "source_audio_rate": sound.rate, "source_channels": sound.channels,
            }  # fmt: skip

    def _caption(self, template: Caption) -> Row:
        if self._fault is not None:
            return {"message": self._fault}
        written = self._sidecar.get("caption")
        if written is None:
            return {"caption": str(template), "caption_by": captions.TEMPLATE}
        try:
            return {"caption": str(captions.parse(str(written))), "caption_by": captions.SIDECAR}
        except CaptionError as error:
            return {"message": one_line(error), "caption_by": captions.SIDECAR}

    def _events(self, offset: Fraction, lasts: Fraction | None = None) -> list[float] | None:
        """The sidecar's event times from the clip's start, in s; those outside the clip are left out."""
        events = self._sidecar.get("events")
        if not isinstance(events, list) or not all(isinstance(at, (int, float)) for at in events):
            return None
        clip = self._settings.clip
        end = float(Fraction(clip.frames, clip.fps) if lasts is None else lasts)
        return [at - float(offset) for at in events if 0 <= at - float(offset) < end]

    def _leave(self, row: Row, kind: str, data: bytes) -> None:
        (self._scratch / f"{row['clip_id']}.{kind}").write_bytes(data)


def _facts(source: Source) -> Row:
    return {
        "source_path": source.path, "source_sha256": source.sha256, "source_bytes": source.bytes,
        "licence": source.licence, "provenance": source.provenance,
    }  # fmt: skip


def _native(sound: Sound, start: Fraction, lasts: Fraction) -> NDArray[np.float32]:
    """The part of a sound at its own rate and channels: volume is measured before anything is mixed or resampled."""
    first, last = (max(0, sample_at(at, sound.rate, sound.start)) for at in (start, start + lasts))
    return sound.samples[first:last]


@cache
def _counter(weights: str) -> faces.FaceCounter:
    return faces.FaceCounter(weights)
