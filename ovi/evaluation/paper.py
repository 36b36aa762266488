"""The paper's Tables 2 and 3: reference rows for a report. It measures nothing.

Tables 2 and 3 hold for AudioCaps by MMAudio's protocol and, word error rates, for Seed-TTS test-en under the rules for
text of F5-TTS, from which that column's other rows were taken. On other clips such figures mean something else.
Try it: `python -c "from ovi.evaluation.paper import TABLE_3; print(TABLE_3)"`.
"""

from __future__ import annotations

from dataclasses import dataclass

COLUMNS = {
    "fd_panns_cnn14_16k": "FD PANNs", "fd_vggish": "FD VGG", "is_panns_cnn14_16k": "IS",
    "clap_laion_htsat": "CLAP", "wer_f5_tts": "WER",
}  # fmt: skip


@dataclass(frozen=True)
class Reported:
    """A row: what was evaluated, and its figures in the order of COLUMNS; None: the paper has none."""

    group: str
    model: str
    figures: tuple[float | None, ...]


TABLE_2 = (
    Reported("sound", "GenAU-Large", (16.51, 1.21, 11.75, 0.285, None)),
    Reported("sound", "TANGO 2", (19.77, 2.74, 8.45, 0.264, None)),
    Reported("sound", "Make-An-Audio 2", (15.34, 1.27, 9.58, 0.251, None)),
    Reported("sound", "AudioLDM 2-L", (32.50, 5.11, 8.54, 0.212, None)),
    Reported("sound", "MMAudio-L", (15.04, 4.03, 12.08, 0.348, None)),
    Reported("speech", "Fish Speech", (None, None, None, None, 0.008)),
    Reported("speech", "F5-TTS", (None, None, None, None, 0.018)),
    Reported("speech", "CosyVoice", (None, None, None, None, 0.034)),
    Reported("speech", "FireRedTTS", (None, None, None, None, 0.038)),
    Reported("both", "Ovi, audio tower", (18.03, 5.02, 11.20, 0.224, 0.035)),
)
TABLE_3 = (
    Reported("separate", "CLAP for sound, T5 for speech", (20.78, 7.13, 8.34, 0.190, 0.033)),
    Reported("combined", "one prompt for T5", (18.03, 5.02, 11.20, 0.224, 0.035)),
)
