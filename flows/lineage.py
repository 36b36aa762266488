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
from flows.workspace import Workspace
from ovi import config
from ovi.config import Settings
from ovi.tracking import Run, TrackingError

STOPPED = (Status.PREEMPTED, Status.CANCELLED)


class Lineage:
    """The runs of one pipeline, open as long as the `with` block; left by a signal it is KILLED, by an error FAILED.

    Enter it while holding the workspace's lock: what a killed pipeline left open is closed first (out/runs says what).
    """

    def __init__(self, workspace: Workspace, settings: Settings) -> None:
        self._workspace, self._settings = workspace, settings
        self._code = code_tags(workspace.root)

    def __enter__(self) -> Self:
        for name, record in self._workspace.records().items():
            if record.get("state") == "running":
                Run.open(self._settings.tracking, name, key=record["key"]).close("KILLED")
                self._workspace.record(name, **{**record, "state": "killed"})
        # the same run for the same settings and commit, so that a continued pipeline stays one run
        text = config.dump(self._settings) + self._code["mlflow.source.git.commit"]
        key = f"pipeline {hashlib.sha256(text.encode()).hexdigest()}"
        self._parent = Run.open(
            self._settings.tracking, "pipeline", tags={"ovi.profile": self._settings.profile}, key=key
        )
        self._parent.set_tags(self._code)
        self._parent.log_params(self._settings.model_dump(mode="json"))
        self._workspace.record("pipeline", state="running", key=key)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        with contextlib.suppress(TrackingError) if kind else contextlib.nullcontext():  # what went wrong first is told
            self._parent.close(status)
        self._workspace.record("pipeline", state=status.lower())

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
        if outcome is None:
            run.close("KILLED")
            self._workspace.record(stage, state="killed", key=key, run=run.id)
            return
        done = hashes is not None
        run.set_tags({"ovi.image": outcome.image} if outcome.image else {})
        run.log_metrics(outcome.result.get("figures", {}))  # of stages that may not know of MLflow themselves
        run.log_metrics({"stage/seconds": outcome.seconds, "stage/peak_gib": outcome.peak_bytes / 2**30})
        run.log_metrics({"cost/gpu_hours": outcome.gpu_seconds / 3600, "cost/attempts": outcome.attempts})
        run.log_metrics({"cost/gpu_hours_lost": outcome.gpu_seconds_lost / 3600})
        run.set_tags({f"ovi.output.{path}": value for path, value in (hashes or {}).items()})
        run.close("FINISHED" if done else "KILLED" if outcome.status in STOPPED else "FAILED")
        self._workspace.record(
            stage,
            state="done" if done else "failed",
            key=key,
            run=run.id,
            seconds=round(outcome.seconds, 1),
            peak_bytes=outcome.peak_bytes,
            image=outcome.image or None,
            result=_plain(outcome.result),
        )


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
