"""The training-free codecs: released shapes, faithful on smooth data, deterministic."""

import math

import numpy as np
import pytest
import torch

from ovi.errors import OviError
from ovi.models import linear_codec
from ovi.models.linear_codec import LinearAudioCodec, LinearVideoCodec, pictures, pixels
from ovi.models.mel import log_mel


def drifting(seed, frames=121, size=32):
    """A soft bright spot that drifts over a coloured ground: uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(seed)
    (y, x), (dy, dx), colour, ground = (
        rng.uniform(8, 24, 2),
        rng.uniform(-0.05, 0.05, 2),
        rng.uniform(0.3, 1, 3),
        rng.uniform(0, 0.2, 3),
    )
    t, rows, columns = np.meshgrid(np.arange(frames), np.arange(size), np.arange(size), indexing="ij")
    spot = np.exp(-((rows - y - dy * t) ** 2 + (columns - x - dx * t) ** 2) / 60)[..., None]
    return (255 * (ground + spot * (colour - ground))).astype(np.uint8)


def humming(seed, samples=80_640):
    """A chord with a slow swell: float32 [N]."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / 16000
    chord = sum(np.sin(2 * math.pi * hz * t) for hz in rng.uniform(200, 2000, 3)) / 6
    return (chord * (0.6 + 0.4 * np.sin(2 * math.pi * rng.uniform(0.3, 1) * t))).astype(np.float32)


@pytest.fixture(scope="module")
def video_codec():
    return LinearVideoCodec.fit(drifting(i) for i in range(12))


@pytest.fixture(scope="module")
def audio_codec():
    return LinearAudioCodec.fit(humming(i) for i in range(12))


def test_pictures_come_back(video_codec):
    """A clip that was not fitted on, 121 frames -> 31 latents -> 121 frames."""
    clip = drifting(99)
    latents = video_codec.encode(pixels(clip)[None])
    assert latents.shape == (1, *video_codec.shape(121, 32, 32)) == (1, 16, 31, 4, 4)
    again = pictures(video_codec.decode(latents)[0])
    assert again.shape == clip.shape
    error = (again.astype(float) - clip) ** 2
    assert 10 * math.log10(255**2 / error.mean()) > 32
    assert 10 * math.log10(255**2 / error[0].mean()) > 32  # the first frame, which has a latent of its own


def test_one_picture_is_the_first_latent_of_its_clip(video_codec):
    """What a given first frame rests on."""
    clip = pixels(drifting(3))[None]
    torch.testing.assert_close(video_codec.encode(clip[:, :, :1]), video_codec.encode(clip)[:, :, :1])


@pytest.mark.parametrize("clips", [4, 60])
def test_components_are_those_of_the_covariance(clips):
    """Of fewer rows than a row has numbers (48 of 192), and of more (720)."""
    codec = LinearVideoCodec.fit((drifting(i, 9, 8) for i in range(clips)), 5, (4, 4))
    rows = torch.cat([codec._rows(pixels(drifting(i, 9, 8))[None]).reshape(-1, 192) for i in range(clips)])
    assert (len(rows) < 192) == (clips == 4)
    directions = np.linalg.eigh(np.cov(rows.double().numpy().T, bias=True))[1][:, :-6:-1]
    alike = np.abs(directions.T @ codec.basis.double().numpy())
    np.testing.assert_allclose(alike, np.eye(5), atol=1e-3)


@pytest.mark.parametrize("clip", [drifting(0, 5, 8), np.full((5, 8, 8, 3), 90, np.uint8)], ids=["moving", "still"])
def test_fewer_rows_than_components_are_enough(clip):
    """Two rows of 768 numbers, which differ or do not, and six components."""
    codec = LinearVideoCodec.fit([clip], 6, (8, 8))
    np.testing.assert_allclose(codec.basis.T @ codec.basis, np.eye(6), atol=1e-5)
    again = pictures(codec.decode(codec.encode(pixels(clip)[None]))[0])
    assert np.abs(again[1:].astype(int) - clip[1:]).max() <= 1


def test_sound_comes_back(audio_codec):
    sound = torch.from_numpy(humming(99))[None]
    latents = audio_codec.encode(sound)
    assert latents.shape == (1, audio_codec.length(80_640), 20) == (1, 157, 20)
    again = audio_codec.decode(latents, 80_640)
    assert again.shape == (1, 80_640)
    assert (log_mel(again) - log_mel(sound)).abs().mean() < 0.35
    assert audio_codec.decode(latents).shape == (1, 157 * 512)


def test_silence_comes_back_silent(audio_codec):
    sounds = [humming(0), np.zeros(80_640, np.float32)]
    codec = LinearAudioCodec.fit(sounds)
    assert codec.decode(codec.encode(torch.zeros(1, 80_640)), 80_640).abs().max() < 1e-2


def test_channels_keep_a_mean_variance_of_one_over_the_fitted_clips(video_codec):
    latents = torch.stack([video_codec.encode(pixels(drifting(i))[None])[0] for i in range(12)])
    flat = latents.permute(1, 0, 2, 3, 4).flatten(1)
    assert flat.var(1).mean() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(flat.mean(1), torch.zeros(16), atol=1e-3, rtol=0)
    assert torch.all(flat.var(1).diff() < 1e-3)  # leading components first


@pytest.mark.parametrize("whitening", [0.0, 1.0])
def test_whitening_runs_from_natural_to_equal_variances(monkeypatch, whitening):
    monkeypatch.setattr(linear_codec, "WHITENING", whitening)
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 255, (9, 16, 16, 3), dtype=np.uint8) for _ in range(4)]
    codec = LinearVideoCodec.fit(clips)
    variances = torch.stack([codec.encode(pixels(clip)[None])[0] for clip in clips]).var((0, 2, 3, 4), correction=0)
    assert variances.mean() == pytest.approx(1, abs=0.01)
    if whitening:
        torch.testing.assert_close(variances, torch.ones(16), rtol=0.01, atol=0.01)
    else:
        assert torch.all(codec.scale == codec.scale[0])


def test_fitting_twice_gives_equal_numbers(video_codec):
    again = LinearVideoCodec.fit(drifting(i) for i in range(12))
    assert all(torch.equal(again.state_dict()[key], value) for key, value in video_codec.state_dict().items())


def test_constant_pictures_can_be_fitted():
    clip = np.full((9, 16, 16, 3), 77, np.uint8)
    codec = LinearVideoCodec.fit([clip])
    latents = codec.encode(pixels(clip)[None])
    assert latents.isfinite().all()
    assert np.array_equal(pictures(codec.decode(latents)[0]), clip)


def test_pixels_and_pictures_are_inverse():
    clip = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    assert np.array_equal(pictures(pixels(clip)), clip)


def test_what_does_not_fit_is_one_line(video_codec):
    with pytest.raises(OviError, match=r"4 pictures of 32x32; it takes 4k\+1 frames and multiples of 8x8"):
        video_codec.encode(torch.zeros(1, 3, 4, 32, 32))
    with pytest.raises(OviError, match="5 pictures of 30x32"):
        video_codec.encode(torch.zeros(1, 3, 5, 32, 30))
    with pytest.raises(OviError, match="no clips with pictures to fit on"):
        LinearVideoCodec.fit([])
    with pytest.raises(OviError, match="161 channels asked of patches of 160 numbers"):
        LinearAudioCodec(161)
