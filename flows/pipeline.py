"""The Prefect flow `ovi-pipeline`: every stale stage of dvc.yaml, in its order, each as a task on an executor.

Imports prefect, as flows/deploy.py does and no other; import it once PREFECT_API_URL is set (flows/server.py). Tasks
are called, not submitted: a SIGTERM does not reach a submitted one. Knows no stage by name: the graph says what follows
what, the settings' `resources` say what a stage needs of a machine.
Try it: `ovi demo`.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.ending import prefect_told
from flows.executors import shares_a_folder
from flows.graph import Graph
from flows.jobs import Executor, JobSpec, Outcome, Status, Word
from flows.lineage import Lineage
from flows.local import log_path
from flows.parcel import Parcel
from flows.view import StageView
from ovi.config import Resources, Settings
from ovi.errors import ConfigError, OviError, Preempted


def run(settings: Settings, graph: Graph, executor: Executor, lineage: Lineage) -> set[str]:
    """Run what is stale, as one flow run; the names of the stages that ran.

    Raises OviError naming the first stage that fails; what ended before it stays.
    KeyboardInterrupt and the exceptions of signals pass through, once the stage is stopped and the states are written.
    """
    values = settings.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps(values).encode()).hexdigest()[:8]

    @flow(
        name="ovi-pipeline",
        flow_run_name=f"{settings.profile}-{digest}",
        validate_parameters=False,
        persist_result=False,
    )
    def pipeline(settings: dict[str, Any]) -> set[str]:
        lineage.tag(flow_run=str(flow_run.id))
        rows, ran = [], set()
        for stage in graph.order:
            reasons = graph.reasons(stage)
            rows.append({"stage": stage, "ran because": "; ".join(reasons) or "unchanged, not run"})
            if reasons:
                work(stage, reasons)
                ran.add(stage)
        create_table_artifact(rows, key="ovi-stages", description=f"Stages of profile {settings['profile']}")
        return ran

    def work(stage: str, reasons: list[str]) -> None:
        needs = settings.resources.get(stage, Resources())
        away = not shares_a_folder(settings, stage)

        @task(
            name=stage,
            task_run_name=stage,
            retries=needs.retries,
            retry_condition_fn=_worth_retrying,
            cache_policy=NO_CACHE,  # what is unchanged is DVC's to say
            persist_result=False,
        )
        def attempt(because: list[str]) -> None:
            _run_stage(stage, because, needs, graph, executor, lineage, settings.data.remote, away)

        attempt(reasons)

    with prefect_told():
        return pipeline(values)


def _run_stage(
    stage: str, reasons: list[str], needs: Resources, graph: Graph, executor: Executor, lineage: Lineage,
    remote: str | None, away: bool,
) -> None:  # fmt: skip
    """One attempt at a stage: its MLflow run, its job, its entry in dvc.lock, its outputs in the remote, if any.

    `away`: it runs where this folder is not. Raises OviError unless all of that succeeds.
    """
    running = graph.begin(stage)
    record = lineage.open_stage(stage, running.inputs)
    command = running.inputs.command
    ours = command[0] == "ovi"
    spec = JobSpec.of(stage, (*command, "--json") if ours else command, needs, env={"MLFLOW_RUN_ID": record.id})
    view = StageView(stage, reasons, show_lines=not ours)
    outcome: Outcome | None = None
    hashes: dict[str, str] | None = None
    try:
        with Parcel(graph, running, str(remote)) if away else nullcontext() as parcel:
            spec = replace(spec, parcel=parcel.address if parcel else "")
            outcome = executor.run(spec, _both(view, get_run_logger()))
            if outcome.status is Status.SUCCEEDED:
                hashes = parcel.receive() if parcel else graph.commit(running)
                if remote and not parcel:
                    graph.push(stage)
    finally:
        view.close()
        lineage.close_stage(stage, record, running.inputs.key, outcome, hashes)
    if outcome.status is not Status.SUCCEEDED:
        raise outcome.error(stage, str(log_path("", stage)))
    view.end(outcome)


def _both(view: StageView, logger: Any) -> Any:
    """A listener that shows words on the terminal and keeps all but progress on the task run's page."""

    def listen(word: Word) -> None:
        view.hear(word)
        if word["event"] in ("note", "line"):
            logger.info("%s", word.get("text"))
        elif word["event"] == "result":
            logger.info("%s", {name: value for name, value in word.items() if name != "event"})

    return listen


def _worth_retrying(_task: Any, _run: Any, state: Any) -> bool:
    """Not what can never work, nor what was asked to stop."""
    try:
        state.result()
    except (ConfigError, Preempted):
        return False
    except OviError:
        return True
    return False
