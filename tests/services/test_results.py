"""Results: names nobody can forge, and nothing left of what a killed process began."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.generation.results import VARIANTS, ResultStore

JOB, OTHER = f"video_{'0' * 32}", f"video_{'1' * 32}"


@pytest.mark.parametrize("name", ["", "..", "../jobs.db", "video_", f"{JOB}/..", f"{JOB}.mp4", f"{JOB}\n", JOB.upper()])
def test_only_a_job_id_is_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a job id"):
        ResultStore(tmp_path).path(name)


def test_sweeping_keeps_completed_clips_only(tmp_path: Path) -> None:
    results = ResultStore(tmp_path / "results")
    kept = [results.path(JOB, variant) for variant in VARIANTS]
    for path in (*kept, results.path(OTHER), tmp_path / "results" / f".{JOB}.mp4.abc.mp4"):
        path.write_bytes(b"x")
    assert results.sweep({JOB}) == 2
    assert set((tmp_path / "results").iterdir()) == set(kept)
    results.delete(JOB)
    results.delete(JOB)
    assert list((tmp_path / "results").iterdir()) == []
