"""MLflow: runs, metrics, files, dataset digests, the model registry. The only module that imports mlflow.

MLflow records what happened; it never holds weights (the registry knows the model folder's address and its digest) and
never decides an order. Metric timestamps are a function of the step, so that a step logged twice after a restart leaves
one point. Importing mlflow takes two seconds, so this module does it on first use.
Try it: `ovi ui`, then open the MLflow address.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ovi.config import Tracking
from ovi.errors import OviError, one_line

EPOCH_MS = 1_700_000_000_000  # step s of every run is logged at EPOCH_MS + 1000 s: replays overwrite themselves
FLUSH_POINTS = 500  # at once
ENTRY_S = 60.0  # of trying to append to a log that others append to
EXISTS = "RESOURCE_ALREADY_EXISTS"
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the second is said of an alias


class TrackingError(OviError):
    """MLflow or one of its stores is away, or refuses; `code` is MLflow's own word for why, or empty."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1:***@", message))  # without a password
        self.code = code


class Run:
    """One MLflow run. Opened by a stage it is the run named by MLFLOW_RUN_ID, if the caller set that."""

    def __init__(self, client: Any, run_id: str, owned: bool) -> None:
        self.id = run_id
        self._client = client
        self._owned = owned  # a run opened by our caller is closed by our caller
        self._points: list[Any] = []

    @classmethod
    def open(
        cls,
        tracking: Tracking,
        name: str,
        parent: str | None = None,
        tags: dict[str, str] | None = None,
        key: str | None = None,
    ) -> Run:
        """The caller's run if MLFLOW_RUN_ID is set; else the newest run tagged ovi.key=`key`; else a new one.

        Raises TrackingError when the store cannot be reached, as does everything below.
        """
        client = _client(tracking.uri)
        given = os.environ.get("MLFLOW_RUN_ID")
        if given:
            return cls(client, given, owned=False)
        experiment = _experiment(tracking)
        labels = {"mlflow.runName": name, **(tags or {})}
        if key:
            found = client.search_runs([experiment], filter_string=f"tags.`ovi.key` = '{key}'", max_results=1)
            if found:
                client.update_run(found[0].info.run_id, status="RUNNING")
                return cls(client, found[0].info.run_id, owned=True)
            labels["ovi.key"] = key
        if parent:
            labels["mlflow.parentRunId"] = parent
        run = client.create_run(experiment, tags=labels, run_name=name)
        return cls(client, run.info.run_id, owned=True)

    @classmethod
    def at(cls, tracking: Tracking, run_id: str) -> Run:
        """A run that is there already; closing it writes what is buffered and leaves its status."""
        return cls(_client(tracking.uri), run_id, owned=False)

    def log_params(self, values: dict[str, Any], prefix: str = "") -> None:
        """Nested settings, flattened with dots. A parameter that is already there keeps its value."""
        from mlflow.entities import Param

        known = self._client.get_run(self.id).data.params
        new = {name: str(value)[:500] for name, value in flatten(values, prefix).items() if name not in known}
        items = [Param(name, value) for name, value in sorted(new.items())]
        for at in range(0, len(items), 100):
            self._client.log_batch(self.id, params=items[at : at + 100])

    def log_metrics(self, values: dict[str, float | None], step: int = 0) -> None:
        """Numbers at a step, buffered until `flush`; null ones are left out (the stage's own files say why)."""
        from mlflow.entities import Metric

        at = EPOCH_MS + 1000 * step
        self._points += [Metric(name, float(value), at, step) for name, value in values.items() if value is not None]

    def log_file(self, path: str | Path, folder: str = "") -> None:
        """Raises TrackingError when the artifact store does not take it."""
        try:
            self._client.mlflow.log_artifact(self.id, str(path), folder or None)
        except Exception as error:  # MLflow's own, boto3's and urllib3's: all the same to whoever set the store
            raise TrackingError(
                f"tracking.artifacts: {path} is not kept ({one_line(error)}); check the address and the AWS_* variables"
            ) from None

    def log_dataset(self, name: str, source: str, digest: str) -> None:
        """A data version this run read: its name, where it is and its content hash (at most 36 characters are kept)."""
        from mlflow.entities import Dataset, DatasetInput

        entry = Dataset(name=name, digest=digest[:36], source_type="local", source=source)
        self._client.log_inputs(self.id, datasets=[DatasetInput(entry, [])])

    def set_tags(self, tags: dict[str, str]) -> None:
        for name, value in sorted(tags.items()):
            self._client.set_tag(self.id, name, value)

    def flush(self) -> None:
        """Write what is buffered. What the store does not take stays buffered."""
        while self._points:
            self._client.log_batch(self.id, metrics=self._points[:FLUSH_POINTS])
            del self._points[:FLUSH_POINTS]

    def close(self, status: str = "FINISHED") -> None:
        """Write what is buffered; end the run if it was opened here. `status`: FINISHED, FAILED or KILLED."""
        self.flush()
        if self._owned:
            self._client.set_terminated(self.id, status)

    def leave(self, status: str) -> None:
        """Close it if the store takes that: the work that is done, or the error that is on its way, matters more."""
        with contextlib.suppress(TrackingError):
            self.close(status)


def register_version(tracking: Tracking, name: str, digest: str, address: str, run_id: str | None) -> str:
    """The registry version of `name` with this digest, made if there is none; it lies at `address` now. Its number.

    What MLflow calls its source is its digest: a server takes no folder of another machine for one.
    """
    client = _client(tracking.uri)
    _make_model(client, name)
    for version in _all_versions(tracking, name):
        if version.tags.get("digest") == digest:
            client.set_model_version_tag(name, version.version, "address", address)
            return str(version.version)
    tags = {"digest": digest, "address": address}
    return str(client.create_model_version(name, source=f"sha256:/{digest}", run_id=run_id, tags=tags).version)


def tag_version(tracking: Tracking, name: str, version: str, tags: dict[str, str]) -> None:
    for key, value in sorted(tags.items()):
        _client(tracking.uri).set_model_version_tag(name, version, key, value)


def set_alias(tracking: Tracking, name: str, alias: str, version: str) -> None:
    _client(tracking.uri).set_registered_model_alias(name, alias, version)


def get_alias(tracking: Tracking, name: str, alias: str) -> str | None:
    """The version an alias points at, None when there is no such model or alias."""
    try:
        return str(_client(tracking.uri).get_model_version_by_alias(name, alias).version)
    except TrackingError as error:
        if error.code in ABSENT:
            return None
        raise


def append_entry(tracking: Tracking, log: str, values: dict[str, str]) -> int:
    """Add an entry to an append-only log in the registry; its number. Writers at once get different numbers."""
    client, until, pause = _client(tracking.uri), time.monotonic() + ENTRY_S, 0.05
    while True:
        try:
            _make_model(client, log)
            return int(client.create_model_version(log, source="log:/entry", tags=values).version)
        except TrackingError as error:  # two writers took one number, or the database was busy
            if error.code in ABSENT or time.monotonic() > until:
                raise
            time.sleep(pause * random.random())
            pause = min(1.0, pause + 0.05)


def read_entries(tracking: Tracking, log: str) -> list[tuple[int, dict[str, str]]]:
    """(number, values) of a log in the registry, the oldest first; empty when there is none."""
    return sorted((int(entry.version), dict(entry.tags)) for entry in _all_versions(tracking, log))


def versions(tracking: Tracking, name: str) -> dict[str, dict[str, Any]]:
    """Every registry version of a model: number -> {run_id, tags}."""
    return {str(v.version): {"run_id": v.run_id, "tags": dict(v.tags)} for v in _all_versions(tracking, name)}


def find_runs(tracking: Tracking, where: str) -> list[dict[str, Any]]:
    """Runs that match an MLflow filter, the newest first: {id, name, status, tags, params, metrics, datasets}."""
    client = _client(tracking.uri)
    experiment = client.get_experiment_by_name(tracking.experiment)
    if experiment is None:
        return []
    runs = client.search_runs([experiment.experiment_id], filter_string=where, max_results=1000)
    return [
        {
            "id": run.info.run_id, "name": run.info.run_name, "status": run.info.status, "tags": dict(run.data.tags),
            "params": dict(run.data.params), "metrics": dict(run.data.metrics),
            "datasets": {entry.dataset.name: entry.dataset.digest for entry in run.inputs.dataset_inputs},
        }
        for run in runs
    ]  # fmt: skip


def model_source(tracking: Tracking, uri: str) -> tuple[str, str]:
    """(address of the model folder, its digest) of a registry URI: models:/NAME@ALIAS or models:/NAME/VERSION.

    Raises OviError when there is no such model.
    """
    name, at, alias = uri.removeprefix("models:/").partition("@")
    client = _client(tracking.uri)
    try:
        if at:
            found = client.get_model_version_by_alias(name, alias)
        else:
            name, _, version = name.partition("/")
            found = client.get_model_version(name, version)
    except TrackingError as error:
        if error.code not in ABSENT:
            raise
        raise TrackingError(f"model: {uri} is not in the registry of tracking.uri {tracking.uri}", error.code) from None
    return str(found.tags.get("address", found.source)), str(found.tags.get("digest", ""))


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        flat.update(flatten(value, key) if isinstance(value, dict) else {key: value})
    return flat


class _Client:
    """MLflow's client at `uri`, with errors of ours."""

    def __init__(self, uri: str) -> None:
        import logging

        for chatty in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        self._uri = uri
        with _refusals(uri):
            if uri.startswith("sqlite:///"):
                Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            self.mlflow = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def __getattr__(self, name: str) -> Any:
        ask = getattr(self.mlflow, name)

        def asked(*args: Any, **named: Any) -> Any:
            with _refusals(self._uri):
                return ask(*args, **named)

        return asked


_client = cache(_Client)


@contextlib.contextmanager
def _refusals(uri: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        code = getattr(error, "error_code", "")
        raise TrackingError(f"tracking.uri: {uri} cannot be used ({one_line(error)})", code) from None


def _make_model(client: _Client, name: str) -> None:
    try:
        client.create_registered_model(name)
    except TrackingError as error:
        if error.code != EXISTS:
            raise


def _all_versions(tracking: Tracking, name: str) -> list[Any]:
    client, found, token = _client(tracking.uri), [], None
    while True:
        page = client.search_model_versions(f"name='{name}'", max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _experiment(tracking: Tracking) -> str:
    client = _client(tracking.uri)
    found = client.get_experiment_by_name(tracking.experiment)
    if found:
        return str(found.experiment_id)
    place = tracking.artifacts if "://" in tracking.artifacts else Path(tracking.artifacts).absolute().as_uri()
    try:
        return str(client.create_experiment(tracking.experiment, artifact_location=place))
    except TrackingError as error:
        if error.code != EXISTS:  # another stage made it in the same moment
            raise
        return str(client.get_experiment_by_name(tracking.experiment).experiment_id)
