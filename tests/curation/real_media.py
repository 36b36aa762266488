"""What a folder of openly licensed files has to come to: how each ends, where it is cut, what is cropped.

The folder is not part of the repository; its LICENSES.md names the files and where they come from. Cuts are those that
PySceneDetect's adaptive detector finds, but for a fade, which has no one frame and may be found a little earlier.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from ovi.config import Settings
from ovi.curation.margins import Box, measure, possible
from ovi.curation.scenes import mark_starts, thumbnail
from ovi.curation.signals import Tally, small_size, windows
from ovi.curation.sources import Source, examine
from ovi.media import decode
from ovi.media.picture import frame_of
from ovi.media.probe import probe
from ovi.storage import sha256

ENDS = {  # with the settings of the demo: a reason, or "kept" where a clip of it is
    "av/ovi_sample_1.mp4": "kept", "av/ovi_sample_2.mp4": "kept", "av/ovi_sample_3.mp4": "kept",
    "av/ovi_sample_4.mp4": "kept", "av/ovi_sample_5.mp4": "kept", "av/nasa_13013.mp4": "kept",
    "av/ltx2_sample.mp4": "too_short",
    **{f"video/{name}": "no_audio" for name in (
        "sintel_30s_480p.mp4", "sintel_clip_10s_480p.mp4", "bt709_full_range.mp4", "av1_video.mkv", "h265_video.mp4",
        "h264_10bits.mp4", "h265_10bits.mp4", "cogvideox_hiker.mp4",
    )},
    "audio/curator_audio_5s.wav": "kept", "audio/sine_mono_s16.wav": "kept",
}  # fmt: skip
CUTS = {  # (file, number of the picture stream) -> frames
    ("video/sintel_30s_480p.mp4", 0): [286, 348, 372, 388, 478, 523, 573, 610, 631],
    ("video/sintel_clip_10s_480p.mp4", 0): [214],
    ("av/nasa_13013.mp4", 0): [127, 202],
    **{(f"av/ovi_sample_{k}.mp4", 0): [] for k in range(1, 6)},
    ("av/ltx2_sample.mp4", 0): [],
}  # fmt: skip
NEAR = 4  # frames by which a fade may be found earlier or later
CROPS = {"video/sintel_30s_480p.mp4": "854:364:0:58", "av/ovi_sample_3.mp4": None, "av/nasa_13013.mp4": None}


@dataclass(frozen=True)
class Found:
    """missed: cuts that were not found. others: starts, in frames, that are none of them."""

    missed: list[int]
    others: list[int]


def end(folder: Path, name: str, settings: Settings, scratch: Path) -> str:
    """How a file ends; "kept" where any of its rows is."""
    path = folder / name
    kind = "audio" if name.startswith("audio/") else "av"
    rows = examine(
        Source(name, str(path), sha256(path), path.stat().st_size, kind, "see LICENSES.md", name),
        settings,
        str(scratch),
    )
    reasons = [row["reason"] or row["status"] for row in rows]
    return "kept" if "kept" in reasons else str(reasons[0])


def cuts(folder: Path, name: str, number: int) -> Found:
    with av.open(str(folder / name)) as container:
        stream = container.streams.video[number]
        shown = [frame_of(p.to_ndarray(format="rgb24"), Fraction(0), Fraction(1)) for p in container.decode(stream)]
        small = [frame.small(*small_size(frame.width, frame.height)) for frame in shown]
        marks = mark_starts(small, thumbnail, float(stream.average_rate or 24))
        starts = [at for at, (_, starts, _) in enumerate(marks) if starts and at]
    listed = CUTS[name, number]
    near = {cut: [at for at in starts if abs(at - cut) <= NEAR] for cut in listed}
    used = {at for places in near.values() for at in places}
    return Found([cut for cut in listed if not near[cut]], [at for at in starts if at not in used])


def crops(folder: Path, name: str, settings: Settings, frames: int = 61) -> set[str | None]:
    """What windows of so many frames are cropped to."""
    path = folder / name
    info = probe(path)
    clip = settings.clip.model_copy(update={"frames": frames})
    known, found = None, set()
    rate = info.pictures().average_rate
    for window in windows(decode.frames(path, info), rate, clip, settings.curation.target_pixels, Tally()):
        known = measure(window.looks(clip.fps), known) if possible(window.frames[0].rgb) else None
        found.add(str(Box(*known).scaled(1 / window.scale)) if known else None)
    return found
