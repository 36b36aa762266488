"""How many words of a text a speech recogniser heard otherwise: word error rates under the published rules for text.

Seed-TTS keeps digits, spelling and apostrophes as they are written and averages over utterances; F5-TTS takes the
apostrophe off too; Verse-Bench leaves all punctuation in; Whisper's own rules write numbers, contractions and British
spelling one way. Rates under different rules cannot be compared. It does not know who heard the words.
Try it: `python -c "from ovi.evaluation import words as w; print(w.errors('two cats sat', 'too cats').rate)"`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Chinese marks as zhon lists them, and ASCII's.
MARKS = (
    "＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､\u3000、〃〈〉《》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏﹑﹔·．！？｡。"
    + string.punctuation
)
Normaliser = Callable[[str], str]


@dataclass(frozen=True)
class WordErrors:
    """What it takes to make the heard words of the written ones."""

    substitutions: int
    deletions: int
    insertions: int
    hits: int

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def written(self) -> int:
        return self.substitutions + self.deletions + self.hits

    @property
    def rate(self) -> float | None:
        """Errors per written word, which can exceed 1; None where nothing is written."""
        return self.errors / self.written if self.written else None


def seed_tts(text: str) -> str:
    """Without marks but the ASCII apostrophe, two spaces made one (once), in lower case."""
    return _without(text, MARKS.replace("'", ""))


def f5_tts(text: str) -> str:
    """As Seed-TTS, and without apostrophes."""
    return _without(text, MARKS)


def verse_bench(text: str) -> str:
    """In lower case, all marks kept."""
    return text.strip().lower()


def whisper(spellings: Mapping[str, str]) -> Normaliser:
    """Whisper's rules for English; `spellings` (British -> American) come with its weights, in normalizer.json."""
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer  # takes a second to import

    normalise: Normaliser = EnglishTextNormalizer(dict(spellings))
    return normalise


def errors(written: str, heard: str) -> WordErrors:
    """The fewest substitutions, deletions and insertions; among equals those that jiwer counts. Texts as normalised."""
    return _align(_words(written), _words(heard))


def mean_rate(found: Sequence[WordErrors]) -> float | None:
    """Mean of the utterances' rates, as Seed-TTS reports it; utterances with nothing written are left out."""
    rates = [one.rate for one in found if one.rate is not None]
    return float(np.mean(rates)) if rates else None


def corpus_rate(found: Sequence[WordErrors]) -> float | None:
    """All errors over all words of the utterances in which something is written: long ones count more."""
    counted = [one for one in found if one.written]
    return sum(one.errors for one in counted) / sum(one.written for one in counted) if counted else None


def _without(text: str, marks: str) -> str:
    return text.translate(dict.fromkeys(map(ord, marks))).replace("  ", " ").lower()


def _words(text: str) -> list[str]:
    """As jiwer splits: at spaces alone, after runs of white space became one space."""
    return [word for word in re.sub(r"\s\s+", " ", text).strip().split(" ") if word]


def _align(written: list[str], heard: list[str]) -> WordErrors:
    """Walks the table of edit distances back from its end as rapidfuzz does, which decides between equal paths:
    common ends first, then a deletion where it is on a shortest path, then an insertion where the heard words without
    their last are nearer, else both words together.
    """
    start = _common(written, heard)
    end = _common(written[start:][::-1], heard[start:][::-1])
    left, right = written[start : len(written) - end], heard[start : len(heard) - end]
    table = _distances(left, right)
    row, column = len(left), len(right)
    substitutions, deletions, insertions, hits = 0, 0, 0, start + end
    while row and column:
        if table[row, column] == table[row - 1, column] + 1:
            row, deletions = row - 1, deletions + 1
        elif table[row, column - 1] < table[row - 1, column - 1]:
            column, insertions = column - 1, insertions + 1
        else:
            row, column = row - 1, column - 1
            hits, substitutions = (hits + 1, substitutions) if left[row] == right[column] else (hits, substitutions + 1)
    return WordErrors(substitutions, deletions + row, insertions + column, hits)


def _common(one: list[str], other: list[str]) -> int:
    """How many words both begin with."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def _distances(left: list[str], right: list[str]) -> NDArray[np.int64]:
    """[len(left) + 1, len(right) + 1] edit distances of all beginnings (Levenshtein)."""
    table = np.add.outer(np.arange(len(left) + 1), np.arange(len(right) + 1))
    for row, one in enumerate(left, 1):
        for column, other in enumerate(right, 1):
            table[row, column] = min(
                table[row - 1, column] + 1, table[row, column - 1] + 1, table[row - 1, column - 1] + (one != other)
            )
    return table
