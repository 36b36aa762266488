"""Fixtures of the study: a store of a study of names, and the HTTP app over one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.study.app import Study, create_app
from services.study.pairs import Pairs
from services.study.store import StudyStore
from tests.services.study.made import paper_pairs

SECRET = "a-secret-of-the-organiser"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StudyStore]:
    store = StudyStore.in_folder(tmp_path / "study")
    store.open(paper_pairs(), each=6, seed=3)
    yield store
    store.close()


@pytest.fixture
def client(store: StudyStore, tmp_path: Path) -> Iterator[TestClient]:
    """Every clip's content is its own name: what a rater must never read in a header or an address."""
    clips = tmp_path / "clips"
    clips.mkdir()
    pairs: Pairs = paper_pairs()
    names = [name for models in pairs.clips.values() for name in models.values()]
    for name in names + [clip for check in pairs.checks for clip in (check.good, check.bad)]:
        (clips / name).write_bytes(b"content of " + name.encode()[:3])
    app = create_app(Study(store, clips, SECRET))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
