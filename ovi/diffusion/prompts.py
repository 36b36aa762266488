"""Prompts: what is wrong with one, and how each released version of the model wants it written.

A prompt describes what is seen, with speech in <S>...<E>, and ends with the sounds: in <AUDCAP>...<ENDAUDCAP> or after
"Audio:", as the version was trained. It knows nothing of tokens or models, and needs no torch.
Try it: `python -c "from ovi.diffusion.prompts import prompt_problems; print(prompt_problems('A dog. <AUDCAP>Woof'))"`.
"""

from __future__ import annotations

import re

from ovi.errors import ConfigError
from ovi.models.prompt_parts import SPEECH, TAGGED, WORDED

MAX_PROMPT = 4000  # characters
MAX_STEM = 50  # characters, as in the release
TAG = re.compile(r"</?(?:S|E|AUDCAP|ENDAUDCAP)>")
CLOSES = {"<E>": "<S>", "<ENDAUDCAP>": "<AUDCAP>"}
IN_TAGS, IN_WORDS = "<AUDCAP>...<ENDAUDCAP>", "Audio: ..."
VERSIONS = {"720x720_5s": IN_TAGS, "960x960_5s": IN_WORDS, "960x960_10s": IN_WORDS}  # how the sounds are written


def prompt_problems(prompt: str) -> list[str]:
    """What is wrong with a prompt, one line each; empty when it can be sampled.

    A prompt is a description with speech in <S>...<E>, and one <AUDCAP>...<ENDAUDCAP> for the sounds (paper 3.4).
    """
    if not TAG.sub("", prompt).strip():
        return ["is empty; describe what is seen and heard"]
    problems = []
    if len(prompt) > MAX_PROMPT:
        problems.append(f"has {len(prompt)} characters; at most {MAX_PROMPT}")
    opened: str | None = None
    for tag in TAG.findall(prompt):
        if tag.startswith("</"):
            problems.append(f"{tag} is no tag; speech ends with <E>, the sounds with <ENDAUDCAP>")
        elif tag in CLOSES:
            if opened != CLOSES[tag]:
                problems.append(f"{tag} without {CLOSES[tag]} before it")
            opened = None
        else:
            if opened:
                problems.append(f"{tag} inside {opened}, which is not closed")
            opened = tag
    if opened:
        problems.append(f"{opened} is not closed; add {next(end for end, start in CLOSES.items() if start == opened)}")
    if prompt.count("<AUDCAP>") > 1:
        problems.append("has more than one <AUDCAP>; describe all sounds in one")
    return problems


def prompt_warnings(prompt: str, version: str) -> list[str]:
    """What may not come out as meant from a prompt without problems, one line each."""
    style = _style(version)
    tagged, worded = TAGGED.search(prompt), WORDED.search(prompt)
    warnings = []
    if formatted(prompt, version) != prompt:
        warnings.append(f"describes the sounds as another version wants it; rewritten as {style} for {version}")
    if tagged and worded:
        warnings.append(f"describes the sounds in both styles; write {style} alone")
    sounds = tagged or worded
    if not sounds or not sounds[1].strip():
        warnings.append(f"does not describe the sounds; end it with {style}")
    elif prompt[sounds.end() :].strip() or SPEECH.search(sounds[1]):
        warnings.append(f"goes on after the description of the sounds; move {style} to the end")
    if any(not speech.strip() for speech in SPEECH.findall(prompt)):
        warnings.append("has <S><E> without words; write what is said, or leave it out")
    return warnings


def formatted(prompt: str, version: str) -> str:
    """The prompt with its sounds written as the released version wants them, by the release's own rule.

    ConfigError when there is no such version.
    """
    if _style(version) == IN_TAGS:
        return WORDED.sub(r"<AUDCAP>\1<ENDAUDCAP>", prompt)
    return TAGGED.sub(r"Audio: \1", prompt)


def clean_text(prompt: str) -> str:
    """What is seen alone, without speech and sounds: the prompt for a first frame from an image model."""
    for heard in (SPEECH, TAGGED, WORDED):
        prompt = heard.sub("", prompt)
    return prompt.strip()


def file_stem(prompt: str) -> str:
    """The start of a file's name for a prompt: its first 50 characters without tags, blanks as underscores.

    As the release names its files, but for what would hurt a file system or a terminal: the release leaves newlines,
    other unprintable characters and backslashes as they are, here they are underscores; dots do not come in pairs or
    first, and something is left of every prompt.
    """
    text = re.sub(r"<[^>]*>", "", prompt)[:MAX_STEM]
    safe = "".join(letter if letter.isprintable() and letter not in " /\\" else "_" for letter in text)
    return re.sub(r"\.{2,}", ".", safe).lstrip(".") or "clip"


def _style(version: str) -> str:
    if version not in VERSIONS:
        raise ConfigError(f"version: {version!r} is not one of {', '.join(VERSIONS)}")
    return VERSIONS[version]
