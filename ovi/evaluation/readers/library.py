"""The benchmarks by name.

Try it: `python -c "from ovi.evaluation.readers.library import READERS; print(*READERS)"`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ovi.errors import ConfigError
from ovi.evaluation.readers import audiocaps, javis_bench, seed_tts, verse_bench
from ovi.evaluation.readers.benchmark import Benchmark

READERS: dict[str, Callable[[Path], Benchmark]] = {
    "verse-bench": verse_bench.read,
    "audiocaps": audiocaps.read,
    "seed-tts": seed_tts.read,
    "javis-bench": javis_bench.read,
    "javis-bench-mini": javis_bench.read_mini,
}


def read(name: str, folder: Path) -> Benchmark:
    """The benchmark `name` in its published layout at `folder`. Raises OviError for what is missing or not so."""
    if name not in READERS:
        raise ConfigError(f"benchmark: there is no {name!r}; there are {', '.join(READERS)}")
    return READERS[name](folder)
