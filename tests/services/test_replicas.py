"""Two servers, one PostgreSQL, one bucket of clips: either answers for any job, and takes over what a dead one left."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from ovi import storage
from ovi.config import Settings
from services.generation.jobs import JobStore
from services.generation.places import DATABASE, RESULTS
from services.generation.results import VARIANTS
from tests.services import postgres
from tests.services.models import lay_bundle
from tests.services.test_server import LONG, Running


@pytest.mark.e2e
def test_what_a_killed_server_left_is_finished_by_the_other(
    tmp_path: Path, database: str, bucket: str, settings: Settings, model: Path
) -> None:
    postgres.empty(database)
    bundle = lay_bundle(tmp_path / "bundle", model, settings)
    shared = {DATABASE: database, RESULTS: f"{bucket}/clips"}
    servers = [Running(bundle, tmp_path / name, **shared) for name in "ab"]
    jobs = JobStore(database)
    try:
        for server in servers:
            server.start()
        calm = servers[0].finish(servers[1].submit(LONG))
        job = servers[0].submit(LONG | {"steps": 200})
        servers[1].reach(job, 2)
        owner = jobs.get(job).owner  # type: ignore[union-attr]
        assert owner is not None
        killed, left = sorted(servers, key=lambda one: not owner.startswith((one.state / "replica").read_text()))
        killed_at = int(time.time())
        os.kill(killed.process.pid, signal.SIGKILL)
        killed.process.wait()
        done = left.finish(job)
        assert done["status"] == "completed", done
        assert done["started_at"] >= killed_at  # anew, in the other's worker
        again = left.finish(left.submit(LONG))
        assert again["sha256"] == calm["sha256"]
        url = f"/v1/videos/{calm['id']}/content"
        clip = left.client.get(url).content  # whoever made it
        assert hashlib.sha256(clip).hexdigest() == calm["sha256"]
        assert left.client.get(url, headers={"Range": "bytes=4-7"}).content == b"ftyp"
        link = left.client.get(url, params={"link": True}).headers["location"]
        assert httpx.get(link, trust_env=False).content == clip
        assert len(storage.list_files(bucket)) == 3 * len(VARIANTS)
        left.client.delete(f"/v1/videos/{calm['id']}")
        assert len(storage.list_files(bucket)) == 2 * len(VARIANTS)
        for server in servers:
            assert not any((server.state / "making").glob("*.png"))
    finally:
        jobs.close()
        for server in servers:
            server.end()
