"""The job table: every road through its states, leases that protect, bounds and keys, and what survives a kill."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from services.generation.jobs import (
    FINAL,
    MAX_ATTEMPTS,
    TRANSITIONS,
    Job,
    JobStore,
    KeyConflict,
    LeaseLost,
    QueueFull,
)

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


def test_retry_after_is_the_mean_length_of_recent_jobs(jobs: JobStore) -> None:
    jobs.submit(WORK, bound=1)
    lease = jobs.claim("a")
    assert lease is not None
    time.sleep(1.05)
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
from pathlib import Path
from services.generation.jobs import JobStore
store = JobStore.in_folder(Path(sys.argv[1]))
for index in range(3):
    job, _ = store.submit({"steps": 4}, bound=9)
    print(job.id, flush=True)
store.claim("gone")
os.kill(os.getpid(), 9)
"""


def test_what_was_acknowledged_is_there_after_kill_9(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", CRASH, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ended.returncode == -9
    store = JobStore.in_folder(tmp_path)
    states = {job.id: job.status for job in store.newest(9)}
    first, *others = ended.stdout.split()
    assert states == {first: "in_progress"} | dict.fromkeys(others, "queued")
    assert store.reap(everything=True) == 1
    assert store.get(first).status == "queued"  # type: ignore[union-attr]
    store.close()


class JobMachine(RuleBasedStateMachine):
    """Random lives of jobs against what the documentation promises."""

    jobs: Bundle[str] = Bundle("jobs")
    leases: Bundle[Job] = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = JobStore(f"sqlite:///{self.folder.name}/jobs.db")
        self.seen: dict[str, str] = {}
        self.owners = 0

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @rule(target=jobs)
    def submit(self) -> Any:
        try:
            return self.store.submit(WORK, bound=3)[0].id
        except QueueFull:
            return multiple()

    @rule(target=leases)
    def claim(self) -> Any:
        self.owners += 1
        waiting = [job for job in self.store.newest(99) if job.status == "queued"]
        lease = self.store.claim(f"owner-{self.owners}")
        assert (lease is None) == (not waiting)
        if lease is None:
            return multiple()
        assert lease.id == min(waiting, key=lambda job: job.number).id
        return lease

    def _word(self, lease: Job, action: Any) -> None:
        """Whatever an owner says is heard exactly while the lease is theirs."""
        now = self.store.get(lease.id)
        assert now is not None
        held = now.status == "in_progress" and (now.owner, now.attempt) == (lease.owner, lease.attempt)
        try:
            action()
            assert held
        except LeaseLost:
            assert not held

    @rule(lease=leases, step=st.integers(0, 4))
    def renew(self, lease: Job, step: int) -> None:
        self._word(lease, lambda: self.store.renew(lease, step))

    @rule(lease=leases)
    def complete(self, lease: Job) -> None:
        self._word(lease, lambda: self.store.complete(lease, "0" * 64, 1, {}))

    @rule(lease=leases)
    def fail(self, lease: Job) -> None:
        self._word(lease, lambda: self.store.fail(lease, "code", "message", False))

    @rule(lease=leases)
    def release(self, lease: Job) -> None:
        self.store.release(lease)

    @rule(lease=leases)
    def lose(self, lease: Job) -> None:
        assert lease.owner is not None
        self.store.lost(lease.owner)

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        before, after = self.store.get(job), self.store.cancel(job)
        assert before is not None
        assert after is not None
        if before.status == "queued":
            assert after.status == "cancelled"

    @invariant()
    def every_move_is_on_the_map(self) -> None:
        for job in self.store.newest(99):
            status = self.seen.get(job.id, "queued")
            assert status == job.status or (status, job.status) in TRANSITIONS
            assert status not in FINAL or job.status == status
            assert job.attempt <= MAX_ATTEMPTS
            assert (job.owner is None) == (job.status != "in_progress")
            assert (job.completed_at is None) == (job.status not in FINAL)
            self.seen[job.id] = job.status


TestJobMachine = JobMachine.TestCase
TestJobMachine.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
