"""`ovi benchmark score`: generated clips in a folder, measured as a published benchmark asks.

Fills the same files as `ovi evaluate`, so two models are compared by `ovi compare`. A file that is missing or cannot be
opened ends the run where more are than `evaluation.max_missing` allows; below that it counts among the failures of
every metric. It generates nothing.
Try it: `ovi benchmark score seed-tts --data seedtts_testset --clips out/clips --out out/seed-tts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ovi import storage
from ovi.config import Settings
from ovi.evaluation import benchmark_page, filed, given, logbook, published, quality, record
from ovi.evaluation.filed import Gathered
from ovi.evaluation.measured import How, Measured
from ovi.evaluation.networks import NOT_COMPARABLE, Networks
from ovi.evaluation.published import Published
from ovi.evaluation.readers.benchmark import Benchmark
from ovi.evaluation.results import APART, Results, rounded
from ovi.progress import Progress
from ovi.tracking import Run


def score(
    settings: Settings, benchmark: Benchmark, clips: Path, out: Path, progress: Progress, as_published: bool = False
) -> dict[str, float | None]:
    """Fill `out` with metrics.json, metrics_reasons.json, report.json, evidence.safetensors and report.html.

    Raises OviError, with the list, when too many files are missing.
    """
    run = Run.open(settings.tracking, "benchmark", tags={"ovi.benchmark": benchmark.name})
    try:
        run.log_params({"benchmark": benchmark.name, "evaluation": settings.evaluation.model_dump()})
        gathered = filed.gather(benchmark, clips)
        gathered.check(settings.evaluation.max_missing)
        results = Results()
        with storage.atomic_folder(out) as folder:
            found = _fill(settings, benchmark, gathered, folder, progress, as_published, results)
        logbook.write(run, out, results, found)
    except BaseException:
        run.leave("FAILED")
        raise
    run.close()
    progress.result(report=str(out / "report.html"), **{one.key: results.values[one.key] for one in found})
    return results.values


def _fill(
    settings: Settings, benchmark: Benchmark, gathered: Gathered, out: Path, progress: Progress, as_published: bool,
    results: Results,
) -> list[Measured]:  # fmt: skip
    networks = Networks(settings.evaluation)
    how = How(settings.seed, settings.evaluation.draws, benchmark.protocol)
    progress.note(f"{benchmark.name}: {len(gathered.takes)} clips, {len(gathered.missing)} files missing")
    found = quality.measure(
        gathered.takes, gathered.reference, networks, how, settings.evaluation.outputs, benchmark.pictures
    )
    for one in found:
        one.write(results)
    others = _published(settings, benchmark, gathered, networks) if as_published else []
    _write_published(others, results)
    told = {
        "benchmark": benchmark.name, "protocol": benchmark.protocol, "seed": settings.seed,
        "files": gathered.expected, "missing": list(gathered.missing),
        "published": [{**asdict(one), "value": rounded(one.value)} for one in others],
    }  # fmt: skip
    about = record.write(out, told, benchmark.items, found)
    storage.write_bytes(out / "report.html", benchmark_page.build(benchmark, about, results).encode())
    results.write(out)
    return found


def _published(settings: Settings, benchmark: Benchmark, gathered: Gathered, networks: Networks) -> list[Published]:
    offsets = given.offsets(settings.evaluation.outputs)
    return published.compute(benchmark.name, gathered.takes, gathered.reference, networks, offsets)


def _write_published(others: Sequence[Published], results: Results) -> None:
    """published/<name> and published/<name>/n, with what is wrong with it as a note; those by a formula apart."""
    for one in others:
        name = f"published/{one.name}"
        if one.value is not None and one.defect.startswith(NOT_COMPARABLE):
            results.null(name, NOT_COMPARABLE)
            name = f"{APART}{name}"
        results.take(name, one.value, one.reason)
        results.set(f"{name}/n", one.n)
        if one.value is not None:
            results.note(name, f"as the published scorer has it: {one.defect}")
