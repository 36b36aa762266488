"""Random lives of jobs: whatever happens in whatever order, the table keeps what its documentation promises."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from services.generation.jobs import FINAL, MAX_ATTEMPTS, TRANSITIONS, JobStore, LeaseLost, QueueFull, sqlite
from services.generation.table import Job
from tests.services import postgres
from tests.services.test_jobs import WORK


class JobMachine(RuleBasedStateMachine):
    """Random lives of jobs against what the documentation promises."""

    jobs: Bundle[str] = Bundle("jobs")
    leases: Bundle[Job] = Bundle("leases")

    def __init__(self, url: str) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        if url.startswith("postgresql"):
            postgres.empty(url)
            self.store = JobStore(url)
        else:
            self.store = JobStore(sqlite(Path(self.folder.name)))
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


def test_random_lives_keep_what_the_documentation_promises(url: str) -> None:
    few = settings(max_examples=15, stateful_step_count=20, deadline=None)
    run_state_machine_as_test(lambda: JobMachine(url), settings=few)
