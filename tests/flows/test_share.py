"""Outputs travel between clones through a folder and through S3 over real HTTP."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from flows import share
from flows.graph import Graph
from flows.jobs import JobSpec, Status
from flows.local import LocalExecutor
from flows.workspace import Workspace
from ovi.errors import ConfigError, OviError
from tests.flows import toy


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="team")
    yield "s3://team/ovi"
    server.stop()


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A toy clone whose three stages ran."""
    root = toy.make(tmp_path / "one")
    Workspace(root).prepare(toy.settings(root))
    graph = Graph(root)
    for stage in graph.order:
        running = graph.begin(stage)
        assert LocalExecutor(root).run(JobSpec(stage, graph.command(stage)), lambda _: None).status is Status.SUCCEEDED
        graph.commit(running)
    graph.close()
    return root


def another(made: Path) -> Path:
    """A second clone: what git brings, and nothing else."""
    root = toy.make(made.parent / "two")
    shutil.copy(made / "dvc.lock", root / "dvc.lock")
    (root / "out").mkdir()
    shutil.copy(made / "out/third.json", root / "out/third.json")  # a metric: git has it
    return root


def exchanged(made: Path, remote: str) -> None:
    there = f"data.remote={remote}"
    assert share.push(made, toy.settings(made, there)) == f"{remote}: 4 files sent"  # three and the list of a folder
    assert share.push(made, toy.settings(made, there)) == f"{remote}: 0 files sent"
    root = another(made)
    words = share.pull(root, toy.settings(root, there))
    assert words.endswith("files fetched; every stage is up to date")
    for name in ("data/first.txt", "data/second/a.txt", "data/second/b.txt"):
        assert (root / name).read_bytes() == (made / name).read_bytes()
    assert toy.ran(root) == []
    changed = share.pull(root, toy.settings(root, there, "sampling.steps=9"))
    assert changed.endswith("0 files fetched; still to be run: second")


def test_through_a_folder(made: Path, tmp_path: Path) -> None:
    exchanged(made, str(tmp_path / "remote"))


def test_through_s3(made: Path, bucket: str) -> None:
    exchanged(made, bucket)
    keys = [item["Key"] for item in boto3.client("s3").list_objects_v2(Bucket="team")["Contents"]]
    assert all(key.startswith("ovi/files/md5/") for key in keys)


def test_what_cannot_be_used_is_one_line(made: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"data\.remote: not set; name a folder or s3://bucket/prefix"):
        share.push(made, toy.settings(made))
    with pytest.raises(OviError, match=r"data\.remote: s3://nobody/ovi: .*; check the address and the AWS_"):
        share.push(made, toy.settings(made, "data.remote=s3://nobody/ovi"))
    empty = share.pull(another(made), toy.settings(made, "data.remote=s3://team/empty"))
    assert empty == "s3://team/empty: 0 files fetched; still to be run: first, second, third"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(OviError, match=r"data\.remote: s3://team/ovi: .*; check the address"):
        share.push(made, toy.settings(made, "data.remote=s3://team/ovi"))
