"""Prompts: what is wrong with them, how each version wants them, and the file names made of them."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovi.diffusion.prompts import VERSIONS, clean_text, file_stem, formatted, prompt_problems, prompt_warnings
from ovi.errors import ConfigError
from tests import golden

GOOD = "A man says <S>hello there<E> and waves. <AUDCAP>A calm voice, wind.<ENDAUDCAP>"
TABLE = golden.table("text_and_resolution")
TAGS, WORD = "720x720_5s", "960x960_10s"


@pytest.mark.parametrize(
    "prompt",
    [
        GOOD,
        "A red lamp blinks.",
        "<S>One<E> then <S>two<E>",
        "a < b and c > d",
        "  A dog.\n <AUDCAP>Barks<ENDAUDCAP>  ",
        "A dog. Audio: barks",
    ],
)
def test_good_prompts(prompt):
    assert prompt_problems(prompt) == []


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "is empty"),
        (" \n\t", "is empty"),
        ("<S><E> <AUDCAP><ENDAUDCAP>", "is empty"),
        ("A man says <S>hello", "<S> is not closed; add <E>"),
        ("A man says hello<E>", "<E> without <S> before it"),
        ("A dog. <AUDCAP>Woof", "<AUDCAP> is not closed; add <ENDAUDCAP>"),
        ("A dog. Woof<ENDAUDCAP>", "<ENDAUDCAP> without <AUDCAP> before it"),
        ("<S>a <S>b<E>", "<S> inside <S>, which is not closed"),
        ("<AUDCAP>a voice says <S>b<E><ENDAUDCAP>", "<S> inside <AUDCAP>, which is not closed"),
        ("<S>a<ENDAUDCAP>", "<ENDAUDCAP> without <AUDCAP> before it"),
        ("<S>a</S>", "</S> is no tag; speech ends with <E>"),
        ("<AUDCAP>a<ENDAUDCAP> <AUDCAP>b<ENDAUDCAP>", "more than one <AUDCAP>"),
        ("x" * 4001, "4001 characters; at most 4000"),
    ],
)
def test_bad_prompts(prompt, words):
    assert any(words in problem for problem in prompt_problems(prompt))
    assert not any("\n" in problem for problem in prompt_problems(prompt))


@pytest.mark.parametrize("version", VERSIONS)
def test_formatted(version):
    for prompt, want in TABLE["formatter"][version].items():
        assert formatted(prompt, version) == want


def test_versions_are_those_of_the_release():
    assert VERSIONS.keys() == TABLE["formatter"].keys()
    with pytest.raises(ConfigError, match=r"^version: '1080p' is not one of 720x720_5s, 960x960_5s, 960x960_10s$"):
        formatted("A dog.", "1080p")
    with pytest.raises(ConfigError, match=r"^version: "):
        prompt_warnings("A dog.", "1080p")


@pytest.mark.parametrize(
    ("prompt", "version"),
    [(GOOD, TAGS), ("A man says <S>hello<E>. Audio: A calm voice.", WORD), ("<AUDCAP>a<ENDAUDCAP> \n", TAGS)],
)
def test_prompts_without_warnings(prompt, version):
    assert prompt_warnings(prompt, version) == []


@pytest.mark.parametrize(
    ("prompt", "version", "words"),
    [
        ("A dog.", TAGS, ["does not describe the sounds; end it with <AUDCAP>...<ENDAUDCAP>"]),
        ("A dog.", WORD, ["does not describe the sounds; end it with Audio: ..."]),
        ("A dog. <AUDCAP> <ENDAUDCAP>", TAGS, ["does not describe the sounds"]),
        ("A dog. Audio:", WORD, ["does not describe the sounds"]),
        ("A <AUDCAP>bark<ENDAUDCAP> dog.", TAGS, ["goes on after the description of the sounds"]),
        ("Audio: wind. A man says <S>hello<E>.", WORD, ["goes on after the description of the sounds"]),
        (GOOD, WORD, ["another version wants it; rewritten as Audio: ... for 960x960_10s"]),
        ("A dog. Audio: woof", TAGS, ["another version wants it; rewritten as <AUDCAP>...<ENDAUDCAP>"]),
        ("A dog <S> \n<E>. <AUDCAP>woof<ENDAUDCAP>", TAGS, ["has <S><E> without words"]),
        ("A <AUDCAP>bark<ENDAUDCAP> dog <S><E>.", WORD, ["another version", "goes on after", "without words"]),
        ("A <AUDCAP>bark<ENDAUDCAP> Audio: woof", WORD, ["another version", "in both styles", "goes on after"]),
    ],
)
def test_warnings(prompt, version, words):
    assert prompt_problems(prompt) == []
    warnings = prompt_warnings(prompt, version)
    assert len(warnings) == len(words)
    assert all(some in warning and "\n" not in warning for some, warning in zip(words, warnings, strict=True))


def test_clean_text():
    for prompt, want in TABLE["clean_text"].items():
        assert clean_text(prompt) == want


def test_file_stem_as_the_release_but_for_newlines():
    for prompt, want in TABLE["filename"].items():
        assert file_stem(prompt) == want.replace("\n", "_")


def test_file_stem_of_bad_intent():
    assert file_stem("../../etc/passwd") == "_._etc_passwd"
    assert file_stem("a\\b\0c\td\u202ee\ud800f\u2028g") == "a_b_c_d_e_f_g"
    assert file_stem("Wait... <S>what<E>") == "Wait._what"
    assert file_stem("<S><E>") == file_stem("...") == "clip"
    assert len(file_stem("x" * 60)) == 50


@given(st.text())
def test_file_stem_is_a_name(prompt):
    stem = file_stem(prompt)
    assert 0 < len(stem) <= 50
    assert stem.isprintable()
    assert not set(stem) & set("/\\ ")
    assert ".." not in stem
    assert not stem.startswith(".")


def test_no_torch_is_needed():
    """The service's front process looks at prompts and sizes, and never imports torch."""
    code = "import sys, ovi.diffusion.request, ovi.diffusion.sizes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
