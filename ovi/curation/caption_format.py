"""What a captioning model answered, taken strictly: a Caption of the paper's structure, or the first fault in it.

The tags are those of captions.parse; on top of them an answer must have the parts that were asked for (paper 3.2, 3.3),
and speech exactly if speech was heard. It knows neither the model nor the question.
Try it: `pytest tests/curation/test_caption_format.py`.
"""

from __future__ import annotations

import re
import unicodedata

from ovi.curation.captions import SPEECH, SPEECH_END, Caption, CaptionError, parse

MAX_CHARACTERS = 2000  # of a caption: the text encoder's 512 tokens hold it, sounds at the end included
HEARD, UNHEARD = "SPEECH", "NO SPEECH"  # the two answers to whether words are heard
_ALIEN = re.compile(r"Audio:|\*\*|```|\ufffd")  # the sampler's other style of sounds, markup, undecodable text
_SAID = re.compile(f"{SPEECH}.*?{SPEECH_END}")
_JOINERS = "\u200c\u200d"  # format characters that some scripts need


class Disagreement(CaptionError):
    """The answer has speech where none was heard, or none where some was."""


def parse_heard(text: str) -> bool:
    """Whether words are heard. CaptionError when the answer is neither of the two."""
    word = text.strip().removesuffix(".").upper()
    if word not in (HEARD, UNHEARD):
        raise CaptionError(f"it is neither {HEARD} nor {UNHEARD}")
    return word == HEARD


def parse_answer(text: str, *, pictures: bool, spoken: bool) -> Caption:
    """The caption in an answer about a clip with or without pictures, in which words were heard or not.

    With pictures: what is seen, with what is said in <S>...<E>, and the sounds. Without: what is said in one <S>...<E>,
    left out when nothing is, and the sounds. CaptionError names the first fault, Disagreement for one about speech.
    """
    text = " ".join(text.split())
    if len(text) > MAX_CHARACTERS:
        raise CaptionError(f"it has {len(text)} characters; at most {MAX_CHARACTERS} are taken")
    if alien := _ALIEN.search(text):
        raise CaptionError(f"{alien[0]!r} has no place in a caption")
    if strange := next((letter for letter in text if _strange(letter)), None):
        raise CaptionError(f"the character U+{ord(strange):04X} has no place in a caption")
    caption = parse(text)
    if spoken and not caption.speech:
        raise Disagreement(f"words are heard, and no {SPEECH}...{SPEECH_END} has them")
    if caption.speech and not spoken:
        raise Disagreement(f"no words are heard, and {SPEECH} has some")
    seen = _SAID.sub("", caption.visual)
    if pictures and not _worded(seen):
        raise CaptionError("it does not say what is seen")
    if not pictures and (seen or len(caption.speech) > 1):
        raise CaptionError(f"it has more than one {SPEECH}...{SPEECH_END} and the sounds")
    if not all(map(_worded, (caption.sound, *caption.speech))):
        raise CaptionError("there are no words between two tags")
    return caption


def _worded(text: str) -> bool:
    return any(map(str.isalnum, text))


def _strange(letter: str) -> bool:
    """Control, format and private characters, and halves of surrogate pairs."""
    return unicodedata.category(letter) in ("Cc", "Cf", "Co", "Cs") and letter not in _JOINERS
