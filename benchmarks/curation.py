"""Is curation exact, does it end every file with the right reason, and is it fast in little memory?

One section an option, all but --media without any: clips cut out of films that tell the time (--exact), odd and broken
files (--odd), cuts in films with known joints beside PySceneDetect's adaptive rule (--scenes), CPU-seconds of the pass
without networks beside bare decoding and beside filters that each decode (--speed), memory of one worker on a long film
(--memory), workers and lengths (--scaling), a folder of real files (--media DIR, see tests/curation/real_media.py).
The results keep the last figures of each section.
Try it: `.venv/bin/python benchmarks/curation.py --exact --odd`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import psutil

from ovi import config, storage
from ovi.config import Settings
from ovi.curation import parts, sync
from ovi.curation.manifest import Row
from ovi.curation.margins import measure
from ovi.curation.scenes import mark_starts, thumbnail
from ovi.curation.signals import small_size
from ovi.curation.sources import Source, examine
from ovi.media import cut, decode
from ovi.media.audio import mean_volume_db, peak_db, resample, to_mono
from ovi.media.probe import probe
from ovi.perception.motion import motion
from tests.curation import adaptive, real_media
from tests.curation.shots import Joint, film
from tests.media import clocked
from tests.media.films import film_720p, film_1080p, lasting
from tests.media.odd import ODD

ROOT = Path(__file__).resolve().parents[1]
PHASES, ODD_S = 48, 60.0  # starts of a clip within one picture; time that an odd file may take
SKEW_MS, ODD_MIN = 1.0, 30
ROUNDED_MS = {"mkv": 0.5}  # by which a container's own clock misses a time that is on no grid
FILMS, NEAR = 200, 2  # and how many frames beside a joint a cut may be found
BLENDS_MIN = 0.9
SHARE_MIN, FILTERS_MIN, REPEATS = 0.75, 3.0, 3
LONG_S, MEMORY_MAX_GB = 7200, 1.0
FILM_S, LONGER, SLACK = 40, 4, 0.15  # of the films that scaling is measured on; of what is measured, by which it varies
REJECTING = ("curation.min_volume_db=100",)  # nothing is loud enough: all is scored, nothing is packed


@dataclass
class Bars:
    """The bars so far, each said when it is known, and the figures behind them."""

    done: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def check(self, name: str, passed: bool, figure: object) -> None:
        self.done.append({"name": name, "passed": bool(passed), "figure": str(figure)})
        print(f"{'PASS' if passed else 'FAIL'}  {name}: {figure}", flush=True)

    def note(self, name: str, figures: Any) -> None:
        self.figures[name] = figures
        print(f"      {name}: {figures}", flush=True)


def main() -> int:
    options = _options()
    sections: dict[str, Callable[[Path, Bars], None]] = {
        "exact": exact, "odd": odd, "scenes": scenes, "speed": speed, "memory": memory, "scaling": scaling,
    }  # fmt: skip
    chosen = {name: section for name, section in sections.items() if getattr(options, name)}
    if options.media is not None:
        chosen["media"] = lambda folder, bars: media(options.media, folder, bars)
    cv2.setNumThreads(1)
    av.logging.set_level(av.logging.PANIC)
    results = storage.read_json(options.out) if options.out.exists() else {}
    passed = failed = 0
    for name, section in (chosen or sections).items():
        bars, began = Bars(), time.monotonic()
        with tempfile.TemporaryDirectory(prefix="ovi-curation-", dir=options.work) as folder:
            section(Path(folder), bars)
        seconds = round(time.monotonic() - began)
        results[name] = {"machine": _machine(), "seconds": seconds, "figures": bars.figures, "bars": bars.done}
        storage.write_json(options.out, results)
        failed += sum(not bar["passed"] for bar in bars.done)
        passed += sum(bar["passed"] for bar in bars.done)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


def exact(folder: Path, bars: Bars) -> None:
    """Every rate in every container, begun at PHASES places within a picture."""
    found: dict[str, clocked.Skew] = {}
    for kind in clocked.KINDS:
        for name, rate in clocked.RATES.items():
            path = folder / f"film.{kind}"
            clock = clocked.film(path, rate)
            frames, sound = list(decode.frames(path)), decode.audio(path)
            starts = [Fraction(1) + Fraction(at, PHASES) / (rate or 24) for at in range(PHASES)]
            found[f"{name} {kind}"] = clocked.skew(clock, (
                (at, cut.pictures(frames, at, 24, 121, path), cut.window(sound, at, 16000, 80640)) for at in starts
            ))  # fmt: skip
    bars.figures["exact"] = {name: [skew.pictures_ms, skew.sound_ms] for name, skew in found.items()}
    frames_seen = set().union(*(skew.frames for skew in found.values()))
    samples_seen = set().union(*(skew.samples for skew in found.values()))
    clips = sum(skew.clips for skew in found.values())
    bars.check("every clip has 121 frames and 80,640 samples", (frames_seen, samples_seen) == ({121}, {80640}),
               f"{clips} clips, frames {sorted(frames_seen)}, samples {sorted(samples_seen)}")  # fmt: skip
    for kind in clocked.KINDS:
        off = max(skew.pictures_ms for name, skew in found.items() if name.endswith(kind))
        most = ROUNDED_MS.get(kind, 0.0)
        bars.check(f"{kind}: a clip's pictures are those that the source shows then", off <= most, f"{off:.3f} ms off")
    sound_ms = max(skew.sound_ms for skew in found.values())
    bars.check(f"clicks and flashes stay within {SKEW_MS:g} ms", sound_ms <= SKEW_MS, f"{sound_ms:.3f} ms at most")


def odd(folder: Path, bars: Bars) -> None:
    ends, wrong, slowest = Counter[str](), [], 0.0
    settings = config.load(ROOT / "params.yaml", None, [])
    for name, (end, make) in ODD.items():
        make(folder / name)
        with _pool(1) as pool:  # a file that hangs or kills its process is then one that fails
            began = time.monotonic()
            try:
                rows = pool.submit(_examined, folder / name, settings, folder).result(timeout=ODD_S)
            except Exception as error:
                rows = [{"reason": type(error).__name__, "status": "error"}]
                for process in list(pool._processes.values()):
                    process.kill()
            slowest = max(slowest, time.monotonic() - began)
        found = {str(row["reason"] or row["status"]) for row in rows}
        ends[end] += 1
        if found != {end}:
            wrong.append(f"{name}: {', '.join(sorted(found))} instead of {end}")
    bars.note("ends", dict(ends.most_common()))
    bars.check(f"at least {ODD_MIN} odd files, each with the right reason", len(ODD) >= ODD_MIN and not wrong,
               f"{len(ODD) - len(wrong)} of {len(ODD)}; {'; '.join(wrong) or f'slowest {slowest:.1f} s'}")  # fmt: skip


def scenes(_: Path, bars: Bars) -> None:
    ours, theirs = _Score(), _Score()
    for seed in range(FILMS):
        frames, joints = film(seed)
        ours.count(
            joints, [at for at, (_, starts, _) in enumerate(mark_starts(list(frames), thumbnail, 24.0)) if starts]
        )
        theirs.count(joints, adaptive.cuts(list(frames)))
    bars.note("found", {"ours": ours.figures(), "adaptive": theirs.figures()})
    bars.check("every hard cut is found", ours.share("cut") == 1, f"{ours.share('cut'):.1%}")
    for kind in ("dissolve", "fade"):
        share = ours.share(kind)
        bars.check(f"at least {BLENDS_MIN:.0%} of {kind}s are found", share >= BLENDS_MIN, f"{share:.1%}")
    bars.check("F1 is at least that of the adaptive rule", ours.f1 >= theirs.f1, f"{ours.f1:.3f} and {theirs.f1:.3f}")
    bars.check("no clip holds a hard cut", ours.held == 0, f"{ours.held} of {ours.windows} windows of 121 frames")


class _Score:
    """What a detector found of films' joints."""

    def __init__(self) -> None:
        self.hits: defaultdict[str, list[bool]] = defaultdict(list)
        self.others, self.windows, self.held = 0, 0, 0

    def count(self, joints: list[Joint], starts: list[int]) -> None:
        found = [at for at in starts if at]
        for joint in joints:
            self.hits[joint.kind].append(any(joint.first - NEAR <= at <= joint.last + NEAR for at in found))
        near = [any(joint.first - 2 * NEAR <= at <= joint.last + 6 * NEAR for joint in joints) for at in found]
        self.others += near.count(False)
        for first, last in zip([0, *found], found, strict=False):
            for start in range(first, last - 120, 121):
                self.windows += 1
                self.held += any(j.kind == "cut" and start < j.first < start + 121 for j in joints)

    def share(self, kind: str) -> float:
        return float(np.mean(self.hits[kind]))

    @property
    def f1(self) -> float:
        hits = [hit for kind in self.hits.values() for hit in kind]
        return 2 * sum(hits) / (sum(hits) + self.others + len(hits))

    def figures(self) -> dict[str, Any]:
        return {kind: f"{sum(hits)} of {len(hits)}" for kind, hits in self.hits.items()} | {"others": self.others}


def speed(folder: Path, bars: Bars) -> None:
    """CPU-seconds, of the best of REPEATS where it matters: others' work on the machine only ever adds some."""
    settings, packing = _settings(*REJECTING), _settings()
    for name, noise in (("grain", True), ("flat", False)):
        path = lasting(film_720p(folder / f"{name}.mp4", noise), 2)
        _examined(path, settings, folder)  # what is imported, is
        least = {"decode": np.inf, "pass": np.inf}
        for _ in range(REPEATS):
            least["decode"] = min(least["decode"], _cpu(lambda path=path: _decoded(path)))
            least["pass"] = min(least["pass"], _cpu(lambda path=path: _examined(path, settings, folder)))
        least["filters"] = _cpu(lambda path=path: _each_decodes(path))
        least["pass with packing"] = _cpu(lambda path=path: _examined(path, packing, folder))
        info = probe(path).pictures()
        bars.note(f"720p {name}, CPU-s", {what: round(seconds, 2) for what, seconds in least.items()})
        share, times = least["decode"] / least["pass"], least["filters"] / least["pass"]
        about = (
            f"{info.codec} {info.width}x{info.height}, {path.stat().st_size * 8 / 1e6 / float(info.end or 1):.1f} Mb/s"
        )
        if noise:
            bars.check(
                f"the pass reaches {SHARE_MIN:g} of what decoding does", share >= SHARE_MIN, f"{share:.2f}, {about}"
            )
            bars.check(
                f"it is {FILTERS_MIN:g} times as fast as filters that each decode", times >= FILTERS_MIN, f"{times:.1f}"
            )
        else:
            bars.note("the same of pictures that are easier to decode", f"{share:.2f} and {times:.1f}, {about}")


def memory(folder: Path, bars: Bars) -> None:
    """A quiet film of LONG_S at 1080p of which the first minute is loud: what is kept is packed there as well."""
    path = film_1080p(folder / "long.mp4", LONG_S)
    settings = _settings("curation.min_motion=0")
    began = time.monotonic()
    with _pool(1) as pool:
        future = pool.submit(_examined, path, settings, folder)
        (worker,) = pool._processes
        peak, stop = [0], threading.Event()
        watcher = threading.Thread(target=_watch, args=(worker, peak, stop))
        watcher.start()
        rows = future.result()
        stop.set()
        watcher.join()
    path.unlink()
    ends = Counter(str(row["reason"] or row["status"]) for row in rows)
    bars.note("a long film", {"s": LONG_S, "minutes": round((time.monotonic() - began) / 60, 1), "ends": dict(ends)})
    name = f"one worker stays under {MEMORY_MAX_GB:g} GB on {LONG_S / 3600:g} hours of 1080p"
    bars.check(name, bool(ends["kept"]) and peak[0] < MEMORY_MAX_GB * 1e9, f"{peak[0] / 1e9:.2f} GB")


def scaling(folder: Path, bars: Bars) -> None:
    settings = _settings(*REJECTING)
    path = film_720p(folder / "scale.mp4", True, FILM_S)
    for workers in (1, 2):
        with _pool(workers) as pool:
            list(pool.map(_examined, [path] * workers, [settings] * workers, [folder] * workers))
            began = time.monotonic()
            spent = list(pool.map(_spent, [path] * 4, [settings] * 4, [folder] * 4))
            seconds = time.monotonic() - began
        bars.note(
            f"{workers} workers", f"{seconds:.1f} s for four films of {FILM_S} s, {sum(s for s, _ in spent):.1f} CPU-s"
        )
    found: list[tuple[float, int]] = []
    for repeats in (1, LONGER):
        with _pool(1) as pool:
            pool.submit(_examined, path, settings, folder).result()  # what is imported, is
            seconds, peak = pool.submit(_spent, lasting(path, repeats), settings, folder).result()
        found.append((seconds * 60 / (FILM_S * repeats), peak))
        bars.note(f"{FILM_S * repeats} s of 720p", f"{found[-1][0]:.2f} CPU-s a minute of film, {peak / 1e9:.2f} GB")
    dearer, larger = (long / short for short, long in zip(*found, strict=True))
    bars.check(f"a minute of a film {LONGER} times as long costs no more", dearer <= 1 + SLACK, f"{dearer:.2f} times")
    bars.check("and takes no more memory", larger <= 1 + SLACK, f"{larger:.2f} times")


def media(source: Path, folder: Path, bars: Bars) -> None:
    settings = config.load(ROOT / "params.yaml", None, [])
    ends = {name: real_media.end(source, name, settings, folder) for name in real_media.ENDS}
    wrong = [f"{name}: {end}" for name, end in ends.items() if end != real_media.ENDS[name]]
    bars.check("every real file ends as it should", not wrong, "; ".join(wrong) or f"{len(ends)} of {len(ends)}")
    for (name, stream), listed in real_media.CUTS.items():
        found = real_media.cuts(source, name, stream)
        right = not found.missed and bool(listed or not found.others)
        bars.check(f"cuts of {name}, stream {stream}", right, f"missed {found.missed or 'none'}, also {found.others}")
    for name, crop in real_media.CROPS.items():
        crops = real_media.crops(source, name, settings)
        bars.check(f"crop of {name}", crops == {crop}, crops)


def _settings(*sets: str) -> Settings:
    return config.load(ROOT / "params.yaml", "ovi-11b", list(sets))


def _examined(path: Path, settings: Settings, folder: Path) -> list[Row]:
    source = Source(path.name, str(path), "0" * 64, path.stat().st_size, "av", "CC0-1.0", "benchmark")
    scratch = Path(tempfile.mkdtemp(dir=folder))
    try:
        return examine(source, settings, str(scratch))
    finally:
        for left in scratch.iterdir():
            left.unlink()


def _spent(path: Path, settings: Settings, folder: Path) -> tuple[float, int]:
    """CPU-seconds that it takes, and the most bytes that this process has had."""
    seconds = _cpu(lambda: _examined(path, settings, folder))
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _decoded(path: Path) -> int:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def _each_decodes(path: Path) -> None:
    """Cuts, motion, margins, synchronisation, volume and speech, as six filters that know nothing of each other."""

    def small() -> np.ndarray:
        return np.stack([frame.small(*small_size(frame.width, frame.height)) for frame in decode.frames(path)])

    for _ in mark_starts(list(small()), thumbnail, 24.0):
        pass
    shown = small()
    for at in range(0, len(shown) - 120, 121):
        motion(shown[at : at + 121], 24)
    looks = [frame.rgb for at, frame in enumerate(decode.frames(path)) if at % 12 == 0]
    for at in range(0, len(looks) - 10, 10):
        measure(np.stack(looks[at : at + 11]))
    shown, sound = small(), decode.audio(path)
    for at in range(0, len(shown) - 120, 121):
        sync.score(shown[at : at + 121], 24, cut.window(sound, Fraction(at, 24), 16000, 80640), 16000)
    loud = decode.audio(path).samples
    mean_volume_db(loud)
    peak_db(loud)
    sound = decode.audio(path)
    resample(to_mono(sound.samples), sound.rate, 16000)


def _cpu(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def _pool(workers: int) -> ProcessPoolExecutor:
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), cv2.setNumThreads, (1,))


def _watch(process: int, peak: list[int], stop: threading.Event) -> None:
    while not stop.wait(0.1):
        peak[0] = max(peak[0], psutil.Process(process).memory_info().rss)


def _machine() -> dict[str, Any]:
    """What the figures depend on; no names of machines."""
    return {
        "cores": len(os.sched_getaffinity(0)), "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "architecture": platform.machine(), "python": platform.python_version(), "av": version("av"),
        "numpy": np.__version__, "opencv": cv2.__version__, "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Is curation exact, right about odd files, and fast?")
    for name in ("exact", "odd", "scenes", "speed", "memory", "scaling"):
        parser.add_argument(f"--{name}", action="store_true", help="only this, and the others that are named")
    parser.add_argument("--media", type=Path, metavar="DIR", help="a folder of real files, see real_media.py")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/curation.json", help="results as JSON")
    parser.add_argument("--work", type=Path, help="where films are made (default: the system's temporary folder)")
    return parser.parse_args()


if __name__ == "__main__":
    if not parts.SINGLE.items() <= os.environ.items():  # one thread, as the workers of `ovi curate`
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **parts.SINGLE})
    sys.exit(main())
