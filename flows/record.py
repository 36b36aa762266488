"""What one execution of a stage read and wrote: as a stage that runs now has it, as its entry in dvc.lock tells it.

Plain values out of plain dictionaries: neither DVC nor a hash of a file is made here.
Try it: `ovi lineage`, which compares the two.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Inputs:
    """What one execution of a stage reads."""

    command: tuple[str, ...]
    data: dict[str, str]  # path -> DVC's content hash
    code: dict[str, str]
    params: dict[str, Any]  # dotted name -> value

    @property
    def key(self) -> str:
        """Hex sha256 over command, hashes and parameters: equal keys, equal work."""
        parts = [self.command, self.data, self.code, self.params]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Record:
    """What dvc.lock says of a stage's last execution."""

    inputs: Inputs
    outputs: dict[str, str]  # path -> DVC's content hash

    @classmethod
    def of(cls, entry: dict[str, Any], root: Path) -> Self:
        """Of a stage's entry in the dvc.lock of the clone `root`.

        Raises KeyError, TypeError, ValueError or AttributeError when it is none.
        """
        found = {str(dep["path"]): str(dep[dep.get("hash", "md5")]) for dep in entry.get("deps", [])}
        code = {path for path in found if is_code(root / path)}
        params = {name: value for values in entry.get("params", {}).values() for name, value in values.items()}
        data = {path: value for path, value in found.items() if path not in code}
        command = tuple(shlex.split(str(entry["cmd"])))
        inputs = Inputs(command, data, {path: found[path] for path in found if path in code}, params)
        return cls(inputs, {str(out["path"]): str(out[out.get("hash", "md5")]) for out in entry.get("outs", [])})


def is_code(path: Path) -> bool:
    """Whether what a stage reads there is code, not data."""
    return path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py")))
