"""The command line as a user meets it: real processes, exit codes, one line for every mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

OVI = [sys.executable, "-m", "ovi.cli"]
HERE = Path(__file__).parent.parent


def ovi(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*OVI, *words], cwd=HERE, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "command",
    ["corpus", "curate", "encode", "train fusion", "train audio-pretrain", "evaluate", "generate", "report",
     "compare", "weights import", "study plan",
     "study serve", "key", "train plan", "config show", "plan", "demo", "promote", "package", "serve", "clip", "ui"],
)  # fmt: skip
def test_every_command_has_help_with_an_example(command: str) -> None:
    done = ovi(*command.split(), "--help")
    assert done.returncode == 0
    assert "Example: ovi" in done.stdout


def test_config_show_prints_a_params_file() -> None:
    done = ovi("config", "show", "--set", "training.fusion.steps=7")
    assert done.returncode == 0
    assert yaml.safe_load(done.stdout)["training"]["fusion"]["steps"] == 7
    assert json.loads(ovi("config", "show", "--json").stdout)["clip"]["frames"] == 121


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["config", "show", "--set", "nonsense=1"], 78, "nonsense: unknown key"),
        (["config", "show", "--params", "nowhere.yaml"], 78, "nowhere.yaml: no such params file"),
        (["config", "show", "--profile", "huge"], 78, "profile: 'huge'"),
        (["corpus", "--set", "corpus.source=/no/such/folder"], 1, "/no/such/folder"),
        (["generate", "--prompt", "x", "--model", "/no/model"], 1, "/no/model"),
    ],
)
def test_mistakes_are_one_line(words: list[str], code: int, says: str) -> None:
    done = ovi(*words)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("ovi: ")
    assert done.stderr.count("\n") == 1


def test_unknown_commands_are_usage_errors() -> None:
    done = ovi("nonsense")
    assert done.returncode == 78
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("own", "spins"),
    [({}, "'3000'"), ({"GOMP_SPINCOUNT": "70"}, "'70'"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "'0'")],
)
def test_threads_do_not_spin_for_long_unless_the_user_says_so(own: dict[str, str], spins: str) -> None:
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", "import ovi, torch"], env=environment | own | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    told = [line for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    assert told, done.stderr
    assert all(line.endswith(f"= {spins}") for line in told), told
