"""A worker's hold on a job: what is told arrives, who asks to stop is heard, and the database may be away."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from sqlalchemy.exc import OperationalError

from services.generation.hold import Cancelled, Hold
from services.generation.jobs import JobStore, LeaseLost
from services.generation.schemas import Served, VideoRequest, resolve
from services.generation.table import Job


@pytest.fixture
def lease(jobs: JobStore, served: Served) -> Job:
    jobs.submit(resolve(VideoRequest(prompt="x", steps=9), served), bound=9)
    lease = jobs.claim("me")
    assert lease is not None
    return lease


def wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_last_of_many_words_is_in_the_table_and_the_first_picture_too(jobs: JobStore, lease: Job) -> None:
    with Hold(jobs, lease) as hold:
        hold.tell(1, b"picture")
        for step in range(2, 9):
            hold.tell(step)
        wait(lambda: (now := jobs.get(lease.id)) is not None and now.step == 8)
        assert jobs.attachment(lease.id, "preview") == b"picture"


def test_what_is_settled_is_in_the_table(jobs: JobStore, lease: Job) -> None:
    with Hold(jobs, lease) as hold:
        for step in range(1, 10):
            hold.settle(step)
            assert (now := jobs.get(lease.id)) is not None
            assert now.step == step


@pytest.mark.parametrize("settled", [False, True])
def test_a_cancelled_job_stops_at_its_next_word(jobs: JobStore, lease: Job, settled: bool) -> None:
    def go_on() -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            hold.settle(2) if settled else hold.tell(2)

    with Hold(jobs, lease) as hold:
        jobs.cancel(lease.id)
        with pytest.raises(Cancelled):
            go_on()


def test_a_lost_lease_is_found_at_the_latest_before_anything_is_published(jobs: JobStore, lease: Job) -> None:
    with Hold(jobs, lease) as hold:
        hold.tell(1)
        jobs.delete(lease.id)
        with pytest.raises(LeaseLost):
            hold.settle(9)


def test_a_lease_is_prolonged_however_long_a_step_takes(
    jobs: JobStore, lease: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.generation.hold.BEAT_S", 0.01)
    with Hold(jobs, lease):
        wait(lambda: (now := jobs.get(lease.id)) is not None and (now.lease_until or 0) > (lease.lease_until or 0))
    assert (now := jobs.get(lease.id)) is not None
    assert now.step == 0


def test_a_database_that_was_away_hears_it_later(jobs: JobStore, lease: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    renew, away = jobs.renew, [OperationalError("", {}, OSError("away")) for _ in range(3)]

    def moody(*words: object) -> bool:
        if away:
            raise away.pop()
        return renew(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "renew", moody)
    with Hold(jobs, lease) as hold:
        hold.tell(3, b"picture")
        wait(lambda: not away)
        wait(lambda: (now := jobs.get(lease.id)) is not None and now.step == 3)
        assert jobs.attachment(lease.id, "preview") == b"picture"


def test_nothing_is_settled_while_the_database_is_away(
    jobs: JobStore, lease: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise OperationalError("", {}, OSError("away"))

    monkeypatch.setattr(jobs, "renew", fail)
    with Hold(jobs, lease) as hold, pytest.raises(OperationalError):
        hold.settle(9)
