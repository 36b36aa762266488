"""Seed-TTS test-en (Anastassiou et al., 2024, arXiv 2406.02430): sentences to be said (paper, Table 2).

Layout as published: en/meta.lst, a line an utterance, parted by |: NAME, the text and the sound of a voice to imitate,
and the sentence; a real recording may follow. Ovi imitates no voice, so the sentence alone is asked for. Shorter lines
are read as the published scorer reads them: NAME|sentence and NAME|sentence|voice.
Try it: `ovi benchmark table seed-tts --data seedtts_testset --out prompts.csv`.
"""

from __future__ import annotations

from pathlib import Path

from ovi import storage
from ovi.errors import OviError
from ovi.evaluation.readers.benchmark import Benchmark, Item, checked, prompt

SENTENCE = {2: 1, 3: 1, 4: 3, 5: 3}  # cells of a line -> which of them is said
PAPER = ("wer_f5_tts",)


def read(folder: Path) -> Benchmark:
    """The benchmark at `folder`, of which en/ may be given itself. Raises OviError naming the line that is not so."""
    path = folder / "en" / "meta.lst" if (folder / "en").is_dir() else folder / "meta.lst"
    try:
        lines = storage.read_bytes(path).decode().splitlines()
    except UnicodeDecodeError as error:
        raise OviError(f"{path}: not a text in UTF-8 ({error})") from None
    items = [_item(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return Benchmark("seed-tts", checked(path, items), pictures=False, paper=PAPER)


def _item(path: Path, number: int, line: str) -> Item:
    cells = [cell.strip() for cell in line.split("|")]
    said = cells[SENTENCE[len(cells)]] if len(cells) in SENTENCE else ""
    if not said:
        raise OviError(f"{path}, line {number}: not NAME|voice's text|voice's sound|sentence")
    return Item(cells[0].removesuffix(".wav"), prompt("", said, ""), speech=said)
