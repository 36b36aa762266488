"""dvc.yaml against the code: every stage names the code it runs, every setting has a place, flows/ knows no stage."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from ovi import config
from tests.flows.toy import REPOSITORY

STAGES: dict[str, Any] = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]

# Where each stage's command goes (ovi/cli.py, services/cli.py, flows/cli.py).
TRAIN = ["ovi.training.launch", "ovi.training.rank"]  # ranks are started as processes of their own
ENTRY = {
    "corpus": ["ovi.synthetic.corpus"],
    "curate": ["ovi.curation.run"],
    "encode": ["ovi.training.encode"],
    "video_backbone": TRAIN,
    "pretrain_audio": TRAIN,
    "finetune_audio": TRAIN,
    "train_fusion": TRAIN,
    "evaluate": ["ovi.evaluation.run"],
    "promote": ["flows.promote"],
    "package": ["services.generation.package"],
    "clip": ["services.generation.clip"],
    "report": ["ovi.evaluation.report"],
}
PLUMBING = {"ovi.config", "ovi.errors", "ovi.progress", "ovi.storage", "ovi.tracking", "ovi.cli"}
# Reached, but what they import does no work for the stage's outputs.
ENDS = {
    "promote": "ovi.models.folder",  # only the digest is used
    **dict.fromkeys(("video_backbone", "pretrain_audio", "finetune_audio", "train_fusion"), "ovi.training.showcase"),
}  # the showcase puts clips into MLflow after the weights are saved
# Stages that pack or serve code copy whole rooms, whatever their own modules import.
COPIES = {"package": {"ovi", "services", "pyproject.toml", "constraints.txt"}, "clip": {"services/generation"}}

# Settings that change no stage's result, so that changing them re-runs nothing.
WITHOUT_EFFECT = {
    "ablation",  # its cells have settings of their own
    "cluster",
    "corpus.workers",
    "curation.captions.concurrency",
    "curation.captions.key_env",
    "curation.captions.patience_s",
    "curation.captions.retries",
    "curation.captions.timeout_s",
    "curation.captions.url",
    "curation.part_files",
    "curation.work",
    "curation.workers",
    "data",
    "executor",
    "resources",
    "service.bundle",
    "service.certificate",
    "service.certificate_key",
    "service.database",
    "service.host",
    "service.keys",
    "service.model",
    "service.policy",
    "service.port",
    "service.results",
    "service.retention_hours",
    "tracking.artifacts",
    "tracking.experiment",
    "training.keep_checkpoints",
    "training.loader_workers",
    "training.mirror",
    "training.recompute",
    "training.sequence",
}


def code_deps(stage: str) -> list[str]:
    return [dep for dep in STAGES[stage]["deps"] if dep.split("/")[0] in ("ovi", "services", "flows")]


def params(stage: str) -> list[str]:
    return list(STAGES[stage]["params"][0]["out/settings.yaml"])


def source(module: str) -> Path | None:
    path = REPOSITORY / module.replace(".", "/")
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def imported(module: str) -> frozenset[str]:
    """Our modules that a module imports anywhere in it, by reading it."""
    path = source(module)
    assert path is not None, f"{module} is not there"
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    ours = {name for name in found if name.split(".")[0] in ("ovi", "services", "flows")}
    return frozenset(name for name in ours if source(name) is not None)


def reached(stage: str) -> set[str]:
    """Every module a stage runs, plumbing and packages that import nothing left out."""
    todo, seen = list(ENTRY[stage]), set[str]()
    while todo:
        module = todo.pop()
        if module in seen or module in PLUMBING:
            continue
        seen.add(module)
        if module != ENDS.get(stage):
            todo += imported(module)
    return {module for module in seen if not str(source(module)).endswith("__init__.py") or imported(module)}


def covers(dep: str, module: str) -> bool:
    path = source(module)
    assert path is not None
    relative = path.relative_to(REPOSITORY).as_posix()
    return relative == dep or relative.startswith(dep.rstrip("/") + "/")


def test_every_stage_is_known_here() -> None:
    assert set(STAGES) == set(ENTRY)


@pytest.mark.parametrize("stage", ENTRY)
def test_a_stage_depends_on_the_code_it_runs_and_no_other(stage: str) -> None:
    modules, deps = reached(stage), code_deps(stage)
    missing = {module for module in modules if not any(covers(dep, module) for dep in deps)}
    assert not missing, f"add to the deps of {stage}"
    idle = {dep for dep in deps if not any(covers(dep, module) for module in modules)} - COPIES.get(stage, set())
    assert not idle, f"remove from the deps of {stage}"


@pytest.mark.parametrize("stage", STAGES)
def test_commands_name_what_the_stage_reads_and_writes(stage: str) -> None:
    words = STAGES[stage]["cmd"].split()
    assert words[:1] == ["ovi"]
    assert "--params out/settings.yaml" in STAGES[stage]["cmd"]
    paths = [word for word in words[2:] if "/" in word and word != "out/settings.yaml"]
    outs = [next(iter(out)) if isinstance(out, dict) else out for out in STAGES[stage].get("outs", [])]
    outs += [next(iter(out)) for out in STAGES[stage].get("metrics", [])]
    known = [*outs, *STAGES[stage]["deps"]]
    for path in paths:
        assert any(item == path or item.startswith(f"{path}/") for item in known), path


def leaves(model: type[BaseModel], before: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def under(leaf: str, names: set[str]) -> bool:
    return any(leaf == name or leaf.startswith(f"{name}.") for name in names)


def test_every_setting_is_a_stages_parameter_or_has_no_effect() -> None:
    used = {name for stage in STAGES for name in params(stage)}
    all_leaves = list(leaves(config.Settings))
    unplaced = [leaf for leaf in all_leaves if not under(leaf, used) and not under(leaf, WITHOUT_EFFECT)]
    assert unplaced == []
    assert [leaf for leaf in all_leaves if under(leaf, used) and under(leaf, WITHOUT_EFFECT)] == []
    for name in used | WITHOUT_EFFECT:
        assert any(leaf == name or leaf.startswith(f"{name}.") for leaf in all_leaves), f"{name} is no setting"


@pytest.mark.parametrize(
    ("leaf", "stages"),
    [
        ("evaluation.clips_per_scene", {"evaluate"}),
        ("sampling.steps", {"evaluate", "package", "clip"}),
        ("training.fusion.steps", {"train_fusion"}),
        ("training.audio_pretrain.lr", {"pretrain_audio"}),
        ("corpus.clips", {"corpus"}),
        ("curation.min_motion", {"curate"}),
        ("promotion.thresholds", {"promote"}),
        ("service.prompt", {"clip", "report"}),
        ("resources", set()),
    ],
)
def test_a_parameter_is_read_by(leaf: str, stages: set[str]) -> None:
    assert {stage for stage in STAGES if under(leaf, set(params(stage)))} == stages


def test_flows_knows_no_stage_by_name() -> None:
    names = re.compile(r"[\"'](" + "|".join(STAGES) + r")[\"']")
    example = "manifests.py"  # its example has to be some stage
    for path in sorted((REPOSITORY / "flows").glob("*.py")):
        if path.name != example:
            assert not names.findall(path.read_text()), path.name


def test_outputs_are_not_in_git() -> None:
    ignored = (REPOSITORY / ".gitignore").read_text().split()
    for stage in STAGES.values():
        for out in stage.get("outs", []):
            assert f"/{out.split('/')[0]}/" in ignored
