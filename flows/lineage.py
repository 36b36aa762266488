"""What ran on what, in MLflow: one run a pipeline, one child run a stage, found again by the key of what it reads.

The child exists before the stage starts and reaches it as MLFLOW_RUN_ID, so an attempt after a crash goes on in the
same run. Data versions are logged as dataset inputs, hashes of code and outputs as tags.
Try it: `ovi demo`, then `ovi ui`.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
from pathlib import Path
from typing import Any, Self

from flows.jobs import Outcome, Status
from flows.record import Inputs
from flows.view import say
from flows.workspace import Workspace
from ovi import config
from ovi.config import Settings, Tracking
from ovi.errors import one_line
from ovi.tracking import Run, TrackingError

STOPPED = (Status.PREEMPTED, Status.CANCELLED)


class Lineage:
    """The runs of one pipeline, open as long as the `with` block; left by a signal it is KILLED, by an error FAILED.

    Enter it while holding the workspace's lock: what a killed pipeline left open is closed first (out/runs says what).
    What MLflow does not take while it is away waits in out/runs, too: no stage fails or runs twice because of it.
    """

    def __init__(self, workspace: Workspace, settings: Settings) -> None:
        self._workspace, self._settings = workspace, settings
        self._code = code_tags(workspace.root)

    def __enter__(self) -> Self:
        for name, record in self._workspace.records().items():
            if record.get("state") == "running":
                self._workspace.record(name, **{**record, "state": "killed", "untold": {"status": "KILLED"}})
        catch_up(self._workspace, self._settings.tracking)
        # the same run for the same settings and commit, so that a continued pipeline stays one run
        text = config.dump(self._settings) + self._code["mlflow.source.git.commit"]
        self._key = f"pipeline {hashlib.sha256(text.encode()).hexdigest()}"
        self._parent = Run.open(
            self._settings.tracking, "pipeline", tags={"ovi.profile": self._settings.profile}, key=self._key
        )
        self._parent.set_tags(self._code)
        self._parent.log_params(self._settings.model_dump(mode="json"))
        self._workspace.record("pipeline", state="running", key=self._key)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        self._workspace.record("pipeline", state=status.lower(), key=self._key, untold={"status": status})
        with contextlib.suppress(TrackingError) if kind else contextlib.nullcontext():  # what went wrong first is told
            catch_up(self._workspace, self._settings.tracking)

    def tag(self, **tags: str) -> None:
        """Tags of the pipeline's run, as ovi.<name>."""
        self._parent.set_tags({f"ovi.{name}": value for name, value in tags.items()})

    def open_stage(self, stage: str, inputs: Inputs) -> Run:
        run = Run.open(self._settings.tracking, stage, parent=self._parent.id, key=inputs.key)
        hashes = {f"ovi.input.{path}": value for path, value in {**inputs.data, **inputs.code}.items()}
        run.set_tags({**self._code, **hashes, "ovi.stage": stage, "mlflow.parentRunId": self._parent.id})
        run.log_params(inputs.params)
        for path, value in inputs.data.items():
            run.log_dataset(path, path, value)
        self._workspace.record(stage, state="running", key=inputs.key, run=run.id)
        return run

    def close_stage(
        self, stage: str, run: Run, key: str, outcome: Outcome | None, hashes: dict[str, str] | None
    ) -> None:
        """`outcome` None: it was interrupted. `hashes`: the outputs', None unless they were committed."""
        record: dict[str, Any] = {"state": "killed", "key": key, "run": run.id}
        untold: dict[str, Any] = {"status": "KILLED"}
        if outcome is not None:
            done = hashes is not None
            record |= {
                "state": "done" if done else "failed", "seconds": round(outcome.seconds, 1),
                "peak_bytes": outcome.peak_bytes, "image": outcome.image or None, "result": _plain(outcome.result),
            }  # fmt: skip
            untold = {
                "status": "FINISHED" if done else "KILLED" if outcome.status in STOPPED else "FAILED",
                "figures": {**outcome.result.get("figures", {}), **_costs(outcome)},
                "tags": {f"ovi.output.{path}": value for path, value in (hashes or {}).items()}
                | ({"ovi.image": outcome.image} if outcome.image else {}),
            }
        self._workspace.record(stage, **record, untold=untold)
        try:
            catch_up(self._workspace, self._settings.tracking)
        except TrackingError as error:
            say(f"{stage}: {one_line(error)}; what it did is told later")


def catch_up(workspace: Workspace, tracking: Tracking) -> None:
    """Tell MLflow what out/runs holds for it. Raises TrackingError when it is away."""
    for name, record in workspace.records().items():
        untold = record.pop("untold", None)
        if untold is None:
            continue
        run = Run.open(tracking, name, key=record["key"])
        run.set_tags(untold.get("tags", {}))
        run.log_metrics(untold.get("figures", {}))
        run.close(untold["status"])
        workspace.record(name, **record)


def _costs(outcome: Outcome) -> dict[str, float]:
    return {
        "stage/seconds": outcome.seconds, "stage/peak_gib": outcome.peak_bytes / 2**30,
        "cost/gpu_hours": outcome.gpu_seconds / 3600, "cost/gpu_hours_lost": outcome.gpu_seconds_lost / 3600,
        "cost/attempts": outcome.attempts,
    }  # fmt: skip


def code_tags(root: Path) -> dict[str, str]:
    """Commit and whether tracked files differ from it; dvc.lock is the pipeline's own and does not count."""
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock")
    return {"mlflow.source.git.commit": commit or "none", "ovi.git_dirty": str(bool(changed) or not commit).lower()}


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _plain(result: Any) -> dict[str, Any]:
    return {name: value for name, value in result.items() if isinstance(value, str | int | float | bool)}
