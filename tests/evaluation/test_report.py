from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from ovi import config
from ovi.errors import OviError
from ovi.evaluation import pictures, report, study_page, sync
from ovi.evaluation.learning import STAGES, Curve
from ovi.evaluation.report import Facts, Sample
from ovi.evaluation.results import Results
from ovi.evaluation.statistics import Separation
from ovi.evaluation.sync import Pairs, SceneSync
from ovi.media.encode import write_clip

METRIC = {
    "n_failed": 1, "better": -1, "paper": 5.02, "deviation": 0.1, "method": "bca", "no_interval": "", "reason": "",
    "at_infinity": None, "no_extrapolation": "", "hash": "0123456789abcdef", "identity": {}, "clips": [],
}  # fmt: skip
ABOUT = {
    "metrics": {
        "kl": {**METRIC, "value": 1.5, "ci_low": 1.25, "ci_high": 1.75, "n": 3, "comparable": True},
        "fd": {**METRIC, "value": 7.5, "ci_low": 7, "ci_high": 8, "n": 3, "comparable": False, "at_infinity": 6.5},
        "clap": {**METRIC, "value": None, "ci_low": None, "ci_high": None, "n": 0, "comparable": True},
    },
    "clips": [
        {"name": name, "caption": "A <dog> & a cat", "values": {} if value is None else {"kl": value}}
        for name, value in (("b_00", 2.0), ("a_00", 1.0), ("c_00", None), ("d_00", 1.5))
    ],
}  # fmt: skip
NOTHING = {"metrics": {}, "clips": []}
PROMPT = "A face says <S>tea & me<E>. <AUDCAP>A calm voice.<ENDAUDCAP>"


class Page(HTMLParser):
    """Tags that are opened and closed in order, the text, and every address that is fetched or linked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "input", "path", "rect", "circle", "polyline", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "rect", "circle", "polyline"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())


def settings() -> config.Settings:
    return config.load(Path(__file__).parents[2] / "params.yaml")


def scored(n: int, results: Results, real: int = 6) -> SceneSync:
    def pairs(count: int) -> Pairs:
        rng = np.random.default_rng(count)
        offsets = rng.normal(0, 300, (count, count)) * (1 - np.eye(count)) + 12.0 + sync.CALIBRATION_MS["blink"]
        return Pairs(rng.normal(0.1, 0.1, (count, count)) + 0.8 * np.eye(count), offsets)

    judged = sync.judge("blink", pairs(n), pairs(real), 0, 500, 4, results)
    assert judged is not None
    return judged


def full() -> str:
    results, curves = Results(), []
    for stage, modalities in STAGES.items():
        for modality in modalities:
            curves.append(Curve(stage, modality, [(0, 1.8), (50, 1.0), (100, 0.9)], [(0, 1.9), (100, 0.8)]))
            for name, value in (("start", 1.8), ("end", 0.9), ("drop", 0.5)):
                results.set(f"loss/{stage}/{modality}/{name}", value)
    for modality in ("video", "audio"):
        for partner, value in (("true", 0.9), ("shuffled", 1.2), ("tower", 0.95)):
            results.set(f"loss/fusion/{modality}/{partner}", value)
    results.set("codec/video_psnr_db", 27.31)
    results.set("codec/audio_log_mel_error", 0.31)
    results.null("wer_f5_tts", "not applicable: no network is configured")
    frames = np.random.default_rng(0).integers(0, 255, (9, 8, 8, 3), dtype=np.uint8)
    sample = Sample(
        "mouth_00",
        PROMPT,
        "scene mouth, seed 7",
        b"mp4 bytes",
        pictures.strip(frames),
        pictures.waveform(tone(), 16000),
    )
    facts = Facts(settings(), "ab" * 32, 5, "5 of the test split")
    return report.build(facts, results, curves, [scored(24, results)], [sample], ABOUT, {})


def tone() -> np.ndarray:
    time = np.arange(80640) / 16000
    return (np.sin(2 * np.pi * 1000 * time) * (time % 1 < 0.3) * 0.5).astype(np.float32)


def test_full_report_shows_figures_curves_players_and_reasons() -> None:
    html = full()
    page = Page(html)
    for words in (
        "AUC 1.000", "95 % interval 86.2 % to 100 %", "0 of 500 random pairings did as well (p = 0.002)",
        "held-out loss 1.80 → 0.900", "−50 %", "27.3 dB", "own partner", "another clip's partner", "tower alone",
        "no network is configured", "“tea & me”", "A calm voice.", "median offset is 12 ms",
        "real clips, own sound",
    ):  # fmt: skip
        assert words in page.text
    assert page.tags.count("svg") == 2 + 4 + 2 + 1  # sync, a card a stage, two pairs of bars, the metrics
    assert page.tags.count("video") == 1
    assert page.tags.count("img") == 2
    assert "<AUDCAP>" not in page.text


def test_report_is_one_file_without_script_and_stable() -> None:
    html = full()
    page = Page(html)
    assert page.addresses
    assert all(address.startswith("data:") for address in page.addresses)
    assert "script" not in page.tags
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html)
    assert html == full()


def test_report_of_nothing_names_every_reason() -> None:
    results = Results()
    sync.absent("blink", "not applicable: no held-out clip is of scene 'blink'", results)
    results.null("loss/fusion/video/true", "stage fusion has not run: there is no fusion/metrics.json")
    results.null("wer_f5_tts", "not applicable: no network is configured")
    page = Page(report.build(Facts(settings(), "cd" * 32, 0, "there are none"), results, [], [], [], NOTHING, {}))
    for words in (
        "Scene “blink”: not applicable: no held-out clip is of scene 'blink'.", "No stage has a validation curve",
        "None: there was no held-out prompt to ask for.", "stage fusion has not run",
        f"{len(sync.FIGURES) + 2} figures",
    ):  # fmt: skip
        assert words in page.text
    assert "nan" not in page.text.lower().split()
    assert page.tags.count("video") == 0


def test_p_value_in_words() -> None:
    exact = Separation(0.9, 0.7, 1.0, 2 / 120, 5, 120, True)
    assert "2 of 120 possible pairings" in report.p_words(exact)
    sampled = Separation(0.6, 0.4, 0.8, 251 / 1001, 24, 1000, False)
    assert report.p_words(sampled) == "250 of 1,000 random pairings did as well (p\u00a0=\u00a00.251)"


def test_strip_shows_first_to_last_frame() -> None:
    frames = np.zeros((121, 16, 16, 3), np.uint8)
    frames[..., 0] = np.arange(121)[:, None, None] * 2
    strip = decoded(pictures.strip(frames))
    assert strip.shape[1] == pictures.WIDTH
    middle = strip[strip.shape[0] // 2]
    shown = [int(middle[round((k + 0.5) * pictures.WIDTH / 8), 0]) for k in range(8)]
    assert shown == sorted(shown)
    assert shown[0] == 0
    assert shown[-1] == pytest.approx(240, abs=2)
    assert (strip[:, :, 3] == 0).any()  # the gaps are clear


def test_waveform_shows_when_and_how_high() -> None:
    picture = decoded(pictures.waveform(tone(), 16000))
    wave, spectrum = picture[: pictures.WAVE], picture[pictures.WAVE + pictures.GAP :, :, :3].sum(axis=2)
    tall = (wave[:, :, 3] > 0).sum(axis=0)
    sounding, silent = round(0.15 / 5.04 * pictures.WIDTH), round(0.6 / 5.04 * pictures.WIDTH)
    assert tall[sounding] > 10 * tall[silent]
    brightest = int(spectrum[:, sounding].argmax())
    mel = 1127 * np.log1p(np.array([1000.0, 8000.0]) / 700)
    assert brightest == pytest.approx(pictures.SPECTRUM * (1 - mel[0] / mel[1]), abs=4)
    assert spectrum[:, silent].max() < spectrum[:, sounding].max() / 2


def test_silence_is_drawn_dark() -> None:
    picture = decoded(pictures.waveform(np.zeros(80640, np.float32), 16000))
    assert picture[pictures.WAVE + pictures.GAP :, :, :3].max() < 60


def test_demo_page_puts_the_served_clip_first(tmp_path: Path) -> None:
    clip = tmp_path / "demo.mp4"
    frames = np.zeros((25, 32, 32, 3), np.uint8)
    frames[10:15] = 255
    write_clip(clip, frames, 24, tone()[:16000], 16000, width=64)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "report.html").write_text(full())
    report.demo_page(settings(), tmp_path / "evaluation", clip, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert page.tags.count("video") == 2
    assert page.tags.count("img") == 4
    text = page.text
    assert text.index("The served clip") < text.index("Does the sound fit the picture?")
    assert "A red lamp blinks in the dark." in text
    players = [address for address in page.addresses if address.startswith("data:video/mp4")]
    assert base64.b64decode(players[0].partition(",")[2]) == clip.read_bytes()


def test_demo_page_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(OviError, match="run `ovi evaluate` first"):
        report.demo_page(settings(), tmp_path, tmp_path / "demo.mp4", tmp_path / "report.html")
    (tmp_path / "report.html").write_text("<html></html>")
    with pytest.raises(OviError, match="run `ovi clip` first"):
        report.demo_page(settings(), tmp_path, tmp_path / "demo.mp4", tmp_path / "page.html")


def decoded(png: bytes) -> np.ndarray:
    """[H, W, 4] RGBA."""
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA)


def test_metrics_have_intervals_and_strangers_are_called_so() -> None:
    html = full()
    words = Page(html).text
    for said in (
        "1.25 to 1.75", "7 to 8; 6.5 with infinitely many", "0123456789abcdef", "7.5 (not comparable)",
        "not comparable: fd. Their networks are filled by a formula", "lower is better",
    ):  # fmt: skip
        assert said in words
    assert words.count("fd (not comparable)") == 1  # in the drawing, too
    assert "clap" not in words


def test_a_study_is_told_with_who_was_left_out() -> None:
    results = Results()
    assert study_page.preferred(results) == ""
    for name, value in (("raters", 47), ("excluded", 3), ("excluded/checks", 2), ("excluded/tones", 0),
                        ("excluded/trials", 1)):  # fmt: skip
        results.set(f"study/{name}", value)
    for part, value in (("rate", 0.625), ("ci_low", 0.55), ("ci_high", 0.7), ("p_value", 0.001), ("n", 1128)):
        results.set(f"study/audio/ours_over_other/{part}", value)
    for part, value in (("alpha", 0.08), ("left_share", 0.53), ("left_p_value", 0.2), ("elo/ours", 1044.3)):
        results.set(f"study/audio/{part}", value)
    results.null("study/audio/elo/other", "never won")
    text = Page(study_page.preferred(results)).text
    for words in (
        "47 raters count, 3 do not (1 unfinished, 2 attention checks failed).",
        "ours over other 0.625 audio 0.55 to 0.7 0.001 1,128", "audio 0.08 0.53 0.2 ours 1,044",
    ):  # fmt: skip
        assert words in text


def test_clips_sort_without_a_script() -> None:
    html = full()
    rows = re.findall(r'<div class="row" style="--o0:(\d);--o1:(\d)"[^>]*><span>(\w+)</span><span>(.*?)</span>', html)
    assert [name for *_, name, _ in sorted(rows, key=lambda row: row[0])] == ["a_00", "b_00", "c_00", "d_00"]
    assert [value for *_, value in sorted(rows, key=lambda row: row[1])] == ["1", "1.5", "2", "null"]
    assert "#by1:checked~.rows>.row{order:var(--o1)}" in html
    assert 'title="A &lt;dog&gt; &amp; a cat"' in html
