"""Nodes that work apart, on the API double: each share is retried alone, the result has the bytes of one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.jobs import JobSpec, Status
from ovi import config
from ovi.config import Resources
from ovi.curation.run import curate
from ovi.progress import Silent
from ovi.synthetic.corpus import build
from tests.cluster.double import NAMESPACE
from tests.flows.clustered import Bench, bench
from tests.waiting import wait_for

PARAMS = Path(__file__).parents[2] / "params.yaml"
SETS = [
    "corpus.clips=3", "corpus.scenes={slide: 1}", "corpus.audio_files=1", "corpus.planted=false",
    "curation.part_files=1", "curation.workers=1",
]  # fmt: skip
CURATE = ("ovi", "curate", "--params", "settings.yaml", "--corpus", "corpus", "--out", "clips", "--json")

# Every share notes that it began, waits while there is a file hold-<share>, and fails as often as fail-<share> says.
COUNT = """
import pathlib, sys, time
if "--shard" not in sys.argv:
    print(*sorted(path.name for path in pathlib.Path(".").glob("done-*")), flush=True)
    sys.exit()
share = sys.argv[sys.argv.index("--shard") + 1].partition("/")[0]
with open(f"begun-{share}", "a") as begun:
    begun.write("x")
print(f"begun {share}", flush=True)
while pathlib.Path(f"hold-{share}").exists():
    time.sleep(0.01)
fail = pathlib.Path(f"fail-{share}")
left = int(fail.read_text()) if fail.exists() else 0
if left:
    fail.write_text(str(left - 1))
    sys.exit(f"ovi: share {share} is broken")
pathlib.Path(f"done-{share}").touch()
"""
COUNTED = ("python", "-c", COUNT)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path, jobset=True) as made:  # shares are no gang, whatever the server has
        yield made


def spec(command: tuple[str, ...], retries: int, nodes: int = 3) -> JobSpec:
    needs = Resources(nodes=nodes, apart=True, retries=retries, grace_s=5, deadline_s=120)
    return JobSpec.of("curate", command, needs)


def begun(b: Bench) -> list[int]:
    found = [b.work / f"begun-{share}" for share in range(3)]
    return [path.stat().st_size if path.exists() else 0 for path in found]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_curated_by_shares_of_which_one_is_killed_the_bytes_are_those_of_one_process(one: Bench) -> None:
    settings = config.load(PARAMS, None, SETS)
    (one.work / "settings.yaml").write_text(config.dump(settings))
    build(settings, one.work / "corpus", Silent())
    curate(settings, one.work / "corpus", one.work / "alone", Silent())
    log = one.work / "out/logs/curate.log"

    def kill_the_second() -> None:
        wait_for(lambda: log.exists() and '[1] {"event": "start"' in log.read_text())
        one.double.kubelet.containers[one.pod(1)["metadata"]["uid"]].kill(guard=False)

    thread = one.meanwhile(kill_the_second)
    outcome = one.run(spec(CURATE, retries=1, nodes=2))
    thread.join(10)
    assert (outcome.status, outcome.attempts, outcome.result["clips"]) == (Status.SUCCEEDED, 2, "clips")
    said = log.read_text().splitlines()
    starts = [line[:3] for line in said if '{"event": "start"' in line]
    assert sorted(starts[:-1]) == ["[0]", "[1]", "[1]"]  # the last is the command itself
    assert '[0] {"event": "note", "text": "4 files were examined before and are not again"}' in said
    assert files(one.work / "clips") == files(one.work / "alone")
    assert not (one.work / "clips-work").exists()
    assert one.double.left() == []


def test_a_share_that_fails_is_worked_again_alone(one: Bench) -> None:
    (one.work / "fail-1").write_text("2")
    outcome = one.run(spec(COUNTED, retries=2))
    assert (outcome.status, outcome.last_line) == (Status.SUCCEEDED, "done-0 done-1 done-2")
    assert begun(one) == [1, 3, 1]


def test_a_share_that_fails_too_often_loses_no_other_and_nothing_is_put_together(one: Bench) -> None:
    (one.work / "fail-1").write_text("9")
    outcome = one.run(spec(COUNTED, retries=1))
    assert (outcome.status, outcome.exit_code) == (Status.FAILED, 1)
    assert outcome.last_line == "ovi: share 1 is broken"
    assert begun(one) == [1, 2, 1]
    assert sorted(path.name for path in one.work.glob("done-*")) == ["done-0", "done-2"]
    assert one.double.left() == []


def test_an_evicted_share_is_no_failure(one: Bench) -> None:
    (one.work / "hold-2").touch()

    def evict() -> None:
        wait_for((one.work / "begun-2").exists)
        one.double.kubelet.evict(NAMESPACE, one.pod(2)["metadata"]["name"])
        wait_for(lambda: begun(one)[2] == 2)
        (one.work / "hold-2").unlink()

    thread = one.meanwhile(evict)
    outcome = one.run(spec(COUNTED, retries=0))
    thread.join(10)
    assert (outcome.status, outcome.attempts) == (Status.SUCCEEDED, 2)
    assert begun(one) == [1, 1, 2]


def test_one_node_needs_no_shares(one: Bench) -> None:
    outcome = one.run(JobSpec("curate", COUNTED, apart=True))
    assert outcome.status is Status.SUCCEEDED
    assert not list(one.work.glob("begun-*"))
