"""From a Bento's tag back to the data: every link of the chain, read again and compared with what was recorded.

bento -> model -> registry version -> run -> and of every stage before: outputs, data, code, parameters, image. Nothing
is believed: files are hashed anew, records of dvc.lock, MLflow and out/runs are compared with each other. One byte that
differs breaks the link it belongs to. Knows no stage by name: it starts where the package is an output.
Try it: `ovi lineage ovi:5f0c...`, or without a tag for the newest package.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import champions
from flows.graph import Graph
from flows.workspace import Workspace
from ovi import storage, tracking
from ovi.config import Settings
from ovi.errors import OviError, one_line
from ovi.models.folder import ModelFolder

PACKAGE = "out/package"
MODEL = "src/model"  # inside a Bento


@dataclass(frozen=True)
class Link:
    """One comparison: `broken` says what differs, empty when nothing does."""

    name: str
    said: str
    broken: str = ""

    def line(self) -> str:
        return f"BROKEN  {self.name:15}{self.broken}" if self.broken else f"ok      {self.name:15}{self.said}"


@dataclass(frozen=True)
class Trace:
    tag: str
    links: list[Link]
    gpu_hours: float
    gpu_hours_lost: float

    def words(self) -> str:
        broken = [link for link in self.links if link.broken]
        state = f"{len(broken)} broken: {', '.join(link.name for link in broken)}" if broken else "whole"
        hours = f"{self.gpu_hours:.2f} GPU-hours, {self.gpu_hours_lost:.2f} of them lost"
        return "\n".join(
            [*(link.line() for link in self.links), f"{self.tag}: {len(self.links)} links, {state}; {hours}"]
        )


def trace(workspace: Workspace, settings: Settings, tag: str | None = None) -> Trace:
    """Every link behind a packed Bento. Raises OviError when there is no package or it has another tag."""
    found = storage.read_json(workspace.root / PACKAGE / "package.json")
    if tag is not None and found.get("tag") != tag:
        raise OviError(f"{PACKAGE}: holds {found.get('tag')}, not {tag}; check out the commit and data of that one")
    with tempfile.TemporaryDirectory(prefix="ovi-lineage-") as folder:  # DVC's memory of hashes, empty
        graph = Graph(workspace.root, hashes=Path(folder))
        try:
            stages = _stages(graph)
            runs = {stage: _run(settings, graph, stage) for stage in stages}
            links = [*_package(workspace, settings, found, runs)]
            for stage in stages:
                links += _stage(workspace, graph, stage, runs[stage])
        finally:
            graph.close()
    spent, lost = (
        sum(run["metrics"].get(name, 0.0) for run in runs.values() if run)
        for name in ("cost/gpu_hours", "cost/gpu_hours_lost")
    )
    return Trace(str(found.get("tag")), links, spent, lost)


def _stages(graph: Graph) -> list[str]:
    """The stage that packs and all before it, the nearest first."""
    packs = [stage for stage in graph.order if PACKAGE in graph.outputs(stage)]
    if not packs:
        raise OviError(f"dvc.yaml: no stage writes {PACKAGE}")
    wanted = set(packs)
    for stage in reversed(graph.order):
        if stage in wanted:
            wanted |= graph.after[stage]
    return [stage for stage in reversed(graph.order) if stage in wanted]


def _package(workspace: Workspace, settings: Settings, found: dict[str, Any], runs: dict[str, Any]) -> Iterator[Link]:
    digest = str(found.get("model_digest"))
    bento = workspace.root / PACKAGE / str(found.get("bento"))
    inside = bento / MODEL
    if inside.is_dir():
        yield _model("bento", inside, digest, f"{found.get('tag')} holds model {digest[:16]}")
    else:
        served = storage.read_json(bento / "src" / "service.json")
        named = served.get("digest") == digest
        broken = "" if named else f"it names model {str(served.get('digest'))[:16]}, its package {digest[:16]}"
        yield Link("bento", f"{found.get('tag')} names model {digest[:16]} at {served.get('weights')}", broken)
    name = settings.promotion.model
    versions = tracking.versions(settings.tracking, name)
    ours = [number for number, facts in versions.items() if facts["tags"].get("digest") == digest]
    if not ours:
        yield Link("registry", "", f"no version of {name} has digest {digest[:16]}")
        return
    facts = versions[ours[-1]]
    champion = champions.standing(settings.tracking, name).champion
    state = "the champion" if champion == ours[-1] else f"the champion is version {champion}"
    yield Link("registry", f"version {ours[-1]} of {name}, {state}")
    folder = facts["tags"].get("folder", "")
    yield _model("model", workspace.root / folder, digest, f"{folder} has that digest")
    known = {run["id"] for run in runs.values() if run}
    broken = "" if facts["run_id"] in known else f"version {ours[-1]} was made by run {facts['run_id']}, none of these"
    yield Link("run", f"of version {ours[-1]} is {str(facts['run_id'])[:12]}", broken)


def _model(name: str, path: Path, digest: str, said: str) -> Link:
    try:
        found = ModelFolder.open(path).digest
    except OviError as error:
        return Link(name, "", one_line(error))
    return Link(
        name, said, "" if found == digest else f"{path.name} has digest {found[:16]}, recorded is {digest[:16]}"
    )


def _run(settings: Settings, graph: Graph, stage: str) -> dict[str, Any] | None:
    """The MLflow run that did the work recorded in dvc.lock: the one with the key of its inputs."""
    record = graph.record(stage)
    if record is None:
        return None
    runs = tracking.find_runs(settings.tracking, f"tags.`ovi.key` = '{record.inputs.key}'")
    return runs[0] if runs else None


def _stage(workspace: Workspace, graph: Graph, stage: str, run: dict[str, Any] | None) -> Iterator[Link]:
    record = graph.record(stage)
    if record is None:
        yield Link(stage, "", "dvc.lock has no entry; it never ran here")
        return
    if run is None:
        yield Link(stage, "", "no run in MLflow has the key of its command, inputs, code and parameters in dvc.lock")
        return
    told = {name: run["tags"].get(f"ovi.output.{name}") for name in record.outputs}
    inputs = {**record.inputs.data, **record.inputs.code}
    said = {name: run["tags"].get(f"ovi.input.{name}") for name in inputs}
    yield _compared(stage, "outputs", record.outputs, told, graph)
    yield _compared(stage, "data", record.inputs.data, said, graph)
    yield _compared(stage, "code", record.inputs.code, said, graph)
    changed = [name for name, value in record.inputs.params.items() if graph.parameter(stage, name) != value]
    yield Link(
        f"{stage}", f"parameters: {len(record.inputs.params)} as recorded",
        f"parameter {changed[0]} is not what it ran with" if changed else "",
    )  # fmt: skip
    kept, tagged = workspace.records().get(stage, {}).get("image"), run["tags"].get("ovi.image")
    broken = "" if kept == tagged else f"image: out/runs has {kept}, MLflow {tagged}"
    commit = run["tags"].get("mlflow.source.git.commit", "none")[:12]
    dirty = ", with changes" if run["tags"].get("ovi.git_dirty") == "true" else ""
    yield Link(stage, f"run {run['id'][:12]} in {tagged or 'this machine'} at commit {commit}{dirty}", broken)


def _compared(stage: str, what: str, recorded: dict[str, str], told: dict[str, Any], graph: Graph) -> Link:
    for name, value in sorted(recorded.items()):
        if told.get(name) != value:
            return Link(stage, "", f"{what}: {name} is {value[:12]} in dvc.lock, {str(told.get(name))[:12]} in MLflow")
        now = graph.hash(name)
        if now != value:
            state = "missing" if now is None else f"{now[:12]} now"
            return Link(stage, "", f"{what}: {name} was {value[:12]}, is {state}")
    return Link(stage, f"{what}: {', '.join(sorted(recorded)) or 'none'}")
