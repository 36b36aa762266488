"""The mel spectrogram against the golden one, and the way back."""

import math

import torch

from ovi.models.mel import filterbank, griffin_lim, linear_magnitude, log_mel
from tests import golden


def tone(hz, seconds=1.0, loudness=0.5):
    return loudness * torch.sin(2 * math.pi * hz * torch.arange(int(16000 * seconds)) / 16000)[None]


def test_mel_is_the_golden_one():
    case = golden.tensors("mel_16k")
    golden.check("mel_16k", filterbank(torch.device("cpu")), case["out/mel_basis"])
    golden.check("mel_16k", log_mel(case["in/wav"]), case["out/mel"])


def test_loud_sounds_are_clamped():
    assert torch.equal(log_mel(tone(440) * 9), log_mel((tone(440) * 9).clamp(-1, 1)))


def test_frames_of_the_paper_s_clip():
    assert log_mel(torch.zeros(1, 80_640)).shape == (1, 80, 315)
    assert griffin_lim(torch.full((2, 80, 315), -5.0), iterations=1).shape == (2, 80_640)


def test_magnitudes_come_back_from_mels():
    """The inversion is non-negative, and the mels of what it gives are the mels it was given."""
    mel = 10 ** log_mel(tone(440) + tone(3000, loudness=0.1)).transpose(1, 2)
    magnitude = linear_magnitude(mel)
    assert magnitude.min() >= 0
    error = magnitude @ filterbank(torch.device("cpu")).T - mel
    assert error.abs().sum() / mel.sum() < 0.06


def test_a_tone_sounds_again_at_its_pitch_and_its_time():
    """A tone in the middle of silence, by way of its spectrogram."""
    sound = torch.cat((torch.zeros(1, 8000), tone(1000, 0.5), torch.zeros(1, 8000)), dim=1)
    again = griffin_lim(log_mel(sound))
    assert (log_mel(again) - log_mel(sound)[..., : again.shape[1] // 256]).abs().mean() < 0.2
    peak = torch.fft.rfft(again[0, 9000:15000]).abs().argmax() * 16000 / 6000
    assert abs(peak - 1000) < 20
    energy = again.square().unfold(1, 800, 800).mean(-1)[0]
    assert energy[11:19].min() > 0.05
    assert energy[:8].max() < 1e-3
    assert energy[22:].max() < 1e-3


def test_too_loud_a_sound_is_turned_down_and_not_cut():
    mel = log_mel(tone(440))
    loud = griffin_lim(mel + 1)  # ten times the magnitudes
    assert loud.abs().max() <= 1
    assert (loud.abs() > 0.99).float().mean() < 0.05
    spectrum = torch.fft.rfft(loud[0, 2000:14000] * torch.hann_window(12000)).abs()
    assert spectrum[960:1020].max() < 0.02 * spectrum.max()  # the third harmonic of 440 Hz, which cutting would make


def test_silence_stays_silent_and_two_runs_are_equal():
    assert griffin_lim(log_mel(torch.zeros(1, 16_000))).abs().max() < 1e-4
    mel = log_mel(tone(700))
    assert torch.equal(griffin_lim(mel), griffin_lim(mel))
