# ruff: noqa: F811  (a fixture of another module, as pytest wants it)
"""A store that checks signatures and keeps its data on disk: all that goes to S3, with the wrong key, after a crash.

Against OpenStack Swift as real processes; skipped, with the reason, where it is not installed.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from mlflow.store.artifact import s3_artifact_repo
from s3fs import S3FileSystem

from flows import share
from flows.local import log_path
from ovi import s3, storage, tracking
from ovi.config import Tracking
from ovi.errors import OviError
from tests import swift_store
from tests.flows import toy
from tests.flows.test_share import another, made  # noqa: F401
from tests.swift_store import KEY, SECRET, Swift
from tests.training.rough_way import rough_way

LARGE = hashlib.shake_256(b"parts").digest(20_000_001)  # three parts of an upload


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    if reason := swift_store.missing():
        pytest.skip(reason)
    with swift_store.swift(tmp_path_factory.mktemp("swift") / "store") as store:
        yield store


@pytest.fixture
def become(server: Swift, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """become(key, secret, url): whom this process is to the store from now on, and by which way."""

    def become(key: str = KEY, secret: str = SECRET, url: str = server.url) -> None:
        values = {"ENDPOINT_URL": url, "ACCESS_KEY_ID": key, "SECRET_ACCESS_KEY": secret, "DEFAULT_REGION": "us-east-1"}
        for name, value in values.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        _forget()

    become()
    yield become
    _forget()


def _forget() -> None:
    """The connections and keys that our libraries keep for as long as a process lives."""
    s3._client.cache_clear()
    boto3.setup_default_session()
    s3_artifact_repo._cached_get_s3_client.cache_clear()
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def place(become: Callable[..., None], request: pytest.FixtureRequest) -> str:
    """s3://... of an empty bucket."""
    name = request.node.name.split("[")[0].removeprefix("test_").replace("_", "-")[:60].strip("-")
    s3.client().create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def notes(place: str, migrated: Path, tmp_path: Path) -> Tracking:
    """MLflow with its artifacts in the bucket."""
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=f"{place}/mlflow", experiment="signed")


def test_who_has_not_the_key_gets_one_line(
    become: Callable[..., None], place: str, notes: Tracking, made: Path, tmp_path: Path
) -> None:
    held = f"{place}/held"
    storage.write_bytes(held, b"kept")
    (tmp_path / "large").write_bytes(LARGE)
    clone, there = another(made), f"data.remote={place}"
    run = tracking.Run.open(notes, "run")
    refused = r"the store refuses \((403|SignatureDoesNotMatch)\); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
    for key, secret in ((KEY, "another"), ("ovi:nobody", SECRET)):
        become(key, secret)
        for ask in (
            lambda: storage.read_bytes(held),
            lambda: storage.write_bytes(held, b"mine"),
            lambda: storage.upload(tmp_path / "large", held),
            lambda: storage.listing(place),
            lambda: storage.delete(held),
            lambda: storage.open_read(held),
            lambda: storage.exists(held),
            lambda: storage.download(held, tmp_path / "back"),
        ):
            with pytest.raises(OviError, match=refused):
                ask()
        for root, exchange in ((made, share.push), (clone, share.pull)):
            with pytest.raises(OviError, match=rf"data\.remote: {place}: .*; check the address and the AWS_"):
                exchange(root, toy.settings(root, there))
        with pytest.raises(OviError, match=r"tracking\.artifacts: .* is not kept .*SignatureDoesNotMatch"):
            run.log_file(tmp_path / "large")
    become()
    assert storage.listing(place) == [(held, 4, f'"{hashlib.md5(b"kept").hexdigest()}"')]


def test_what_was_acknowledged_outlives_a_crash(
    place: str, notes: Tracking, made: Path, server: Swift, tmp_path: Path
) -> None:
    there = f"data.remote={place}/dvc"
    assert share.push(made, toy.settings(made, there)) == f"{place}/dvc: 4 files sent"
    (tmp_path / "large").write_bytes(LARGE)
    storage.upload(tmp_path / "large", f"{place}/large")
    storage.write_bytes(f"{place}/small", b"0123456789")
    run = tracking.Run.open(notes, "run")
    run.log_file(tmp_path / "large", "samples")
    run.close()
    server.kill()
    server.start()
    assert s3.client().head_object(Bucket=place.removeprefix("s3://"), Key="large")["ETag"].endswith('-3"')  # parts
    storage.download(f"{place}/large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == LARGE
    assert storage.read_bytes(f"{place}/small", 3, 4) == b"3456"
    assert storage.listing(place)[-1][:2] == (f"{place}/small", 10)
    kept = run._client.download_artifacts(run.id, "samples/large", str(tmp_path))
    assert Path(kept).read_bytes() == LARGE
    assert share.push(made, toy.settings(made, there)) == f"{place}/dvc: 0 files sent"
    root = another(made)
    assert share.pull(root, toy.settings(root, there)).endswith("files fetched; every stage is up to date")
    for name in ("data/first.txt", "data/second/a.txt", "data/second/b.txt"):
        assert (root / name).read_bytes() == (made / name).read_bytes()
    storage.delete(f"{place}/small")
    assert not storage.exists(f"{place}/small")


def test_hiccups_pass_and_an_upload_that_breaks_leaves_the_old_file(
    place: str, become: Callable[..., None], server: Swift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    (tmp_path / "large").write_bytes(LARGE)
    seen: set[tuple[str, str]] = set()

    def first_fails(method: str, path: str) -> str:
        if (method, path) in seen:
            return "well"
        seen.add((method, path))
        return ("500", "503")[len(seen) % 2]

    with rough_way(server.url) as way:
        become(url=way.url)
        way.mood = first_fails
        storage.upload(tmp_path / "large", f"{place}/large")
        assert storage.sha256(f"{place}/large") == hashlib.sha256(LARGE).hexdigest()
        assert len(seen) >= 6  # three parts, their beginning and end, reading them
        (tmp_path / "large").write_bytes(LARGE[::-1])
        way.mood = lambda method, path: "503" if "partNumber=2" in path else "well"
        with pytest.raises(OviError, match=r"the store answers 503 .*run the same command again"):
            storage.upload(tmp_path / "large", f"{place}/large")
        way.mood = lambda method, path: "well"
        assert storage.sha256(f"{place}/large") == hashlib.sha256(LARGE).hexdigest()
        left = s3.client().list_multipart_uploads(Bucket=place.removeprefix("s3://"))
        assert left.get("Uploads", []) == []  # no parts that nobody will ever finish


def test_a_bucket_that_is_not_there_is_named(
    place: str,
    notes: Tracking,
    made: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "large").write_bytes(LARGE)
    nowhere = "s3://nobody-made-it"
    for ask in (
        lambda: storage.write_bytes(f"{nowhere}/file", b"1"),
        lambda: storage.upload(tmp_path / "large", f"{nowhere}/file"),
        lambda: storage.listing(nowhere),
    ):
        with pytest.raises(OviError, match=f"{nowhere}.*: no such bucket; create it or correct the address"):
            ask()
    with pytest.raises(OviError, match=rf"data\.remote: {nowhere}: .*; check the address"):
        share.push(made, toy.settings(made, f"data.remote={nowhere}"))
    run = tracking.Run.open(notes.model_copy(update={"artifacts": nowhere, "experiment": "nowhere"}), "run")
    with pytest.raises(OviError, match=r"tracking\.artifacts: .*NoSuchBucket"):
        run.log_file(log_path(made, "first"))
