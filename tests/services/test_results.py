"""Results: names nobody can forge, nothing left of what a killed process began; a folder and a bucket are alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
from fastapi.testclient import TestClient
from httpx import Client

from ovi import storage
from ovi.errors import OviError
from services.generation.backend import Backend
from services.generation.results import VARIANTS, ResultStore
from tests.services.test_api import GOOD, problem

JOB, OTHER = f"video_{'0' * 32}", f"video_{'1' * 32}"
CLIP = bytes(range(256)) * 4000  # more than one chunk


@pytest.fixture(params=["folder", "bucket"])
def results(request: pytest.FixtureRequest, tmp_path: Path) -> ResultStore:
    address = str(tmp_path / "results")
    if request.param == "bucket":
        address = request.getfixturevalue("bucket") + "/clips"
    return ResultStore(address, tmp_path / "making")


@pytest.mark.parametrize("name", ["", "..", "../jobs.db", "video_", f"{JOB}/..", f"{JOB}.mp4", f"{JOB}\n", JOB.upper()])
def test_only_a_job_id_is_a_name(tmp_path: Path, name: str) -> None:
    results = ResultStore(str(tmp_path), tmp_path)
    for place in (results.address, partial(results.made, attempt=1), partial(results.live, attempt=1)):
        with pytest.raises(ValueError, match="not a job id"):
            place(name)


def test_what_is_published_is_found_and_nothing_stays_where_it_was_made(results: ResultStore, tmp_path: Path) -> None:
    for variant in VARIANTS:
        results.made(JOB, 2, variant).write_bytes(variant.encode())
        results.made(JOB, 1, variant).write_bytes(b"of an attempt that was given up and goes on")
    results.live(JOB, 2).write_bytes(b"x")
    results.publish(JOB, 2)
    results.clear(JOB, 2)
    assert len(list((tmp_path / "making").iterdir())) == len(VARIANTS)
    results.clear(JOB, 1)
    assert list((tmp_path / "making").iterdir()) == []
    for variant in VARIANTS:
        assert storage.read_bytes(results.address(JOB, variant)) == variant.encode()
    results.delete(JOB)
    results.delete(JOB)
    assert not any(storage.exists(results.address(JOB, variant)) for variant in VARIANTS)


def test_sweeping_keeps_completed_clips_only(tmp_path: Path) -> None:
    results = ResultStore(str(tmp_path / "results"), tmp_path / "making")
    kept, half = (
        [Path(results.address(JOB, variant)) for variant in VARIANTS],
        tmp_path / "results" / f".{JOB}.mp4.abc.mp4",
    )
    for path in (*kept, Path(results.address(OTHER)), half):
        path.write_bytes(b"x")
    results.live(OTHER, 1).write_bytes(b"x")
    assert results.sweep({JOB}) == 2
    results.tidy_workshop()
    assert set((tmp_path / "results").iterdir()) == set(kept)
    half.write_bytes(b"x")
    results.delete(JOB)
    assert [*(tmp_path / "results").iterdir(), *(tmp_path / "making").iterdir()] == []


@pytest.fixture
def done(client: TestClient, backend: Backend, results: ResultStore) -> str:
    """A completed job whose clip is CLIP, wherever clips are kept."""
    backend.results = results
    client.post("/v1/videos", json=GOOD)
    lease = backend.jobs.claim("tester")
    assert lease is not None
    for variant in VARIANTS:
        results.made(lease.id, lease.attempt, variant).write_bytes(CLIP if variant == "video" else b"{}")
    results.publish(lease.id, lease.attempt)
    backend.jobs.complete(lease, "ab" * 32, len(CLIP), {"denoise": 1.5})
    return lease.id


RANGES = {"0-0": (0, 1), "100-199": (100, 200), "1000-": (1000, None), "-5": (-5, None), "0-9999999": (0, None)}


@pytest.mark.parametrize("asked", RANGES)
def test_a_range_is_answered_with_its_bytes(client: TestClient, done: str, asked: str) -> None:
    part = client.get(f"/v1/videos/{done}/content", headers={"Range": f"bytes={asked}"})
    first, end, _ = slice(*RANGES[asked]).indices(len(CLIP))
    assert (part.status_code, part.content == CLIP[first:end]) == (206, True)
    assert int(part.headers["content-length"]) == end - first
    assert part.headers["content-range"] == f"bytes {first}-{end - 1}/{len(CLIP)}"


def test_whole_unchanged_and_impossible(client: TestClient, done: str, backend: Backend) -> None:
    url = f"/v1/videos/{done}/content"
    whole = client.get(url)
    assert (whole.status_code, whole.content == CLIP, whole.headers["accept-ranges"]) == (200, True, "bytes")
    assert client.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    for ignored in ("bytes=0-1,5-9", "lines=0-1", "bytes=-", "bytes=x"):
        assert client.get(url, headers={"Range": ignored}).content == CLIP
    other = {"Range": "bytes=0-9", "If-Range": '"another"'}
    assert client.get(url, headers=other).status_code == 200
    for beyond in (f"bytes={len(CLIP)}-", "bytes=-0", "bytes=9-5"):
        answer = client.get(url, headers={"Range": beyond})
        problem(answer, 416, "Range")
        assert answer.headers["content-range"] == f"bytes */{len(CLIP)}"
    assert client.get(url, params={"variant": "stream"}).content == CLIP
    storage.delete(backend.results.address(done))
    problem(client.get(url), 410)
    assert client.delete(f"/v1/videos/{done}").status_code == 200
    assert not storage.exists(backend.results.address(done, "manifest"))


def test_a_link_leads_to_the_bucket_and_not_further(client: TestClient, done: str, backend: Backend) -> None:
    answer = client.get(f"/v1/videos/{done}/content", params={"link": True}, follow_redirects=False)
    if not backend.results.remote:
        assert (answer.status_code, answer.content) == (200, CLIP)
        return
    assert answer.status_code == 307
    with Client(trust_env=False) as anyone:
        assert anyone.get(answer.headers["location"], headers={"Range": "bytes=3-5"}).content == CLIP[3:6]
        elsewhere = answer.headers["location"].replace(done, JOB)
        assert anyone.get(elsewhere).status_code >= 400


def test_a_store_that_does_not_answer_is_503_and_says_nothing_of_where_it_is(
    client: TestClient, done: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(address: str) -> None:
        raise OviError(f"{address}: cannot be reached")

    monkeypatch.setattr(storage, "open_read", away)
    answer = client.get(f"/v1/videos/{done}/content")
    problem(answer, 503)
    assert int(answer.headers["retry-after"]) > 0
    assert "s3://" not in answer.text


@pytest.mark.parametrize("end", ["completed", "cancelled", "lost", "deleted"])
def test_a_clip_is_followed_while_it_is_written(client: TestClient, backend: Backend, end: str) -> None:
    """It ends with the attempt, however that ends; whoever comes too late gets the clip itself or learns why not."""
    identity = client.post("/v1/videos", json=GOOD).json()["id"]
    url, parts = f"/v1/videos/{identity}/content?variant=stream", [b"one" * 1000, b"two" * 1000]

    def work() -> None:
        lease = backend.jobs.claim("tester")
        assert lease is not None
        backend.results.live(identity, 0).write_bytes(b"of an attempt that was killed")
        backend.jobs.renew(lease, step=lease.steps - 1)
        with open(str(backend.results.live(identity, lease.attempt)), "wb", buffering=0) as live:
            live.write(parts[0])
            backend.jobs.renew(lease, step=lease.steps)
            deadline = time.monotonic() + 60
            while [file.path for file in psutil.Process().open_files()].count(live.name) < 2:  # somebody reads it, too
                assert time.monotonic() < deadline
                time.sleep(0.01)
            live.write(parts[1])
        endings: dict[str, Callable[[], object]] = {
            "completed": lambda: backend.jobs.complete(lease, "ab" * 32, 1, {}),
            "cancelled": lambda: backend.jobs.stop(lease),
            "lost": lambda: backend.jobs.lost("tester"),
            "deleted": lambda: backend.jobs.delete(identity),
        }
        endings[end]()

    worker = threading.Thread(target=work)
    worker.start()
    answer = client.get(url)
    worker.join()
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    assert answer.content == b"".join(parts)
    if end == "completed":
        Path(backend.results.address(identity)).write_bytes(CLIP)
        assert client.get(url, headers={"Range": "bytes=0-2"}).content == CLIP[:3]
    elif end != "lost":
        problem(client.get(url), 410 if end == "cancelled" else 404)
