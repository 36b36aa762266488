"""Bundles: fetched by digest from a folder or a bucket, and followed by a name in a real MLflow registry."""

from __future__ import annotations

import shutil
import threading
from functools import partial
from pathlib import Path

import pytest

from ovi import storage
from ovi.config import Settings, Tracking
from ovi.errors import OviError
from ovi.models.folder import ModelFolder
from ovi.tracking import register_version, set_alias
from services.generation import registry
from services.generation.bundle import describe, fetch
from services.generation.registry import Registry
from services.generation.schemas import SERVED, Served
from services.generation.server import _complete
from tests.services.models import save_tiny_model
from tests.services.test_server import wait


def served_is(link: Path, digest: str) -> bool:
    return link.exists() and Served.read(link).digest == digest


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, settings: Settings, model: Path) -> list[Path]:
    return [model, save_tiny_model(tmp_path_factory.mktemp("other") / "model", settings, seed=1)]


@pytest.fixture
def like(settings: Settings, models: list[Path]) -> Served:
    return describe(settings, ModelFolder.open(models[0])).model_copy(update={"queue": 7})


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_a_model_is_fetched_by_its_digest(
    tmp_path: Path, request: pytest.FixtureRequest, models: list[Path], like: Served, settings: Settings, where: str
) -> None:
    source, digest = str(models[1]), ModelFolder.open(models[1]).digest
    if where == "bucket":
        source = request.getfixturevalue("bucket") + "/models/x"
        for file in models[1].iterdir():
            storage.upload(file, f"{source}/{file.name}")
    bundle = fetch(source, digest, like, tmp_path / "models", {"registry": "models:/ovi@champion"})
    served = Served.read(bundle)
    assert ModelFolder.open(bundle / "model").digest == digest
    assert served == describe(settings, ModelFolder.open(models[1])).model_copy(
        update={"queue": 7, "origin": {"registry": "models:/ovi@champion"}}
    )
    assert fetch("s3://nowhere/at-all", digest, like, tmp_path / "models", {}) == bundle  # it is there already
    with pytest.raises(OviError, match="holds another model by now"):
        fetch(source, "0" * 64, like, tmp_path / "models", {})
    assert [path.name for path in (tmp_path / "models").iterdir()] == [digest[:16]]


def test_a_bento_without_weights_gets_them_where_it_names_them(
    tmp_path: Path, bucket: str, models: list[Path], like: Served
) -> None:
    folder = ModelFolder.open(models[0])
    for _ in range(2):  # the second time everything is there
        weights = folder.put(bucket, print)
    storage.write_json(
        tmp_path / "bento" / SERVED, like.model_copy(update={"weights": weights}).model_dump(mode="json")
    )
    bundle = _complete(tmp_path / "bento", tmp_path / "models")
    assert ModelFolder.open(bundle / "model").digest == folder.digest
    assert Served.read(bundle) == like
    assert _complete(bundle, tmp_path / "models") == bundle


def test_what_is_damaged_or_reaches_outside_is_not_served(tmp_path: Path, models: list[Path], like: Served) -> None:
    digest = ModelFolder.open(models[1]).digest
    bad = tmp_path / "bad"
    shutil.copytree(models[1], bad)
    weights = next(path for path in bad.iterdir() if path.suffix == ".safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(OviError):
        fetch(str(bad), digest, like, tmp_path / "models", {})
    weights.unlink()
    with pytest.raises(OviError, match=f"has no {weights.name}"):
        fetch(str(bad), digest, like, tmp_path / "models", {})
    about = storage.read_json(bad / "model.json")
    about["config"]["file"] = "../../secret.json"
    storage.write_json(bad / "model.json", about)
    with pytest.raises(OviError, match="outside itself"):
        fetch(str(bad), digest, like, tmp_path / "models", {})
    assert list((tmp_path / "models").iterdir()) == []


def test_an_alias_is_followed_there_and_back_and_kept_when_the_registry_is_away(
    tmp_path: Path, models: list[Path], like: Served, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tracking = Tracking(uri=f"sqlite:///{tmp_path / 'mlflow.db'}", artifacts=str(tmp_path / "artifacts"))
    digests = [ModelFolder.open(model).digest for model in models]
    follower = Registry("models:/ovi@champion", tracking, like, tmp_path / "models")
    assert not follower.look()  # nobody is champion yet
    assert not follower.link.exists()
    assert "is not in the registry" in capfd.readouterr().err
    versions = [
        register_version(tracking, "ovi", digest, str(model), None)
        for model, digest in zip(models, digests, strict=True)
    ]
    monkeypatch.setattr(registry, "LOOK_S", 0.02)
    ended = threading.Event()
    thread = threading.Thread(target=follower.follow, args=(ended,))
    thread.start()
    try:
        for index in (0, 1, 0):
            set_alias(tracking, "ovi", "champion", versions[index])
            wait(partial(served_is, follower.link, digests[index]), "it is followed")
    finally:
        ended.set()
        thread.join()
    set_alias(tracking, "ovi", "champion", register_version(tracking, "ovi", "f" * 64, "/gone", None))
    assert not follower.look()
    assert "registry_away" in capfd.readouterr().err
    assert Served.read(follower.link).digest == digests[0]
