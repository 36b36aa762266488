"""The parts of a prompt: what is seen, what is said in <S>...<E>, and what is heard in <AUDCAP>...<ENDAUDCAP>.

It knows nothing of tokens or versions, and needs no torch.
Try it: `python -c "from ovi.models.prompt_parts import split; print(split('A dog. <AUDCAP>Woof<ENDAUDCAP>'))"`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TAGGED = re.compile(r"<AUDCAP>(.*?)<ENDAUDCAP>", re.DOTALL)
WORDED = re.compile(r"Audio:\s*(.*)", re.DOTALL)  # up to the end
SPEECH = re.compile(r"<S>(.*?)<E>", re.DOTALL)


@dataclass(frozen=True)
class Parts:
    seen: str  # with the speech in its tags
    said: str
    heard: str


def split(prompt: str) -> Parts:
    """A prompt that does not tell its sounds apart, such as a negative one, is both seen and heard."""
    sounds = TAGGED.search(prompt) or WORDED.search(prompt)
    seen = prompt if sounds is None else prompt[: sounds.start()] + prompt[sounds.end() :]
    heard = SPEECH.sub("", prompt) if sounds is None else sounds[1]
    return Parts(seen.strip(), " ".join(said.strip() for said in SPEECH.findall(prompt)), heard.strip())
