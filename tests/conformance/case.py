"""The cases of a golden folder, from whichever indexes lie in it, and what is found when they are run.

An index is a JSON file with {"cases": [{"id", "config", "file", "tolerance"}]} or {"files": {file: {"tolerance"}}}; the
cases of the latter are called as their files. Nothing depends on what the files are called. All that a case expects
has to be looked at: see `Case.unchecked`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
from safetensors.torch import load_file

from tests.conformance.tolerance import NUMBER, Finding, Tolerance, Unfit, measure


@dataclass
class Case:
    """One entry of an index. Arrays are taken by name; a check compares what was computed to one of them."""

    id: str
    file: str
    about: dict[str, Any]  # the entry
    folder: Folder
    findings: list[Finding] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    left_out: str = ""

    @property
    def config(self) -> dict[str, Any]:
        return self.about.get("config") or {}

    @property
    def what(self) -> str:
        """The entry's own words."""
        return f"{self.about.get('what', '')} {self.about.get('keys', '')}"

    @cached_property
    def arrays(self) -> dict[str, Any]:
        """By name: tensors of a safetensors file, arrays of an npz file, what is at the top of a JSON file."""
        path = self.folder.inside(self.file)
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise Unfit(f"{self.file} has no names")
        return content

    def take(self, name: str) -> Any:
        if name not in self.arrays:
            raise Unfit(f"{self.file} lacks {name}")
        self.seen.add(name)
        return self.arrays[name]

    def source(self, pattern: str) -> Case:
        """The case that has tensors of such names, among those whose files this one names as its weights."""
        files = self.config.get("weights", self.file)
        for file in [files] if isinstance(files, str) else files:
            case = self.folder.case_of(file)
            if next(case.matches(pattern), None):
                return case
        raise Unfit(f"no file of its weights has {pattern}")

    def weights(self) -> dict[str, Any]:
        """The arrays under w/, without that."""
        return {name[2:]: array for name, array in self.arrays.items() if name.startswith("w/")}

    def matches(self, pattern: str) -> Iterator[re.Match[str]]:
        """The names that a pattern matches as a whole."""
        return filter(None, (re.fullmatch(pattern, name) for name in self.arrays))

    def stated(self, words: str) -> float:
        """The number that follows these words in the tolerance's text."""
        found = re.search(re.escape(words) + r"\s*(?:<=\s*)?" + NUMBER, str(self.about.get("tolerance")))
        if not found:
            raise Unfit(f"its tolerance says nothing of {words!r}")
        return float(found[1])

    def check(self, name: str, got: Any, at: Any = ..., tolerance: Tolerance | None = None) -> None:
        """`got` is the array `name`, or the part of it `at` some indices."""
        want = self.take(name)
        self.compare(name, got, want if isinstance(at, EllipsisType) else want[at], tolerance)

    def compare(self, what: str, got: Any, want: Any, tolerance: Tolerance | None = None) -> None:
        stated = Tolerance.of(self.about.get("tolerance")) if tolerance is None else tolerance
        self.findings.append(measure(what, got, want, stated))

    def leave(self, pattern: str, why: str) -> None:
        """Arrays that this project has no figure for; the case's line says so."""
        names = [found[0] for found in self.matches(pattern)]
        self.seen.update(names)
        self.left_out = f"{len(names)} of its arrays left out: {why}"

    def unchecked(self) -> list[str]:
        """Names that nobody took: of tensors the outputs, of a table all but its prose."""
        left = {name: x for name, x in self.arrays.items() if name not in self.seen}
        if self.file.endswith(".safetensors"):
            return [name for name in left if name.startswith("out/")]
        return [name for name, x in left.items() if not isinstance(x, str)]


class Folder:
    """Raises Unfit when there is no index."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cases = [Case(*entry, self) for index in sorted(path.glob("*.json")) for entry in _entries(index)]
        if not self.cases:
            raise Unfit(f"{path}: no index of golden cases (index.json and the like) is here")

    def inside(self, name: str) -> Path:
        path = (self.path / name).resolve()
        if not path.is_relative_to(self.path.resolve()) or not path.is_file():
            raise Unfit(f"the folder has no file {name}")
        return path

    def case_of(self, file: str) -> Case:
        """The case whose arrays are in this file; one without a config where no index names it."""
        found = [case for case in self.cases if case.file == file]
        return found[0] if found else Case(file, file, {}, self)

    def picture(self, words: str) -> Path:
        """The picture whose name is among these words, or else the only one there is."""
        names = [name for name in re.findall(r"[\w.-]+\.(?:png|jpe?g)", words) if (self.path / name).is_file()]
        names = names or sorted(path.name for path in self.path.glob("*.png"))
        if len(set(names)) != 1:
            raise Unfit(f"it is not clear which picture is meant: {len(set(names))} are there")
        return self.inside(names[0])


def _entries(index: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """(id, file, entry) of each case; empty for a JSON file that is no index."""
    try:
        content = json.loads(index.read_text())
        if isinstance(content, dict) and isinstance(content.get("cases"), list):
            return [(case["id"], case["file"], case) for case in content["cases"]]
        if isinstance(content, dict) and isinstance(content.get("files"), dict):
            return [(Path(file).stem, file, about) for file, about in content["files"].items()]
    except (ValueError, KeyError, TypeError) as error:
        raise Unfit(f"{index}: cannot be read as an index ({error!r})") from None
    return []
