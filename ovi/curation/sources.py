"""One source from file to rows: decoded once, cut, scored, judged; what is kept is left on a tray to pack (tray.py).

Whatever is wrong with a source ends as rows with a reason; what is wrong with the machine, a full disk or a store that
does not answer, as an exception. It runs in worker processes, knows one source at a time and neither shards nor splits.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ovi.config import Settings
from ovi.curation import captions, looks, sync
from ovi.curation.captions import Caption, CaptionError
from ovi.curation.manifest import ERROR, KEPT, REJECTED, Row, clip_id
from ovi.curation.margins import Box, measure, possible
from ovi.curation.scenes import METHOD as CUT_BY
from ovi.curation.select import decide
from ovi.curation.signals import Tally, Window, windows
from ovi.curation.size import fit, packed_size
from ovi.curation.tray import Tray, tray
from ovi.errors import OviError, one_line
from ovi.media import cut, decode
from ovi.media.audio import mean_volume_db, peak_db
from ovi.media.clock import sample_at
from ovi.media.decode import Sound
from ovi.media.probe import MediaError, MediaInfo, probe
from ovi.media.remote import reached
from ovi.media.tape import Tape
from ovi.perception.motion import METHOD as MOTION_BY
from ovi.perception.motion import motion

Pixels = NDArray[np.uint8]
Audio = NDArray[np.float32]

BROKEN = {"unreadable", "damaged", "truncated"}  # reasons that are errors; every other one is a rejection
FULL_SCALE = 32768
LATE = Fraction(1, 10)  # s by which sound may begin after the pictures, as encoders let it, and be waited for


@dataclass(frozen=True)
class Source:
    """A media file of the corpus: `path` as the manifest names it, `file` and `sidecar` where it and its words lie."""

    path: str
    file: str
    sha256: str
    bytes: int
    kind: str  # "av" or "audio"
    licence: str | None
    provenance: str | None
    sidecar: str | None = None

    @property
    def sets(self) -> tuple[str, ...]:
        return ("av",) if self.kind == "av" else ("pretrain", "finetune")


def examine(source: Source, settings: Settings, clips: str) -> list[Row]:
    """The source's rows, without split and shard places. Below the address `clips` lie the members (packed.py) of each
    kept one, and for each candidate with pictures a strip of three of them, `<clip_id>.png`.

    Raises OviError where clips cannot be written or a store does not answer.
    """
    with tray(clips, settings.curation.coding) as left:
        work = _Work(source, settings, left)
        try:
            work.read_sidecar()
            return work.clips() if source.kind == "av" else work.sounds()
        except MediaError as error:
            words = one_line(error).removeprefix(f"{source.file}: ")  # the row names the file, by its place
            return work.outcome(ERROR if error.reason in BROKEN else REJECTED, error.reason, words)
        except OviError:
            raise
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
    def __init__(self, source: Source, settings: Settings, left: Tray) -> None:
        self._source, self._settings, self._left = source, settings, left
        self._row: Row = _facts(source)
        self._sidecar: dict[str, Any] = {}
        self._fault: str | None = None

    def read_sidecar(self) -> None:
        try:
            self._sidecar = captions.read_sidecar(self._source.sidecar)
        except CaptionError as error:
            self._fault = one_line(error)
        said = {name: self._sidecar.get(name) for name in ("scene", "planted", "source", "attribution")}
        self._row |= {"scene": said["scene"], "planted": said["planted"], "attribution": _text(said["attribution"])}
        if self._row["provenance"] is None:
            self._row["provenance"] = _text(said["source"])

    def outcome(self, status: str, reason: str, message: str) -> list[Row]:
        """As `failed`, with what is known of the source by now."""
        return [{**row, **self._row} for row in failed(self._source, status, reason, message)]

    # pictures with sound

    def clips(self) -> list[Row]:
        clip, curation = self._settings.clip, self._settings.curation
        file = reached(self._source.file)
        info = probe(file)
        video = info.pictures()
        self._note(info)
        if video.width * video.height < curation.min_pixels:
            self._row["pixels"] = video.width * video.height
            return self.outcome(REJECTED, "too_small", f"{video.width}x{video.height}")
        heard = info.sound().start
        tape, shown = Tape(decode.sound(file, info)), decode.frames(file, info)
        rows: list[Row] = []
        tally, known = Tally(), None
        reach = Fraction(curation.max_shift_frames * sync.FRAME_MS) / 1000
        begins = heard if heard > video.start + LATE else None
        for window in windows(shown, video.average_rate, clip, curation.target_pixels, tally, begins):
            known = measure(window.looks(clip.fps), known) if possible(window.frames[0].rgb) else None
            end = window.start + Fraction(clip.samples, clip.sample_rate)
            sound = tape.between(window.start - reach, end + reach)
            rows.append(self._clip(window, known, sound, info))
            del window  # its pictures make room for those of the next one
        tape.rest()
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
        whole = Box(0, 0, window.frames[0].width, window.frames[0].height)
        inside = (margins or whole).scaled(1 / window.scale)
        small = inside.scaled(window.small_scale).cut(window.small)
        moved = motion(small, clip.fps)
        size = packed_size(inside.width, inside.height, curation.target_pixels, curation.side_multiple)
        heard, audio = self._heard(sound, window.start, small)
        row: Row = {
            **self._row, "set": "av",
            "clip_id": clip_id("av", self._source.sha256, window.start, clip.frames),
            "start": str(window.start), "frames": clip.frames, "fps": clip.fps,
            "samples": clip.samples, "sample_rate": clip.sample_rate, "width": size[0], "height": size[1],
            "crop": str(inside) if margins else None, "pixels": inside.width * inside.height,
            "picture_rate": window.distinct * clip.fps / clip.frames,
            "motion": moved.flow, "change": moved.change, "brightness": moved.brightness, "motion_by": MOTION_BY,
            "cut_score": window.jump, "cut_by": CUT_BY,
            "events": self._events(window.start - video.start), **heard, **looks.unasked(curation.weights),
        }  # fmt: skip
        visual = captions.video_words(moved.brightness, moved.flow)
        row |= self._caption(Caption(visual, captions.sound_words(row["volume_db"])))
        audio = self._judged(row, window, margins or whole, small, sound, audio)
        if row["status"] == KEPT:
            self._left.lay(row, "frames", (fit(frame.rgb, margins or whole, size).data for frame in window.frames))
            self._left.lay(row, "pcm", [pcm(audio)])
        strip = np.concatenate([small[0], small[len(small) // 2], small[-1]], axis=1)
        self._left.lay(row, "png", [cv2.imencode(".png", strip[..., ::-1])[1].tobytes()])
        return row | self._left.finish(row)

    def _heard(self, sound: Sound, start: Fraction, small: Pixels) -> tuple[Row, Audio]:
        """What the sound from `start` is like and how it goes with the small pictures; and that sound, as packed."""
        clip = self._settings.clip
        audio = cut.window(sound, start, clip.sample_rate, clip.samples)
        heard = _native(sound, start, Fraction(clip.samples, clip.sample_rate))
        step = sync.score(small, clip.fps, audio, clip.sample_rate)
        return {
            "unheard_s": max(0.0, clip.samples / clip.sample_rate - len(heard) / sound.rate),
            "volume_db": mean_volume_db(heard), "peak_db": peak_db(heard),
            "sync_offset_ms": step.offset_ms, "sync_score": step.score, "sync_at_zero": step.at_zero,
            "sync_by": sync.METHOD,
        }, audio  # fmt: skip

    def _judged(self, row: Row, window: Window, inside: Box, small: Pixels, sound: Sound, audio: Audio) -> Audio:
        """Add to the row what networks say, where it is worth it, and the verdict; the sound, moved if need be."""
        clip, curation = self._settings.clip, self._settings.curation
        networks, talker = looks.of_process(curation.weights), None
        waits = networks.lips is not None or curation.max_shift_frames > 0  # onsets have not the last word
        row |= decide({**row, "sync_score": None} if waits else row, curation)
        if row["status"] == KEPT:
            shown = looks.Pictures(
                len(window.frames), clip.fps, window.scale, lambda at: inside.cut(window.frames[at].rgb)
            )
            seen, talker = looks.see(networks, shown)
            row |= seen | looks.hear(networks, talker, audio, clip.sample_rate)
        row |= decide(row, curation)
        if row["reason"] != "out_of_sync" or abs(sync.frames_late(row)) > curation.max_shift_frames:
            return audio
        shift = Fraction(round(sync.late_ms(row)), 1000)
        heard, audio = self._heard(sound, window.start + shift, small)
        row |= heard | looks.hear(networks, talker, audio, clip.sample_rate) | {"sound_shift_ms": int(1000 * shift)}
        row["clip_id"] = clip_id("av", self._source.sha256, window.start, clip.frames, shift)
        row |= decide(row, curation)
        return audio

    # sound alone

    def sounds(self) -> list[Row]:
        clip, (least, most) = self._settings.clip, self._settings.curation.pretrain_seconds
        file = reached(self._source.file)
        info = probe(file)
        self._note(info)
        tape, rate = Tape(decode.sound(file, info)), clip.sample_rate
        longest = {"pretrain": round(most * rate), "finetune": clip.samples}
        rows: dict[str, list[Row]] = {name: [] for name in longest}
        due = dict.fromkeys(longest, 0)  # the sample at which each set's next clip begins
        while due:
            name, first = min(due.items(), key=lambda item: item[1])  # the tape runs forwards only
            start, whole = tape.start + Fraction(first, rate), longest[name]
            sound = tape.between(start, start + Fraction(whole, rate))
            length = min(whole, int((sound.end - start) * rate))
            if length >= least * rate:
                rows[name].append(self._sound(name, sound, start, length, whole if name == "finetune" else length))
            due[name] += whole
            if length < whole:
                del due[name]
        self._row["source_seconds"] = seconds = float(tape.end - tape.start)
        found = [{**row, "source_seconds": seconds} for part in rows.values() for row in part]
        return found or self.outcome(REJECTED, "too_short", f"{seconds:.2f} s of sound")

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
            self._left.lay(row, "pcm", [pcm(np.pad(audio, (0, padded - length)))])
        return row | self._left.finish(row)

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


def _facts(source: Source) -> Row:
    return {
        "source_path": source.path, "source_sha256": source.sha256, "source_bytes": source.bytes,
        "licence": source.licence, "provenance": source.provenance,
    }  # fmt: skip


def _native(sound: Sound, start: Fraction, lasts: Fraction) -> NDArray[np.float32]:
    """The part of a sound at its own rate and channels: volume is measured before anything is mixed or resampled."""
    first, last = (max(0, sample_at(at, sound.rate, sound.start)) for at in (start, start + lasts))
    return sound.samples[first:last]


def _text(said: Any) -> str | None:
    return None if said is None else str(said)
