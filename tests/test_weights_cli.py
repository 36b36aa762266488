"""`ovi weights` as a user meets it, on a tiny release; the hub is played by a folder."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from ovi import cli
from ovi.models import released_layout as layout
from ovi.models.folder import ModelFolder
from tests.models import released


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return released.release(tmp_path_factory.mktemp("release") / "ckpts")


@pytest.fixture
def ovi(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """A command's exit code, what it says on stdout and on stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ovi", "weights", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return run


@pytest.mark.parametrize("command", ["import", "export", "verify", "download"])
def test_every_command_has_help_with_an_example(ovi: Any, command: str) -> None:
    code, out, _ = ovi(command, "--help")
    assert code == 0
    assert f"Example: ovi weights {command}" in out


def test_in_and_out(ovi: Any, source: Path, tmp_path: Path) -> None:
    code, out, _ = ovi("import", "--from", source, "--out", tmp_path / "model")
    assert code == 0
    assert "MMAudio: of hkchengrex/MMAudio, licence CC-BY-NC-4.0" in out
    assert ModelFolder.open(tmp_path / "model").config["version"] == "720x720_5s"
    code, out, _ = ovi("export", "--model", tmp_path / "model", "--out", tmp_path / "again", "--json")
    assert code == 0
    result = json.loads(out.splitlines()[-1])
    assert sorted(result["files"]) == sorted(
        str(path.relative_to(tmp_path / "again")) for path in (tmp_path / "again").rglob("*") if path.is_file()
    )
    code, out, _ = ovi("verify", "--from", tmp_path / "again")
    assert code == 0
    assert "Ovi/model.safetensors: good" in out


def test_findings_are_told_and_end_with_one_line(ovi: Any, source: Path, tmp_path: Path) -> None:
    spoilt = shutil.copytree(source, tmp_path / "ckpts")
    (spoilt / layout.TOKENIZER).unlink()
    (spoilt / layout.VOCODER).unlink()
    code, out, err = ovi("verify", "--from", spoilt, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert {"event": "note", "text": f"{layout.VOCODER}: no such file"} in lines
    assert lines[-1] == {"event": "result", "files": 6, "problems": 2}
    assert err == f"ovi: {spoilt}: 2 problems in 2 files; all are above\n"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["import", "--version", "1080p", "--out", "x"], 78, "version: '1080p' is not released; there are 720x720_5s,"),
        (["import", "--from", "nowhere", "--out", "x"], 1, "nowhere has no Ovi model, get this one with"),
        (["export", "--model", "nowhere", "--out", "x"], 1, "nowhere: not a model folder"),
        (["verify", "--from", "nowhere"], 1, "nowhere: no such folder"),
    ],
)
def test_mistakes_are_one_line(
    ovi: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    got, _, err = ovi(*words)
    assert (got, err.count("\n")) == (code, 1)
    assert says in err
    assert not (tmp_path / "x").exists()


def test_a_download_is_what_an_import_reads(
    ovi: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {place.repository: place.folder for place in layout.sources("720x720_5s")}

    def snapshot_download(repository: str, allow_patterns: list[str], local_dir: Path) -> None:
        there = source / folders[repository]
        for file in there.rglob("*"):
            name = file.relative_to(there)
            if file.is_file() and any(fnmatch.fnmatch(str(name), pattern) for pattern in allow_patterns):
                (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, local_dir / name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    code, out, err = ovi("download", "--out", tmp_path / "ckpts")
    assert code == 1
    assert "hkchengrex/MMAudio: licence CC-BY-NC-4.0 (no commercial use)" in out
    assert "v1-16.pth: its md5 is not 69f56803f59a549a1a507c93859fd4d7; remove it and download again" in err
    md5 = {name: hashlib.md5((source / name).read_bytes()).hexdigest() for name in layout.MD5}
    monkeypatch.setattr(layout, "MD5", md5)
    assert ovi("download", "--out", tmp_path / "ckpts")[0] == 0
    assert ovi("import", "--from", tmp_path / "ckpts", "--out", tmp_path / "model")[0] == 0


def test_without_a_network_it_is_one_line(ovi: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    code, _, err = ovi("download", "--out", tmp_path / "ckpts")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("ovi: chetwinlow1/Ovi: cannot be downloaded (")
    assert err.endswith(f"check the network, or copy model.safetensors into {tmp_path / 'ckpts' / 'Ovi'}\n")
