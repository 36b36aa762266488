"""`ovi study` as a user meets it, but for the server, which test_browser.py starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ovi import storage
from ovi.errors import ConfigError, OviError
from services.study import cli
from services.study.store import StudyStore
from tests.services.study.made import lay_clips, simulated


def run(*words: str) -> str:
    return CliRunner().invoke(cli.app, list(words), catch_exceptions=False).output


def test_the_plan_speaks_figures() -> None:
    figures = json.loads(run("plan", "--json"))
    assert (figures["votes"], figures["event"]) == (1200, "result")
    assert 0.8 < figures["power"] < 0.95
    assert json.loads(run("plan", "--items", "6", "--json"))["raters_needed"] == "none: add items"


def test_results_of_an_export_and_of_the_study_itself(tmp_path: Path, store: StudyStore) -> None:
    storage.write_json(tmp_path / "export.json", simulated(0, raters=4))
    out = tmp_path / "results.json"
    run("results", "--export", str(tmp_path / "export.json"), "--out", str(out))
    assert storage.read_json(out)["metrics"]["study/audio/wombat_over_zebra/n"] == 96
    store.answer_tones(store.rater(store.invite(2)[0]) or 0, 1, 1, 0)
    said = json.loads(run("results", "--state", str(tmp_path / "study"), "--out", str(out), "--json"))
    assert (said["counted"], said["excluded"]) == (0, 1)
    assert storage.read_json(tmp_path / "votes.json") == store.export()
    with pytest.raises(OviError, match="no study there"):
        run("results", "--state", str(tmp_path / "nowhere"))


def test_serving_writes_invitations_for_its_owner_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uvicorn.run", lambda app, **_: None)
    pairs, state = lay_clips(tmp_path / "pairs", items=1, seconds=0.5), tmp_path / "study"
    words = ["serve", "--pairs", str(pairs), "--state", str(state), "--url", "https://a.example/"]
    monkeypatch.setenv("OVI_STUDY_SECRET", "short")
    with pytest.raises(ConfigError, match="OVI_STUDY_SECRET"):
        run(*words)
    monkeypatch.delenv("OVI_STUDY_SECRET")
    run(*words, "--raters", "3")
    run(*words, "--raters", "4")
    links = (state / "invitations.txt").read_text().splitlines()
    assert len(set(links)) == 4
    assert all(link.startswith("https://a.example/#") for link in links)
    assert (state / "invitations.txt").stat().st_mode & 0o077 == 0
    with pytest.raises(OviError, match="begun with other"):
        run(*words, "--seed", "1")
