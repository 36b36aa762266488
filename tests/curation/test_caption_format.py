"""Answers of a captioning model: taken whole or refused with a reason; nothing in between is ever a caption."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovi.curation.caption_format import HEARD, MAX_CHARACTERS, UNHEARD, Disagreement, parse_answer, parse_heard
from ovi.curation.captions import Caption, CaptionError, parse
from ovi.diffusion.prompts import MAX_PROMPT, prompt_problems, prompt_warnings

SEEN_SPOKEN = "A man in a grey coat turns round and says <S>Wait, I know you!<E> A woman stops and says <S>Désolée.<E>"
HEARD_SPOKEN = "An old man's deep, hurried voice with a Scottish accent; a calm young woman answers; rain on a roof."
GOOD = {  # (pictures, spoken) -> an answer
    (True, True): f"{SEEN_SPOKEN} Both look at the rain. <AUDCAP>{HEARD_SPOKEN}<ENDAUDCAP>",
    (True, False): "A hammer falls on an anvil, twice. <AUDCAP>Two bright strikes of metal; wind.<ENDAUDCAP>",
    (False, True): "<S>Nous partons demain.<E> <AUDCAP>A tired woman's low voice in a small room.<ENDAUDCAP>",
    (False, False): "<AUDCAP>Surf rolls in and out; far gulls.<ENDAUDCAP>",
}
PIECES = [
    "<S>", "<E>", "<AUDCAP>", "<ENDAUDCAP>", "</S>", "<s>", "<audcap>", "< S >", "<", ">", "<|im_end|>", "```", "**",
    "Audio:", "\n", "\n\n- ", "\x00", "\x1b[31m", "\u202e", "\ufeff", "\ufffd", "\ud800", "\U000f0000", "caption: ",
    '{"caption": "', "Sure! Here it is:", "é", "雨", "🌧", "\u200d", "\u2028", "\t", "", " ", "word", "x" * 3000,
]  # fmt: skip
GRAMMAR = re.compile(r"[^<>]*(?:<S>[^<>]+<E>[^<>]*)*<AUDCAP>[^<>]+<ENDAUDCAP>")  # written down a second time


def mutated(text: str, draw: random.Random) -> str:
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3, 8))):
        at, to = sorted(draw.randrange(len(text) + 1) for _ in range(2))
        piece = draw.choice(PIECES)
        match draw.randrange(7):
            case 0:
                text = text[:at] + piece + text[at:]
            case 1:
                text = text[:at] + text[to:]
            case 2:
                text = text[:at] + piece + text[to:]
            case 3:
                text = text[:to]
            case 4:
                text += text[at:to]
            case 5:
                tags = re.findall(r"<[A-Z]+>", text) or ["."]
                text = text.replace(draw.choice(tags), piece, draw.choice((1, -1)))
            case 6:
                words = text.split(" ")
                draw.shuffle(words)
                text = " ".join(words)
    return text


def test_ten_thousand_damaged_answers_are_parsed_or_refused() -> None:
    draw = random.Random(20261126)
    faults: Counter[str] = Counter()
    for _ in range(10_000):
        (pictures, spoken), answer = draw.choice(list(GOOD.items()))
        answer = mutated(answer, draw)
        try:
            caption = parse_answer(answer, pictures=pictures, spoken=spoken)
        except CaptionError as fault:
            faults[str(fault)] += 1
            continue
        faults["taken"] += 1
        stored = str(caption)
        assert parse_answer(stored, pictures=pictures, spoken=spoken) == caption == parse(stored)
        assert GRAMMAR.fullmatch(stored)
        assert stored == " ".join(stored.split())
        assert stored.encode().decode() == stored
        assert len(stored) <= MAX_CHARACTERS
        assert bool(caption.speech) == spoken
        assert all(said.strip() for said in caption.speech)
        assert re.sub("<S>.*?<E>", "", caption.visual).strip() if pictures else len(caption.speech) == spoken
        assert prompt_problems(stored) == [] == prompt_warnings(stored, "720x720_5s")
    assert 1000 < faults["taken"] < 9000
    assert all(fault and fault.isprintable() for fault in faults)
    kinds = {re.sub(r"\d+|'.*?'|<\w+>|U\+\w+", "_", fault) for fault in faults}
    assert len(kinds) > 12, kinds  # the mutations reach nearly all of the rules


WORDS = st.text(st.sampled_from("aé雨1,.'- "), min_size=1, max_size=12).filter(lambda t: any(map(str.isalnum, t)))


@given(WORDS, st.lists(st.tuples(WORDS, WORDS), max_size=4), WORDS)
def test_every_well_formed_answer_is_taken_and_comes_back(seen: str, spoken: list[tuple[str, str]], sound: str) -> None:
    answer = seen + "".join(f"<S>{said}<E>{after}" for said, after in spoken) + f"<AUDCAP>{sound}<ENDAUDCAP>"
    caption = parse_answer(answer, pictures=True, spoken=bool(spoken))
    assert len(caption.speech) == len(spoken)
    assert parse_answer(str(caption), pictures=True, spoken=bool(spoken)) == caption


@given(st.lists(st.sampled_from(PIECES), max_size=10).map("".join), st.booleans(), st.booleans())
def test_any_text_is_parsed_or_refused(text: str, pictures: bool, spoken: bool) -> None:
    try:
        caption = parse_answer(text, pictures=pictures, spoken=spoken)
    except CaptionError:
        return
    assert GRAMMAR.fullmatch(str(caption))
    assert parse_answer(str(caption), pictures=pictures, spoken=spoken) == caption


@pytest.mark.parametrize(("kind", "answer"), GOOD.items())
def test_good_answers_are_taken_for_their_kind_of_clip_alone(kind: tuple[bool, bool], answer: str) -> None:
    assert str(parse_answer(f"\n {answer}\n", pictures=kind[0], spoken=kind[1])) == answer
    with pytest.raises(Disagreement):
        parse_answer(answer, pictures=kind[0], spoken=not kind[1])
    with pytest.raises(CaptionError):
        parse_answer(answer, pictures=not kind[0], spoken=kind[1])


def test_parts_of_an_answer_about_sound() -> None:
    caption = parse_answer(GOOD[False, True], pictures=False, spoken=True)
    assert caption == Caption("<S>Nous partons demain.<E>", "A tired woman's low voice in a small room.")
    assert caption.speech == ["Nous partons demain."]


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("", "no <AUDCAP>"),
        ("I cannot help with that.", "no <AUDCAP>"),
        ("A cat. <AUDCAP>Purring.", "never closed"),
        ("A cat. <AUDCAP>Purring.<ENDAUDCAP> I hope this helps!", "text after"),
        ("A cat. <AUDCAP>...<ENDAUDCAP>", "no words between"),
        ("... <AUDCAP>Purring.<ENDAUDCAP>", "what is seen"),
        ("**A cat.** <AUDCAP>Purring.<ENDAUDCAP>", "no place"),
        ("A cat. Audio: purring. <AUDCAP>Purring.<ENDAUDCAP>", "'Audio:' has no place"),
        ("A cat.\x00 <AUDCAP>Purring.<ENDAUDCAP>", "U\\+0000"),
        ("A cat.\ud83d <AUDCAP>Purring.<ENDAUDCAP>", "U\\+D83D"),
        ("A cat. <|im_end|> <AUDCAP>Purring.<ENDAUDCAP>", "stray '<'"),
        (f"{'A cat. ' * 300}<AUDCAP>Purring.<ENDAUDCAP>", "at most 2000"),
        ("A cat says <S>miaow<E> <AUDCAP>Purring.<ENDAUDCAP>", "no words are heard"),
    ],
)
def test_the_fault_is_named(answer: str, fault: str) -> None:
    with pytest.raises(CaptionError, match=fault):
        parse_answer(answer, pictures=True, spoken=False)


@pytest.mark.parametrize(("text", "heard"), [(HEARD, True), (f" {UNHEARD.lower()}.\n", False), ("Speech.", True)])
def test_whether_words_are_heard(text: str, heard: bool) -> None:
    assert parse_heard(text) is heard


@pytest.mark.parametrize("text", ["", "yes", "SPEECH and music", "NO", "NO SPEECH SPEECH", "<S>"])
def test_anything_else_about_words_is_refused(text: str) -> None:
    with pytest.raises(CaptionError):
        parse_heard(text)


def test_the_sampler_takes_every_caption() -> None:
    assert MAX_CHARACTERS <= MAX_PROMPT
