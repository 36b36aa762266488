"""The job table: every road through its states, leases that protect, bounds and keys, and what survives a kill."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sql

from ovi.errors import OviError
from services.generation.jobs import (
    MAX_ATTEMPTS,
    JobStore,
    KeyConflict,
    LeaseLost,
    QueueFull,
)
from services.generation.table import Job


@pytest.fixture
def jobs(url: str) -> Iterator[JobStore]:
    store = JobStore(url)
    yield store
    store.close()


WORK = {"steps": 4, "prompt": "a lamp"}


def test_a_job_is_served_in_order_of_arrival(jobs: JobStore) -> None:
    first, second = (jobs.submit(WORK, bound=9)[0] for _ in range(2))
    assert (jobs.position(first), jobs.position(second)) == (1, 2)
    claimed = jobs.claim("a")
    assert claimed is not None
    assert claimed.id == first.id
    assert claimed.status == "in_progress"
    assert claimed.attempt == 1
    assert jobs.position(second) == 1
    assert jobs.position(claimed) is None


def test_the_bound_counts_waiting_jobs_only(jobs: JobStore) -> None:
    jobs.submit(WORK, bound=2)
    jobs.claim("a")
    jobs.submit(WORK, bound=2)
    jobs.submit(WORK, bound=2)
    with pytest.raises(QueueFull) as full:
        jobs.submit(WORK, bound=2)
    assert full.value.retry_after == 5


def test_retry_after_is_the_mean_length_of_recent_jobs(jobs: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [time.time()]
    monkeypatch.setattr("services.generation.jobs.time.time", lambda: clock[0])
    jobs.submit(WORK, bound=1)
    lease = jobs.claim("a")
    assert lease is not None
    clock[0] += 1.05
    jobs.complete(lease, "0" * 64, 1, {})
    jobs.submit(WORK, bound=1)
    with pytest.raises(QueueFull) as full:
        jobs.submit(WORK, bound=1)
    assert full.value.retry_after == 2


def test_fifty_equal_keys_at_once_are_one_job(jobs: JobStore) -> None:
    answers: list[tuple[Job, bool]] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(jobs.submit(WORK, bound=9, fingerprint="f", idempotency_key="k"))
        )
        for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.id for job, _ in answers}) == 1
    assert sum(created for _, created in answers) == 1


def test_a_key_answers_even_when_the_queue_is_full_and_refuses_another_body(jobs: JobStore) -> None:
    job, _ = jobs.submit(WORK, bound=1, fingerprint="f", idempotency_key="k")
    assert jobs.submit(WORK, bound=1, fingerprint="f", idempotency_key="k") == (job, False)
    with pytest.raises(KeyConflict):
        jobs.submit(WORK, bound=1, fingerprint="g", idempotency_key="k")


def test_two_claimants_never_get_the_same_job(jobs: JobStore) -> None:
    for _ in range(20):
        jobs.submit(WORK, bound=99)
    taken: list[str] = []

    def work(name: str) -> None:
        while (job := jobs.claim(name)) is not None:
            taken.append(job.id)

    threads = [threading.Thread(target=work, args=(str(index),)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 20


def test_an_overdue_lease_is_taken_away_and_its_owner_hears_of_it(jobs: JobStore) -> None:
    jobs.submit(WORK, bound=9)
    late = jobs.claim("slow", lease_s=0.0)
    assert late is not None
    time.sleep(0.01)
    fresh = jobs.claim("quick")
    assert fresh is not None
    assert fresh.id == late.id
    assert fresh.attempt == 2
    for word in (
        lambda: jobs.renew(late, 3),
        lambda: jobs.complete(late, "0" * 64, 1, {}),
        lambda: jobs.fail(late, "x", "y", False),
        lambda: jobs.stop(late),
    ):
        with pytest.raises(LeaseLost):
            word()
    jobs.release(late)  # nothing to give back
    jobs.complete(fresh, "1" * 64, 7, {"denoise": 0.5})
    done = jobs.get(fresh.id)
    assert done is not None
    assert (done.status, done.sha256, done.bytes, done.timings) == ("completed", "1" * 64, 7, {"denoise": 0.5})


def test_a_job_fails_when_its_second_worker_is_lost(jobs: JobStore) -> None:
    job, _ = jobs.submit(WORK, bound=9)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        lease = jobs.claim(f"worker-{attempt}")
        assert lease is not None
        assert lease.attempt == attempt
        assert jobs.lost(f"worker-{attempt}") == 1
    failed = jobs.get(job.id)
    assert failed is not None
    assert failed.error is not None
    assert (failed.status, failed.error["code"], failed.error["retryable"]) == ("failed", "worker_lost", True)


def test_an_orderly_return_costs_no_attempt_and_no_place(jobs: JobStore) -> None:
    first, second = (jobs.submit(WORK, bound=9)[0] for _ in range(2))
    for _ in range(5):
        lease = jobs.claim("a")
        assert lease is not None
        assert (lease.id, lease.attempt) == (first.id, 1)
        jobs.renew(lease, 2)
        jobs.release(lease)
    again = jobs.get(first.id)
    assert again is not None
    assert (again.status, again.step, again.started_at, again.owner) == ("queued", 0, None, None)
    assert jobs.position(second) == 2


def test_cancel_ends_a_waiting_job_now_and_a_running_one_at_its_next_word(jobs: JobStore) -> None:
    waiting, running = (jobs.submit(WORK, bound=9)[0] for _ in range(2))
    assert jobs.cancel(waiting.id).status == "cancelled"  # type: ignore[union-attr]
    lease = jobs.claim("a")
    assert lease is not None
    assert lease.id == running.id
    assert jobs.renew(lease, 1) is False
    assert jobs.cancel(running.id).status == "in_progress"  # type: ignore[union-attr]
    assert jobs.renew(lease, 2) is True
    jobs.stop(lease)
    assert jobs.get(running.id).status == "cancelled"  # type: ignore[union-attr]
    assert jobs.cancel("video_none") is None


def test_a_job_someone_cancelled_is_not_run_again_when_its_worker_dies(jobs: JobStore) -> None:
    job, _ = jobs.submit(WORK, bound=9)
    jobs.claim("a")
    jobs.cancel(job.id)
    jobs.lost("a")
    assert jobs.get(job.id).status == "cancelled"  # type: ignore[union-attr]


def test_deleting_takes_the_lease_away(jobs: JobStore) -> None:
    job, _ = jobs.submit(WORK, bound=9)
    lease = jobs.claim("a")
    assert lease is not None
    assert jobs.delete(job.id)
    assert not jobs.delete(job.id)
    with pytest.raises(LeaseLost):
        jobs.renew(lease)


def test_listing_goes_backwards_in_pages(jobs: JobStore) -> None:
    made = [jobs.submit(WORK, bound=9)[0].id for _ in range(5)]
    page = jobs.newest(2)
    assert [job.id for job in page] == made[:2:-1]
    assert [job.id for job in jobs.newest(9, after=page[-1].id)] == made[2::-1]


CRASH = """
import os, sys
from services.generation.jobs import JobStore
store = JobStore(sys.argv[1])
for index in range(3):
    job, _ = store.submit({"steps": 4}, bound=9)
    print(job.id, flush=True)
store.claim("gone/worker-0")
os.kill(os.getpid(), 9)
"""


def test_what_was_acknowledged_is_there_after_kill_9(url: str) -> None:
    ended = subprocess.run([sys.executable, "-c", CRASH, url], capture_output=True, text=True, check=False)
    assert ended.returncode == -9, ended.stderr
    store = JobStore(url)
    states = {job.id: job.status for job in store.newest(9)}
    first, *others = ended.stdout.split()
    assert states == {first: "in_progress"} | dict.fromkeys(others, "queued")
    assert store.lost("gon_/") == 0
    assert store.lost("gone/") == 1
    assert store.get(first).status == "queued"  # type: ignore[union-attr]
    store.close()


def test_the_more_urgent_job_runs_first(jobs: JobStore) -> None:
    patient, urgent, late = (jobs.submit(WORK, bound=9, priority=priority)[0] for priority in (0, 1, 1))
    assert [jobs.position(job) for job in (patient, urgent, late)] == [3, 1, 2]
    assert [jobs.claim("a").id for _ in range(3)] == [urgent.id, late.id, patient.id]  # type: ignore[union-attr]


def test_a_tenant_has_its_own_keys_limit_and_list(jobs: JobStore) -> None:
    mine, _ = jobs.submit(WORK, bound=9, fingerprint="f", idempotency_key="k", tenant="me", concurrency=1)
    theirs, created = jobs.submit(WORK, bound=9, fingerprint="g", idempotency_key="k", tenant="you", concurrency=1)
    assert created
    with pytest.raises(QueueFull) as full:
        jobs.submit(WORK, bound=9, tenant="me", concurrency=1)
    assert full.value.code == "too_many_jobs"
    assert [job.id for job in jobs.newest(9, tenant="you")] == [theirs.id]
    jobs.cancel(mine.id)
    jobs.submit(WORK, bound=9, tenant="me", concurrency=1)


def test_pictures_travel_with_the_job_and_go_when_it_ends(jobs: JobStore) -> None:
    job, _ = jobs.submit(WORK, bound=9, image=b"image")
    lease = jobs.claim("a")
    assert lease is not None
    before = jobs.get(job.id).revision  # type: ignore[union-attr]
    jobs.renew(lease, 1, b"one")
    jobs.renew(lease, 2, b"two")
    assert jobs.get(job.id).revision == before + 2  # type: ignore[union-attr]
    assert (jobs.attachment(job.id, "image"), jobs.attachment(job.id, "preview")) == (b"image", b"two")
    jobs.lost("a")
    assert (jobs.attachment(job.id, "image"), jobs.attachment(job.id, "preview")) == (b"image", None)
    lease = jobs.claim("b")
    assert lease is not None
    jobs.complete(lease, "0" * 64, 1, {"denoise": 2.0}, {"solver": "unipc"})
    assert jobs.attachment(job.id, "image") is None
    assert jobs.get(job.id).ran == {"solver": "unipc"}  # type: ignore[union-attr]
    assert jobs.statistics()["seconds"] == {"denoise": 2.0}


def test_ended_jobs_are_forgotten_when_their_time_is_over(url: str) -> None:
    jobs = JobStore(url, retention_s=0.0)
    waiting, ended = (jobs.submit(WORK, bound=9, idempotency_key=key)[0] for key in "ab")
    jobs.cancel(ended.id)
    time.sleep(0.01)
    assert jobs.expire() == [ended.id]
    assert jobs.expire() == []
    assert [job.id for job in jobs.newest(9)] == [waiting.id]
    jobs.close()


def test_a_table_of_an_earlier_version_gets_its_new_columns(url: str) -> None:
    jobs = JobStore(url)
    old, _ = jobs.submit(WORK, bound=9)
    engine = sql.create_engine(url)
    with engine.begin() as db:
        for index in ("ix_jobs_expires_at",):
            db.exec_driver_sql(f"DROP INDEX {index}")
        for column in ("tenant", "priority", "revision", "expires_at", "ran"):
            db.exec_driver_sql(f"ALTER TABLE jobs DROP COLUMN {column}")
    engine.dispose()
    jobs.close()
    again = JobStore(url)
    lease = again.claim("a")
    assert lease is not None
    assert (lease.id, lease.tenant, lease.priority, lease.expires_at) == (old.id, "local", 0, None)
    again.complete(lease, "0" * 64, 1, {})
    again.close()


def test_what_is_no_database_is_one_line() -> None:
    for address in ("nonsense", "oracle9://x"):
        with pytest.raises(OviError, match=r"service\.database"):
            JobStore(address)
