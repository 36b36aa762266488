"""Latent sets in a folder and in a real S3 server on loopback, also by a way that breaks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ovi import s3, storage
from ovi.errors import OviError
from ovi.training.job import Job
from ovi.training.latents import LatentSet, Pool, Sample, read_empty_text
from tests.training import made
from tests.training.rough_way import RoughWay, rough_way


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.latents(tmp_path_factory.mktemp("latents") / "latents")


@pytest.fixture
def remote(folder: Path, bucket: str) -> str:
    for file in storage.list_files(folder):
        storage.upload(file, f"{bucket}/latents/{Path(file).name}")
    return f"{bucket}/latents"


@pytest.fixture
def way(store: str, remote: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RoughWay]:
    with rough_way(store) as way:
        monkeypatch.setenv("AWS_ENDPOINT_URL", way.url)
        monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
        s3._client.cache_clear()
        yield way


def same(one: Sample, two: Sample) -> bool:
    pairs = [(getattr(one, name), getattr(two, name)) for name in ("video", "audio", "text")]
    equal = all((a is None and b is None) or torch.equal(a, b) for a, b in pairs)
    return equal and (one.clip_id, one.caption) == (two.clip_id, two.caption)


def test_a_set_in_s3_is_the_set_in_a_folder(folder: Path, remote: str) -> None:
    for name in ("av", "pretrain"):
        here, there = (LatentSet.open(place, name, "train") for place in (folder, remote))
        assert here.ids == there.ids
        assert all(same(here.read(index), there.read(index)) for index in range(len(here)))
    assert torch.equal(read_empty_text(folder), read_empty_text(remote))


def test_only_the_bytes_of_a_sample_are_fetched(remote: str, way: RoughWay) -> None:
    latents = LatentSet.open(remote, "av", "train")
    way.asked.clear()
    latents.read(3)
    latents.read(3)
    assert [(method, path.rpartition("/")[2]) for method, path in way.asked] == [("GET", "av-train-00000.tar")]


@pytest.mark.parametrize("mood", ["500", "503", "slow", "cut"])
def test_what_passes_costs_nothing(folder: Path, remote: str, way: RoughWay, mood: str) -> None:
    left = [mood]
    want = LatentSet.open(folder, "av", "train").read(0)
    latents = LatentSet.open(remote, "av", "train")
    way.mood = lambda _method, _path: left.pop() if left else "well"
    assert same(latents.read(0), want)
    assert left == []


@pytest.mark.parametrize(("mood", "words"), [
    ("503", "the store answers 503"), ("cut", "cannot be reached"), ("flip", "member .* is damaged"),
])  # fmt: skip
def test_what_does_not_pass_is_one_line(remote: str, way: RoughWay, mood: str, words: str) -> None:
    latents = LatentSet.open(remote, "av", "train")
    way.mood = lambda _method, _path: mood
    with pytest.raises(OviError, match=words) as caught:
        latents.read(0)
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_one_line_before_anything_is_trained(folder: Path, tmp_path: Path, remote: str) -> None:
    shutil.copytree(folder, tmp_path / "latents")
    (tmp_path / "latents" / "av-train-00000.tar").unlink()
    storage.delete(f"{remote}/av-train-00000.tar")
    for place in (tmp_path / "latents", remote):
        with pytest.raises(OviError, match=r"av-train-00000.tar: no such shard, though it has an index"):
            LatentSet.open(place, "av", "train")
        assert len(Pool([LatentSet.open(place, "av", "val")])) == made.COUNTS["av"]["val"]


def test_a_shard_that_was_cut_short_is_one_line(folder: Path, tmp_path: Path, remote: str) -> None:
    shutil.copytree(folder, tmp_path / "latents")
    shard = tmp_path / "latents" / "av-train-00000.tar"
    os.truncate(shard, 512)
    storage.upload(shard, f"{remote}/{shard.name}")
    for place, words in ((tmp_path / "latents", "is damaged; make the shards again"), (remote, "it was cut short")):
        latents = LatentSet.open(place, "av", "train")
        with pytest.raises(OviError, match=rf"av-train-00000.tar: .*{words}") as caught:
            latents.read(len(latents) - 1)
        assert "\n" not in str(caught.value)


def test_where_latents_lie_does_not_change_a_training(folder: Path, remote: str, tmp_path: Path) -> None:
    settings = made.settings()
    here, there = (
        Job.make("video_backbone", settings, place, tmp_path / "models", tmp_path / "checkpoints")
        for place in (folder, remote)
    )
    assert here.key == there.key
    assert Job.from_json(there.to_json()).latents == remote
    assert Job.from_json(here.to_json()).latents == str(folder)
