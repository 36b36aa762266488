"""What a worker does when a clip cannot be made: too little memory, no place to store it, a defect."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ovi.config import Runtime
from ovi.diffusion.sampler import Sampler
from ovi.errors import OviError
from services.generation import admission
from services.generation.admission import Admission, TooLittleMemory
from services.generation.jobs import JobStore, sqlite
from services.generation.making import NotStored
from services.generation.places import Places
from services.generation.schemas import Served, VideoRequest, resolve
from services.generation.worker import Worker


@pytest.fixture
def worker(tmp_path: Path, served: Served) -> Worker:
    """Without a sampler: what making a clip comes to is each test's own."""
    places = Places(tmp_path / "state", sqlite(tmp_path / "state"), str(tmp_path / "results"), None)
    control: Any = SimpleNamespace(draining=False, recalled=False)
    sampler: Any = None
    return Worker("me", places, served, sampler, SimpleNamespace(check=lambda: None), control, print)  # type: ignore[arg-type]


def run(worker: Worker, jobs: JobStore) -> None:
    lease = jobs.claim("me")
    assert lease is not None
    worker._one(lease)


def fails_with(worker: Worker, error: BaseException) -> None:
    def fail(*_: object) -> None:
        raise error

    worker._making.run = fail  # type: ignore[assignment,method-assign]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "insufficient_memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), "insufficient_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "insufficient_memory"),
        (RuntimeError("CUDA error: out of memory"), "insufficient_memory"),
        (NotStored("The clip could not be stored."), "not_stored"),
    ],
)  # fmt: skip
def test_what_may_pass_is_tried_again_in_a_fresh_process_and_then_said(
    worker: Worker, jobs: JobStore, served: Served, error: Exception, code: str
) -> None:
    job, _ = jobs.submit(resolve(VideoRequest(prompt="x"), served), bound=9)
    fails_with(worker, error)
    with pytest.raises(type(error)):  # it leaves the main loop: the process ends
        run(worker, jobs)
    assert jobs.get(job.id).status == "in_progress"  # type: ignore[union-attr]
    jobs.lost("me")  # so its supervisor says
    with pytest.raises(type(error)):
        run(worker, jobs)
    ended = jobs.get(job.id)
    assert ended is not None
    assert (ended.status, ended.attempt) == ("failed", 2)
    assert ended.error is not None
    assert (ended.error["code"], ended.error["retryable"]) == (code, True)


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [(OviError("skip_layer: 9"), "refused", False), (KeyError("a defect"), "internal_error", True)],
)
def test_what_would_not_pass_fails_at_once(
    worker: Worker, jobs: JobStore, served: Served, error: Exception, code: str, retryable: bool
) -> None:
    job, _ = jobs.submit(resolve(VideoRequest(prompt="x"), served), bound=9)
    fails_with(worker, error)
    run(worker, jobs)
    ended = jobs.get(job.id)
    assert ended is not None
    assert ended.error is not None
    assert (ended.status, ended.error["code"], ended.error["retryable"]) == ("failed", code, retryable)
    assert "defect" not in ended.error["message"]


def test_a_clip_is_begun_only_when_there_is_memory_for_it(
    model: Path, worker: Worker, jobs: JobStore, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker._admission = Admission(Sampler.open(model, Runtime()), model)
    worker._admission.check()  # here there is enough
    monkeypatch.setattr(admission, "room", lambda device: 1 << 20)
    with pytest.raises(TooLittleMemory, match=r"takes about 0\.\d GiB, cpu has 0\.0 GiB"):
        worker._admission.check()
    job, _ = jobs.submit(resolve(VideoRequest(prompt="x"), served), bound=9)
    fails_with(worker, AssertionError("it was begun"))
    with pytest.raises(TooLittleMemory):
        run(worker, jobs)
    assert jobs.get(job.id).step == 0  # type: ignore[union-attr]
