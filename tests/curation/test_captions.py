"""The tag grammar: what parses comes back, and what does not names its first fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovi.curation.captions import Caption, CaptionError, parse, read_sidecar, sidecar, sound_words, video_words

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="<>"), max_size=20).map(lambda t: " ".join(t.split()))
SAID = WORDS.filter(bool)
TAGS = st.sampled_from(["<S>", "<E>", "<AUDCAP>", "<ENDAUDCAP>", "<", ">", "a", " "])


@given(WORDS, st.lists(st.tuples(SAID, WORDS)), SAID)
def test_every_caption_of_the_grammar_comes_back(first: str, spoken: list[tuple[str, str]], sound: str) -> None:
    visual = " ".join((first + "".join(f"<S>{said}<E>{after}" for said, after in spoken)).split())
    caption = Caption(visual, sound)
    parsed = parse(str(caption))
    assert parsed == caption
    assert parsed.speech == [said for said, _ in spoken]


@given(st.lists(TAGS, max_size=12).map("".join))
def test_what_parses_is_within_the_grammar(text: str) -> None:
    try:
        caption = parse(text)
    except CaptionError:
        return
    assert text.count("<AUDCAP>") == text.count("<ENDAUDCAP>") == 1
    assert text.count("<S>") == text.count("<E>") == len(caption.speech)
    assert text.rstrip().endswith("<ENDAUDCAP>")
    assert parse(str(caption)) == caption


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no <AUDCAP>"),
        ("A cat.", "no <AUDCAP>"),
        ("A cat. <AUDCAP>Purring.", "never closed"),
        ("A cat. <AUDCAP> <ENDAUDCAP>", "nothing said or heard"),
        ("A cat. Purring.<ENDAUDCAP>", "without <AUDCAP>"),
        ("<AUDCAP>Purring.<ENDAUDCAP> A cat.", "text after"),
        ("A. <AUDCAP>B<ENDAUDCAP> <AUDCAP>C<ENDAUDCAP>", "after <ENDAUDCAP>"),
        ("He says <S>hello. <AUDCAP>A voice.<ENDAUDCAP>", "<AUDCAP> inside <S>"),
        ("He says <S><E>. <AUDCAP>A voice.<ENDAUDCAP>", "nothing said or heard"),
        ("He says <S>a <S>b<E><E>. <AUDCAP>A voice.<ENDAUDCAP>", "<S> inside <S>"),
        ("He says <E>a<S>. <AUDCAP>A voice.<ENDAUDCAP>", "<E> without <S>"),
        ("A cat. <AUDCAP>Says <S>miaow<E>.<ENDAUDCAP>", "<S> inside <AUDCAP>"),
        ("1 < 2. <AUDCAP>Sound.<ENDAUDCAP>", "stray '<'"),
        ("A cat. <audcap>Purring.<endaudcap>", "stray '<'"),
    ],
)
def test_the_first_fault_is_named(text: str, fault: str) -> None:
    with pytest.raises(CaptionError, match=fault):
        parse(text)


def test_parts_of_a_caption() -> None:
    caption = parse("A man says <S>good\n day<E> and <S>bye<E>.  <AUDCAP>A low voice.<ENDAUDCAP>\n")
    assert caption == Caption("A man says <S>good day<E> and <S>bye<E>.", "A low voice.")
    assert caption.speech == ["good day", "bye"]
    assert parse("<AUDCAP>Rain.<ENDAUDCAP>") == Caption("", "Rain.")


def test_a_sidecar_is_an_object_or_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"caption": "x", "scene": "blink"}))
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("y")

    def said(name: str) -> dict[str, Any]:
        return read_sidecar(sidecar(str(tmp_path / name)))

    assert said("a.mp4") == {"caption": "x", "scene": "blink"}
    assert said("b.mp4") == {"caption": "y"}
    assert said("c.mp4") == {}
    assert sidecar("s3://bucket/a.b/film.mp4", lambda address: address == "s3://bucket/a.b/film.txt")
    assert sidecar("s3://bucket/a.b/film", "s3://bucket/a.b/film.json".__eq__)


@pytest.mark.parametrize("content", [b"{", b"[1]", b'"x"', b"\xff\xfe"])
def test_a_damaged_sidecar_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CaptionError, match=r"a\.json"):
        read_sidecar(str(tmp_path / "a.json"))


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-120, 0))
def test_template_captions_parse(brightness: float, flow: float, volume: float) -> None:
    caption = Caption(video_words(brightness, flow), sound_words(volume))
    assert parse(str(caption)) == caption
