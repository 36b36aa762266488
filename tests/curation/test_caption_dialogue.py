"""The talk about one clip, with a model that says what it is told to say."""

from __future__ import annotations

import asyncio
import hashlib

import numpy as np
import pytest

from ovi.curation.caption_dialogue import CAPTION_TOKENS, Answer, CaptionFailed, Record, converse
from ovi.curation.caption_prompts import (
    LISTEN,
    PROMPTS,
    Material,
    Picture,
    Track,
    Turn,
    again,
    describe,
    listen,
    rules,
)
from ovi.curation.captions import parse
from tests.curation.llm_server import SPOKEN, SPOKEN_SOUND, UNSPOKEN, UNSPOKEN_SOUND

TRACK = Track(b"\x01\x00" * 16000, 16000)
SOUND = Material((), (), TRACK)
CLIP = Material(tuple(Picture(np.full((2, 2, 3), n, np.uint8)) for n in range(7)), tuple(map(float, range(7))), TRACK)


class Script:
    """A Backend that says its lines; a number stands for an answer that was cut off, an error is raised."""

    name, concurrency = "script", 1

    def __init__(self, *lines: str | Answer | Exception) -> None:
        self._lines = list(lines)
        self.asked: list[list[Turn]] = []

    async def ask(self, turns: list[Turn], max_tokens: int) -> Answer:
        self.asked.append(turns)
        line = self._lines.pop(0)
        if isinstance(line, Exception):
            raise line
        return line if isinstance(line, Answer) else Answer(line, True, 100, 10)

    async def close(self) -> None: ...


def talk(material: Material, *lines: str | Answer | Exception, reasks: int = 2) -> tuple[Record, list[list[Turn]]]:
    script = Script(*lines)
    return asyncio.run(converse(script, material, reasks)), script.asked


@pytest.mark.parametrize(
    ("material", "heard", "caption"),
    [
        (CLIP, "SPEECH", SPOKEN),
        (CLIP, "NO SPEECH", UNSPOKEN),
        (SOUND, "SPEECH", SPOKEN_SOUND),
        (SOUND, "NO SPEECH", UNSPOKEN_SOUND),
    ],
)
def test_two_questions_make_a_caption(material: Material, heard: str, caption: str) -> None:
    record, asked = talk(material, heard, caption)
    assert record == Record(2, parse(caption), heard == "SPEECH", [], 200, 20)
    assert asked == [listen(material), describe(material, heard == "SPEECH")]


def test_a_refused_answer_is_asked_again_with_its_fault() -> None:
    bad = "A lamp blinks. <AUDCAP>Beeps."
    record, asked = talk(CLIP, "NO SPEECH", bad, "Sorry!", UNSPOKEN)
    assert record.caption == parse(UNSPOKEN)
    assert [answer for answer, _ in record.refused] == [bad, "Sorry!"]
    assert "never closed" in record.refused[0][1]
    assert asked[2] == again(describe(CLIP, False), bad, record.refused[0][1])
    assert asked[3] == again(describe(CLIP, False), "Sorry!", record.refused[1][1])
    assert [turn.role for turn in asked[3]] == ["user", "assistant", "user"]
    assert record.refused[1][1] in str(asked[3][2].parts[0])
    assert (record.input_tokens, record.output_tokens) == (400, 40)


def test_re_asks_are_bounded_for_either_question() -> None:
    record, asked = talk(CLIP, "perhaps", "maybe", "SPEECH, I think")
    assert (record.caption, len(record.refused), len(asked)) == (None, 3, 3)
    record, asked = talk(CLIP, "perhaps", "NO SPEECH", "a", "b", "c")
    assert (record.caption, len(record.refused), len(asked)) == (None, 4, 5)
    record, asked = talk(CLIP, "NO SPEECH", "a", reasks=0)
    assert (record.caption, len(record.refused), len(asked)) == (None, 1, 2)


@pytest.mark.parametrize(("heard", "first", "then"), [("SPEECH", UNSPOKEN, SPOKEN), ("NO SPEECH", SPOKEN, UNSPOKEN)])
def test_a_model_that_contradicts_itself_gets_the_other_question(heard: str, first: str, then: str) -> None:
    record, asked = talk(CLIP, heard, first, first)
    assert record.caption == parse(first)
    assert asked[2] == describe(CLIP, heard != "SPEECH")
    record, asked = talk(CLIP, heard, first, then, first)
    assert record.caption is None
    assert asked[3] == describe(CLIP, heard == "SPEECH")


def test_an_answer_that_was_cut_off_is_refused() -> None:
    record, _ = talk(CLIP, "NO SPEECH", Answer(UNSPOKEN, False, 1, CAPTION_TOKENS), UNSPOKEN)
    assert record.caption == parse(UNSPOKEN)
    assert "cut off after 1024 tokens" in record.refused[0][1]


def test_a_failed_question_is_the_callers() -> None:
    with pytest.raises(CaptionFailed):
        talk(CLIP, "SPEECH", CaptionFailed("no"))


def test_a_huge_answer_is_not_sent_back_whole() -> None:
    _, asked = talk(CLIP, "NO SPEECH", "x" * 1_000_000, UNSPOKEN)
    assert len(str(asked[2][1].parts[0])) <= 2000


def test_the_model_sees_and_hears_in_order() -> None:
    (turn,) = describe(CLIP, True)
    kinds = [type(part).__name__ for part in turn.parts]
    assert kinds == ["str"] + ["str", "Picture"] * 7 + ["str", "Track", "str"]
    assert [part for part in turn.parts if isinstance(part, str) and part.startswith("At ")][3] == "At 3.00 s:"
    (turn,) = describe(SOUND, False)
    assert [type(part).__name__ for part in turn.parts] == ["str", "str", "Track", "str"]


def test_equal_material_has_an_equal_name() -> None:
    other = Material(CLIP.pictures[:-1] + (Picture(CLIP.pictures[-1].pixels + 1),), CLIP.seconds, TRACK)
    later = Material(CLIP.pictures, (*CLIP.seconds[:-1], 9.0), TRACK)
    louder = Material(CLIP.pictures, CLIP.seconds, Track(TRACK.pcm[:-2] + b"\x02\x00", 16000))
    faster = Material(CLIP.pictures, CLIP.seconds, Track(TRACK.pcm, 8000))
    names = [material.digest() for material in (CLIP, SOUND, other, later, louder, faster)]
    assert len(set(names)) == 6
    assert names[0] == Material(CLIP.pictures, CLIP.seconds, TRACK).digest()


@pytest.mark.parametrize("pictures", [True, False])
@pytest.mark.parametrize("spoken", [True, False])
def test_rules_ask_for_what_the_paper_asks(pictures: bool, spoken: bool) -> None:
    text = rules(pictures, spoken)
    assert "<AUDCAP>" in text
    assert "<ENDAUDCAP>" in text
    assert ("accent" in text) == spoken
    assert ("effects" in text) == (not spoken)
    assert ("camera" in text) == pictures
    assert ("use neither <S> nor <E>" in text) == (not spoken)


def test_other_words_are_another_version() -> None:
    words = LISTEN + "".join(rules(pictures, spoken) for pictures in (True, False) for spoken in (True, False))
    words += "".join(part for part in describe(SOUND, True)[0].parts if isinstance(part, str))
    words += str(again([], "a", "b")[1].parts[0])
    assert (PROMPTS, hashlib.sha256(words.encode()).hexdigest()[:16]) == ("prompts-v1", "d2c101fd3782b776")
