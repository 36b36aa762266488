"""Does the service keep its promises? Real processes, real HTTP, a tiny model; one PASS or FAIL line per bar.

Overhead over the sampler alone, first event, a burst of creates, cancelling, equal bytes, equal keys, bad requests
drawn from the served description and made by hand, kill -9 at random points on SQLite and on a PostgreSQL and a bucket
that two servers share, a drain, a soak, packing, cold starts. It looks at the service from outside: over HTTP, at its
processes and folder.
Try it: `make bench-serving`, or `.venv/bin/python -m benchmarks.serving --only burst --only cancel`; `--long` soaks
with 500 jobs; `--bento` serves the built Bento instead of the bare server.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.replica import ROOT, Bars, Bench, Replica, bucket, wait
from ovi import storage
from ovi.config import Settings
from ovi.models.folder import ModelFolder
from ovi.progress import Silent
from services.generation import places
from services.generation.making import Making, request
from services.generation.package import package
from services.generation.results import ResultStore
from services.generation.schemas import Served, VideoRequest, resolve
from services.generation.worker import load_sampler
from tests.services import postgres
from tests.services.models import lay_bundle, save_tiny_model, tiny_settings

QUEUE = 32
OVERHEAD_SHARE, OVERHEAD_S, EVENT_S, POLL_S, READY_S = 0.05, 0.060, 0.300, 0.050, 10.0  # the bars
BUILD_S, COLD_S = 60.0, 8.0
CANCEL_QUEUED_S, CANCEL_RUNNING_S, GROWTH, FUZZED = 0.100, 0.200, 0.03, 1000
WORK = {"prompt": "A lamp blinks. <AUDCAP>Beeps.<ENDAUDCAP>", "seed": 5, "steps": 4}
LONG = WORK | {"steps": 60}
CLIP = WORK | {"steps": 140}  # takes about as long as a clip of the demo


def overhead(bench: Bench) -> None:
    """The same clip by the sampler in this process and over HTTP, in turns, so that a slow moment meets both."""
    served = Served.read(bench.bundle)
    making = Making(
        load_sampler(served, bench.bundle / "model", 1),
        served,
        ResultStore(str(bench.folder / "alone"), bench.folder / "alone"),
    )
    alone, asked, first = [], [], []
    with bench.replica("overhead") as server:
        server.finish(server.submit(WORK))
        for index in range(20):
            body = CLIP | {"seed": index}
            began = time.perf_counter()
            _alone(making, served, body)
            alone.append(time.perf_counter() - began)
            began = time.perf_counter()
            done = server.finish(server.submit(body))
            asked.append(time.perf_counter() - began)
            assert done["status"] == "completed", done
            job = server.submit(WORK)
            first.append(_first_event(server, job))
            server.finish(job)
    own, over = statistics.median(alone), statistics.median(asked)
    more = over - own
    bench.bars.check(
        "overhead over the sampler alone, median of 20", more <= OVERHEAD_S and more <= OVERHEAD_SHARE * own,
        f"{1000 * more:.0f} ms, {more / own:.1%} of {own:.2f} s (at most {1000 * OVERHEAD_S:.0f} ms and 5 %)",
    )  # fmt: skip
    bench.bars.check(
        "first event", max(first) <= EVENT_S,
        f"median {1000 * statistics.median(first):.0f} ms, largest {1000 * max(first):.0f} ms (at most 300 ms)",
    )  # fmt: skip


def _alone(making: Making, served: Served, body: dict[str, Any]) -> None:
    """Sampling and writing the clip, with nothing of the service around it."""
    from ovi.media.encode import write_clip

    sampler, effective = making.sampler, resolve(VideoRequest(**body), served)
    *_, step = sampler.run(sampler.plan([request(effective)]))
    sound = sampler.sounds(step)[0]
    path = making.results.made("video_" + "0" * 32, 1)
    write_clip(path, sampler.frames(step), served.fps, sound, served.sample_rate, width=effective["display_pixels"])
    storage.sha256(path)


def _first_event(server: Replica, job: str) -> float:
    began = time.perf_counter()
    with server.client.stream("GET", f"/v1/videos/{job}/events") as answer:
        next(line for line in answer.iter_lines() if line.startswith("event:"))
        return time.perf_counter() - began


def burst(bench: Bench) -> None:
    """200 creates at once with a queue of 32, polls and listeners meanwhile."""
    with bench.replica("burst") as server:
        running = server.submit(LONG | {"steps": 200})
        server.reach(running, 1)
        answers, polls, refused = asyncio.run(_burst(server, running))
        statuses = Counter(answer.status_code for answer in answers)
        accepted = [answer.json()["id"] for answer in answers if answer.status_code == 202]
        waits = [answer.headers.get("retry-after", "") for answer in answers if answer.status_code == 429]
        right = set(statuses) <= {202, 429} and all(wait.isdigit() and int(wait) > 0 for wait in waits)
        bench.bars.check("200 simultaneous creates, queue of 32", right and len(accepted) == QUEUE, dict(statuses))
        p95 = statistics.quantiles(polls, n=20)[-1]
        figure = f"p95 {1000 * p95:.0f} ms of {len(polls)} polls, {refused} refused (at most 50 ms, none)"
        bench.bars.check("polls during the burst and while jobs run", p95 <= POLL_S and not refused, figure)
        server.client.post(f"/v1/videos/{running}/cancel")
        ended = Counter(server.finish(job)["status"] for job in accepted)
        bench.bars.check("every accepted job ends", ended == {"completed": len(accepted)}, dict(ended))


async def _burst(server: Replica, running: str) -> tuple[list[httpx.Response], list[float], int]:
    polls: list[float] = []
    refused, over = 0, asyncio.Event()
    limits = httpx.Limits(max_connections=300)
    url = f"http://127.0.0.1:{server.port}"
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, limits=limits) as client:

        async def poll() -> None:
            nonlocal refused
            while not over.is_set() or len(polls) < 300:
                began = time.perf_counter()
                answer = await client.get(f"/v1/videos/{running}")
                polls.append(time.perf_counter() - began)
                refused += answer.status_code != 200
                await asyncio.sleep(0.01)

        async def listen() -> None:
            nonlocal refused
            async with client.stream("GET", f"/v1/videos/{running}/events") as answer:
                refused += answer.status_code != 200
                await over.wait()

        watching = [asyncio.create_task(poll()), *(asyncio.create_task(listen()) for _ in range(5))]
        await asyncio.sleep(0.5)
        answers = await asyncio.gather(*(client.post("/v1/videos", json=WORK | {"seed": i}) for i in range(200)))
        over.set()
        await asyncio.gather(*watching)
    return list(answers), polls, refused


def cancel(bench: Bench) -> None:
    queued, running, steps = [], [], []
    with bench.replica("cancel") as server:
        for _ in range(5):
            first, second = server.submit(LONG | {"steps": 200}), server.submit(LONG)
            server.reach(first, 3)
            began = time.perf_counter()
            server.client.post(f"/v1/videos/{second}/cancel")
            assert server.look(second)["status"] == "cancelled"
            queued.append(time.perf_counter() - began)
            seen = server.look(first)
            steps.append((time.time() - seen["started_at"]) / max(1, seen["step"]))
            began = time.perf_counter()
            server.client.post(f"/v1/videos/{first}/cancel")
            assert server.finish(first)["status"] == "cancelled"
            running.append(time.perf_counter() - began)
            assert server.finish(server.submit(WORK))["status"] == "completed"  # the worker is free
    bench.bars.check("cancel, queued", max(queued) <= CANCEL_QUEUED_S, f"{1000 * max(queued):.0f} ms (at most 100 ms)")
    late = max(took - step for took, step in zip(running, steps, strict=True))
    figure = f"{1000 * max(running):.0f} ms, {1000 * late:.0f} ms after one step (at most 200 ms); worker free"
    bench.bars.check("cancel, running", late <= CANCEL_RUNNING_S, figure)


def equal(bench: Bench) -> None:
    """Equal requests in fresh processes, alone and among others; equal keys at once."""
    with bench.replica("equal") as server:
        digests = set()
        for turn in range(5):
            others = [server.submit(WORK | {"seed": 100 + i}) for i in range(turn % 3)]
            digests.add(server.finish(server.submit(LONG))["sha256"])
            for job in others:
                server.finish(job)
            for worker in server.workers():
                worker.kill()
            wait(lambda: server.get("/readyz") != 200, "the worker is gone")
            server.until_ready()
        bench.bars.check("five equal requests, fresh processes, others around", len(digests) == 1, digests)
        bench.figures["sha256"] = digests.pop()
        key = {"Idempotency-Key": "one"}
        answers: list[httpx.Response] = []
        _at_once(50, lambda: answers.append(_post(server, WORK, key)))
        jobs = {answer.json()["id"] for answer in answers}
        other = _post(server, LONG, key).status_code
        bench.bars.check(
            "50 equal keys at once", len(jobs) == 1 and len(answers) == 50 and other == 409,
            f"{len(jobs)} job; other body {other}",
        )  # fmt: skip


def bad(bench: Bench) -> None:
    """Requests drawn from the served description, and made by hand."""
    with bench.replica("bad") as server:
        answers = Counter(_by_hand(server))
        few = sum(answers.values())
        good = all(400 <= status < 500 for status in answers) and few >= 40
        bench.bars.check("hand-made bad requests", good, f"{few}: {dict(answers)}")
        words = [sys.executable, "-m", "benchmarks.fuzz", f"http://127.0.0.1:{server.port}", str(FUZZED)]
        run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        figure = (run.stdout.strip() or run.stderr).splitlines()[-1] if run.stdout or run.stderr else "no output"
        bench.bars.check("requests drawn from the served OpenAPI", run.returncode == 0, figure)
        if run.returncode:
            print(run.stdout)
        log = (bench.folder / "bad.log").read_text(errors="replace")
        bench.bars.check(
            "no traceback in the server's log", "Traceback (most" not in log, f"{len(log.splitlines())} lines"
        )
        if "Traceback (most" in log:
            print(next(line for line in log.splitlines() if "Traceback (most" in line))


def _by_hand(server: Replica) -> Iterator[int]:
    from tests.services import test_api, test_uploads

    for body, _ in test_api.BAD:
        if "10**400" not in str(body):
            yield server.client.post("/v1/videos", json=body).status_code
    for raw, kind, _ in test_api.BROKEN.values():
        yield server.client.post("/v1/videos", content=raw, headers={"content-type": kind}).status_code
    for upload in test_uploads.BAD.values():
        files = {"image": ("../../etc/passwd", upload, "image/png")}
        yield server.client.post("/v1/videos", data={"prompt": "x"}, files=files).status_code
    for path in (
        "/v1/videos/../../etc/passwd",
        "/v1/videos/%2e%2e%2fjobs.db/content",
        "/v1/videos/%00",
        "//etc/passwd",
    ):
        yield server.client.get(path).status_code


def kills(bench: Bench) -> None:
    """kill -9 of a worker, of the server, of both, at random points; on SQLite, and on PostgreSQL and S3 with two."""
    with bench.replica("kill") as server:
        wanted = server.finish(server.submit(LONG))["sha256"]
        _kills(bench, "SQLite", [server], wanted)
    if reason := postgres.missing():
        bench.bars.check("kill -9 on PostgreSQL", False, reason)
        return
    with postgres.postgres() as url, bucket() as (clips, leads):
        shared = {places.DATABASE: url, places.RESULTS: f"{clips}/shared"} | leads
        with bench.replica("a", **shared) as first, bench.replica("b", **shared) as second:
            _kills(bench, "PostgreSQL and S3, two servers", [first, second], wanted)
            done = second.finish(first.submit(WORK))
            clips_of = [one.client.get(f"/v1/videos/{done['id']}/content").content for one in (first, second)]
            same = all(hashlib.sha256(clip).hexdigest() == done["sha256"] for clip in clips_of)
            bench.bars.check(
                "either server answers for a job", same, f"{len(clips_of[0])} bytes from both, as promised"
            )


def _kills(bench: Bench, where: str, servers: list[Replica], wanted: str) -> None:
    draw = random.Random(1)
    for victim in ("worker", "server", "both"):
        lost, wrong, slow = 0, 0, 0.0
        made: list[str] = []
        for _ in range(bench.points):
            server = draw.choice(servers)
            jobs = [server.submit(LONG) for _ in range(2)]
            made += jobs
            server.reach(jobs[0], 1)
            time.sleep(draw.random() * 1.2)
            workers = server.workers()
            if victim != "server":
                workers[0].kill()
            began = time.monotonic()
            if victim == "worker":
                wait(lambda server=server: server.get("/readyz") != 200, "the worker is gone")
                server.until_ready()
            else:
                server.kill()
                server.start()
            slow = max(slow, time.monotonic() - began)
            for job in jobs:
                done = draw.choice(servers).finish(job)
                lost += done["status"] != "completed"
                wrong += done["sha256"] != wanted
        listed = [job for job in _all(servers[0]) if job["effective"]["steps"] == LONG["steps"]]
        doubled = len({job["id"] for job in listed}) != len(listed) or not set(made) <= {job["id"] for job in listed}
        figure = f"{len(made)} jobs: {lost} lost, {wrong} other bytes; ready again within {slow:.1f} s (at most 10 s)"
        passed = not lost and not wrong and not doubled and slow <= READY_S
        bench.bars.check(f"kill -9 of {victim} at {bench.points} points, {where}", passed, figure)


def drain(bench: Bench) -> None:
    with bench.replica("drain") as server:
        running, *waiting = [server.submit(LONG) for _ in range(4)]
        server.reach(running, 2)
        began = time.monotonic()
        code = server.stop()
        took = time.monotonic() - began
        server.start()
        ended = Counter(server.finish(job)["status"] for job in (running, *waiting))
        first = server.look(running)["attempt"]
        figure = f"exit {code} after {took:.1f} s; then {dict(ended)}, the running one in attempt {first}"
        bench.bars.check(
            "SIGTERM under load", code == 0 and took < 40 and ended == {"completed": 4} and first == 1, figure
        )


def soak(bench: Bench) -> None:
    """Jobs one after the other. Memory and open files of the last fifth beside those of the second: the first warms."""
    count = 500 if bench.long else 60
    with bench.replica("soak") as server:
        assert server.process is not None
        _at_once(64, lambda: server.client.get("/v1/videos"))  # all connections to the database that there will be
        held, files = [], []
        for index in range(count):
            job = server.submit(WORK | {"seed": index})
            server.finish(job)
            server.client.delete(f"/v1/videos/{job}")
            family = [psutil.Process(server.process.pid), *server.workers()]
            held.append(sum(one.memory_full_info().uss for one in family))
            files.append(sum(one.num_fds() for one in family))
        fifth, left = count // 5, list((server.state / "results").iterdir())
        before, after = (statistics.median(part) for part in (held[fifth : 2 * fifth], held[-fifth:]))
        opened = [max(part) for part in (files[fifth : 2 * fifth], files[-fifth:])]
        figure = f"memory {after / before - 1:+.1%} of {before / 2**20:.0f} MiB, open files {opened}, {len(left)} left"
        passed = after / before - 1 < GROWTH and opened[1] <= opened[0] and not left
        bench.bars.check(f"soak of {count} jobs", passed, figure)


def cold(bench: Bench) -> None:
    """Packing a Bento, and from a process to the first job that it would take."""
    began = time.monotonic()
    _packed(bench.folder / "cold", bench.folder / "model", tiny_settings(service__queue=QUEUE))
    took = time.monotonic() - began
    bench.bars.check("a Bento is built", took <= BUILD_S, f"{took:.1f} s (at most {BUILD_S:.0f} s)")
    with bench.replica("cold-start") as server:
        started = [server.started_s]
        for _ in range(4):
            server.stop()
            started.append(server.start())
    figure = f"median {statistics.median(started):.1f} s, slowest {max(started):.1f} s (less than {COLD_S:.0f} s)"
    bench.bars.check("cold start to ready", max(started) < COLD_S, figure)


def _all(server: Replica) -> list[dict[str, Any]]:
    page = server.client.get("/v1/videos", params={"limit": 100}).json()
    jobs = list(page["data"])
    while page["has_more"]:
        page = server.client.get("/v1/videos", params={"limit": 100, "after": page["last_id"]}).json()
        jobs += page["data"]
    return jobs


def _post(server: Replica, body: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    return httpx.post(f"http://127.0.0.1:{server.port}/v1/videos", json=body, headers=headers, trust_env=False)


def _at_once(count: int, action: Callable[[], None]) -> None:
    threads = [threading.Thread(target=action) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


BENCHMARKS = {
    "overhead": overhead, "burst": burst, "cancel": cancel, "equal": equal, "bad": bad, "kills": kills, "drain": drain,
    "soak": soak, "cold": cold,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Does the service keep its promises?")
    parser.add_argument("--only", action="append", choices=sorted(BENCHMARKS), help="may be given several times")
    parser.add_argument("--points", type=int, default=20, help="kills of each kind")
    parser.add_argument("--long", action="store_true", help="soak with 500 jobs")
    parser.add_argument("--bento", action="store_true", help="serve the built Bento")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/serving.json")
    options = parser.parse_args()
    found: dict[str, Any] = storage.read_json(options.out) if options.out.exists() else {}
    mode, failed, count = "built Bento" if options.bento else "bare server", 0, 0
    with tempfile.TemporaryDirectory(prefix="ovi-bench-") as name:
        folder, settings = Path(name), tiny_settings(service__queue=QUEUE)
        model = save_tiny_model(folder / "model", settings)
        lay_bundle(folder / "bundle", model, settings)
        package = _packed(folder, model, settings) if options.bento else None
        for one in options.only or BENCHMARKS:
            bench = Bench(folder, Bars(), options.points, options.long, package)
            try:
                BENCHMARKS[one](bench)
            except Exception as error:
                bench.bars.check(one, False, f"{type(error).__name__}: {error}")
            found.setdefault(mode, {})[one] = {"command": " ".join(sys.argv[1:]), "bars": bench.bars.done}
            count, failed = count + len(bench.bars.done), failed + sum(not bar["passed"] for bar in bench.bars.done)
    found["machine"] = {"cores": psutil.cpu_count(), "memory_gib": round(psutil.virtual_memory().total / 2**30, 1)}
    storage.write_json(options.out, found)
    print(f"{count - failed} passed, {failed} failed")
    return 1 if failed else 0


def _packed(folder: Path, model: Path, settings: Settings) -> Path:
    decision = {"promoted": True, "digest": ModelFolder.open(model).digest, "model": "ovi", "version": "1"}
    storage.write_json(folder / "promotion.json", decision)
    package(settings, folder / "promotion.json", model, folder / "package", Silent())
    return folder / "package"


if __name__ == "__main__":
    sys.exit(main())
