"""A small real clone: three stages with real commands, a params file of the platform's own kind, no git history.

Stage `first` writes data/first.txt, `second` data/second (a folder), `third` out/third.json. What a stage does beside
that is told by the file out/behave/<stage>: "sleep", "wait" (until it says otherwise), "fail", "config", "preempt",
"nothing" (writes no output).
"""

from __future__ import annotations

import copy
from pathlib import Path

import yaml

from ovi import config
from ovi.config import Settings

REPOSITORY = Path(__file__).parents[2]

STAGE = """
import json, os, pathlib, signal, subprocess, sys, time, yaml
name = sys.argv[1]
settings = yaml.safe_load(open("out/settings.yaml"))
def say(**word):
    print(json.dumps(word), flush=True)
say(event="start", what="working", total=2, unit="parts")
behave = pathlib.Path("out/behave") / name
how = behave.read_text().strip() if behave.exists() else ""
with open("out/ran.txt", "a") as file:
    file.write(f"{name} {os.environ.get('MLFLOW_RUN_ID')}\\n")
while how == "wait":
    time.sleep(0.05)
    how = behave.read_text().strip()
if how == "sleep":
    rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    pathlib.Path("out/pids.txt").write_text(f"{os.getpid()} {rank.pid}")
    time.sleep(600)
if how == "fail":
    sys.exit("ovi: the toy is broken")
if how == "config":
    sys.exit(78)
if how == "preempt":
    sys.exit(75)
say(event="progress", what="working", done=2, total=2, loss=0.5)
if how != "nothing":
    if name == "first":
        pathlib.Path("data").mkdir(exist_ok=True)
        pathlib.Path("data/first.txt").write_text(f"seed {settings['seed']}")
    if name == "second":
        os.makedirs("data/second")
        pathlib.Path("data/second/a.txt").write_text(open("data/first.txt").read() + str(settings["sampling"]["steps"]))
        pathlib.Path("data/second/b.txt").write_text("b")
    if name == "third":
        pathlib.Path("out/third.json").write_text(json.dumps({"score": len(os.listdir("data/second"))}))
say(event="result", files=2, name=name)
"""

STAGES = {
    "stages": {
        "third": {  # listed first on purpose: order comes from what a stage reads
            "cmd": "python stage.py third",
            "deps": ["data/second", "code/third"],
            "params": [{"out/settings.yaml": ["evaluation"]}],
            "metrics": [{"out/third.json": {"cache": False}}],
        },
        "first": {
            "cmd": "python stage.py first",
            "deps": ["out/source.json", "code/first"],
            "params": [{"out/settings.yaml": ["seed"]}],
            "outs": ["data/first.txt"],
        },
        "second": {
            "cmd": "python stage.py second",
            "deps": ["data/first.txt", "code/second.py"],
            "params": [{"out/settings.yaml": ["sampling.steps", "sampling.shift"]}],
            "outs": ["data/second"],
        },
    }
}


def make(root: Path, whole: bool = False) -> Path:
    """The toy clone in `root`. whole: stages name stage.py too among what they read."""
    stages = copy.deepcopy(STAGES)
    for stage in stages["stages"].values():
        stage["deps"] += ["stage.py"] * whole  # type: ignore[operator]
    for folder in ("code/first", "code/third", ".dvc"):
        (root / folder).mkdir(parents=True)
    (root / "stage.py").write_text(STAGE)
    for path in ("code/first/a.py", "code/third/a.py", "code/second.py"):
        (root / path).write_text("pass\n")
    (root / "dvc.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))
    (root / ".dvc" / "config").write_text((REPOSITORY / ".dvc" / "config").read_text())
    (root / ".dvcignore").write_text((REPOSITORY / ".dvcignore").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump(values(root)))
    return root


def values(root: Path) -> dict[str, object]:
    """A whole params file of the platform, small, with its tracking store in the toy clone."""
    stages = ("video_backbone", "audio_pretrain", "audio_finetune", "fusion")
    return {
        "training": {stage: {"steps": 2, "batch": 1, "lr": 0.001} for stage in stages},
        "service": {"port": 0},
        "tracking": {"uri": f"sqlite:///{root}/out/mlflow.db", "artifacts": f"{root}/out/mlartifacts"},
        "resources": {stage: {"grace_s": 2, "deadline_s": 120} for stage in ("first", "second", "third")},
    }


def settings(root: Path, *sets: str) -> Settings:
    return config.load(root / "params.yaml", sets=list(sets))


def behave(root: Path, stage: str, how: str) -> None:
    path = root / "out" / "behave" / stage
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(how)


def ran(root: Path) -> list[str]:
    """Names of stages in the order they were started, ever."""
    path = root / "out" / "ran.txt"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []
