"""AudioCaps' test set as MMAudio is evaluated on it: one caption a clip, sounds of 8 s (paper, Table 2).

Layout as published: data.csv with the columns name and caption, and beside it the real sounds, NAME.wav or NAME.flac.
Try it: `ovi benchmark table audiocaps --data AudioCaps-test-audioldm-ver --out prompts.csv`.
"""

from __future__ import annotations

from pathlib import Path

from ovi.evaluation.readers.benchmark import SOUNDS, Benchmark, Item, checked, prompt, sound_of, table

SECONDS = 8.0
PAPER = ("fd_panns_cnn14_16k", "fd_vggish", "is_panns_cnn14_16k", "clap_laion_htsat")


def read(folder: Path) -> Benchmark:
    """The benchmark at `folder`. Raises OviError for a table that is missing or not as published."""
    items = []
    for row in table(folder / "data.csv", ("name", "caption")):
        name, caption = row["name"], row["caption"]
        name = name[: -len(Path(name).suffix)] if Path(name).suffix in SOUNDS else name
        items.append(Item(name, prompt("", "", caption), sound=caption, reference=sound_of(folder, name)))
    return Benchmark("audiocaps", checked(folder, items), pictures=False, seconds=SECONDS, paper=PAPER)
