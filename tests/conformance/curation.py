"""Cases of curation: SyncNet, MFCC, RAFT, TransNet and the aesthetic head, margins, volume and cuts.

Networks are filled and pictures made by the formula of the index, as `tests.golden.curation` has it.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import nn

from ovi.curation.margins import Box, measure
from ovi.curation.scenes import mark_starts, thumbnail
from ovi.media.audio import mean_volume_db, peak_db
from ovi.perception import raft
from ovi.perception.aesthetic import Head
from ovi.perception.mfcc import mfcc
from ovi.perception.syncnet import FRAME_MS, SyncNet, distances, lip_sync
from ovi.perception.transnet import TransNet
from tests.conformance.case import Case
from tests.conformance.kind import Kind
from tests.conformance.tolerance import NUMBER, Tolerance
from tests.golden import curation as formula

EXACT = Tolerance()


def _filled(network: nn.Module, case: Case, more: dict[str, Any] | None = None) -> Any:
    """The network for inference; `more` are second names of its tensors, which are numbered too."""
    told = re.search(rf"gain {NUMBER}", case.what)
    gain = float(case.take("gain")) if "gain" in case.arrays else float(told[1]) if told else 1.0
    names = network.state_dict()
    state = formula.filled({**names, **(more or {})}, int(case.take("seed")), gain)
    network.load_state_dict({name: x for name, x in state.items() if name in names}, strict=False)
    return network.eval()


def _bytes(case: Case, number: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Whole numbers of 0..255, as the networks' pictures are made."""
    drawn = formula.symmetric(int(case.take("seed")), number, shape, 1)
    return np.floor(drawn * np.float32(127.5) + np.float32(127.5))


def lip_network(case: Case) -> None:
    network = _filled(SyncNet(), case)
    lips = torch.from_numpy(_bytes(case, 1000, (int(case.take("n_lip")), 3, 5, 224, 224)))
    rows = (int(case.take("n_aud")), 1, 13, 20)
    heard = torch.from_numpy(formula.symmetric(int(case.take("seed")), 1001, rows, 20))
    case.check("lip_out", network.lips(lips)[:, 0])
    case.check("lip_feat", network.netcnnlip(lips).flatten(1))
    case.check("lip_stage1", network.netcnnlip[:4](lips[:1])[:, :, 0, ::6, ::6])
    case.check("aud_out", network.speech(heard))
    case.check("aud_cnn", network.netcnnaud(heard))


def lip_offsets(case: Case) -> None:
    """Ours are in ms and positive for late sound, the original's in frames and negative for it."""
    near = Tolerance(rtol=case.stated("rtol"))
    for found in case.matches(r"(.+)_im"):
        run = found[1]
        reach, delay = int(case.take(f"{run}_vshift")), int(case.take(f"{run}_delay_frames"))
        apart = distances(*(torch.from_numpy(case.take(f"{run}_{part}")) for part in ("im", "cc")), reach)
        said, mean = lip_sync(apart), apart.mean(0)
        case.check(f"{run}_mdist", mean, tolerance=near)
        case.check(f"{run}_offset", -said.offset_ms / FRAME_MS, tolerance=EXACT)
        case.check(f"{run}_min_dist", said.distance, tolerance=near)
        case.check(f"{run}_conf", said.confidence, tolerance=near)
        by_frame = (mean.median() - apart[:, mean.argmin()]).numpy()
        case.check(
            f"{run}_framewise_conf_med9", np.median(sliding_window_view(np.pad(by_frame, 4), 9), axis=1), tolerance=near
        )
        if abs(said.offset_ms) < reach * FRAME_MS:  # otherwise it is the clip's ends that were found
            case.compare(f"{run}_delay_frames", said.masked_offset_ms / FRAME_MS, delay, EXACT)


def cepstra(case: Case) -> None:
    for found in case.matches(r"x(\d+)"):
        case.check(f"mfcc{found[1]}", mfcc(case.take(found[0])))


def aesthetic(case: Case) -> None:
    """The head takes embeddings of any length; of those it was given unit ones as well."""
    head = _filled(Head(), case)
    for name in ("emb", "normed"):
        case.check("score", head(torch.from_numpy(case.take(name)))[:, None])


def optical_flow(case: Case) -> None:
    """The first word for a size is that of the network. The authors' large one has second names for some norms."""
    named = re.search("small|large", f"{case.id} {case.what}")
    network = raft.Raft(raft.LARGE if named and named[0] == "large" else raft.SMALL)
    norms = {name: x for name, x in network.state_dict().items() if re.match(r"cnet\..*downsample\.1\.", name)}
    network = _filled(network, case, {name.replace("downsample.1", "norm3"): x for name, x in norms.items()})
    height, width, iterations = (int(case.take(name)) for name in ("H", "W", "iters"))
    cells = _bytes(case, 4000, (1, 3, height // 4, width // 4))
    first = torch.from_numpy(cells.repeat(4, axis=2).repeat(4, axis=3))
    coarse, hidden = network.cells(first, first.roll((2, 3), (2, 3)), iterations)
    fine = network.to_pixels(coarse, hidden)
    case.check("flow_low", coarse)
    case.check("flow_up_s4", fine[:, :, ::4, ::4])
    case.check("mean_mag", fine.norm(dim=1).mean())


def transitions(case: Case) -> None:
    network, count = _filled(TransNet(), case), int(case.take("T"))
    drawn = np.floor(formula.uniform(int(case.take("seed")), 8000, (count, 27, 48, 3)) * 256).astype(np.uint8)
    still = drawn[np.repeat([0, count // 2], [count // 2, count - count // 2])]
    case.check("out", network(torch.from_numpy(still)[None])[..., None])


def cuts(case: Case) -> None:
    """Our own rule has to find the planted cuts; what PySceneDetect's rules say is not computed here."""
    seed, count, planted = int(case.take("seed")), int(case.take("F")), case.take("planted")
    scene = np.searchsorted(planted, np.arange(count), side="right")
    bases = [
        np.floor(formula.uniform(seed, 5000 + k, (9, 16, 3)) * 256).astype(np.uint8).repeat(4, 0).repeat(4, 1)
        for k in range(len(planted) + 1)
    ]
    bgr = np.stack([np.roll(bases[k], i % 4 if k % 2 else 0, axis=1) for i, k in enumerate(scene)])
    case.check("frames_sha256", list(hashlib.sha256(bgr.tobytes()).digest()), tolerance=EXACT)
    marks = mark_starts(list(bgr[..., ::-1]), thumbnail, 24.0)
    case.check("planted", [at for at, (_, starts, _) in enumerate(marks) if starts and at], tolerance=EXACT)
    case.leave(r"\w+_(cuts|metrics)", "what PySceneDetect says")


def margins(case: Case) -> None:
    """Ours are exact to the pixel; ffmpeg's follow from them by its rounding to 16 and to 2."""
    for i, row in enumerate(case.take("rows").tolist()):
        width, height, left, right, top, bottom, level = row[:7]
        inside = formula.uniform(0, 7000, (11, height - top - bottom, width - left - right))
        gray = np.full((11, height, width), level, np.uint8)
        gray[:, top : height - bottom, left : width - right] = 60 + np.floor(inside * 160)
        box = measure(np.repeat(gray[..., None], 3, axis=3)) or Box(0, 0, width, height)
        found = [box.x, width - box.x - box.width, box.y, height - box.y - box.height]
        rounded: list[int] = []
        for multiple in (16, 2):
            (w, x), (h, y) = _rounded(box.x, box.width, multiple), _rounded(box.y, box.height, multiple)
            rounded += [w, h, x, y]
        case.check("rows", [width, height, *found, level, *rounded], i)


def _rounded(start: int, size: int, multiple: int) -> tuple[int, int]:
    """(size, start): begins on an even pixel, and half of what is over is cut off there."""
    size, start = size - start % 2, start + start % 2
    over = size % multiple
    return size - over, start + (over // 2 + 1) // 2 * 2


def volume(case: Case) -> None:
    """Below what ffmpeg calls silence, it and ours have floors of their own."""
    near, silence = Tolerance(atol=case.stated("|ffmpeg-analytic|")), -case.stated("silence prints -")
    sounds = [case.take(f"{i}_{name}") / np.float32(32768) for i, name in enumerate(case.take("names"))]
    means = np.maximum([mean_volume_db(sound) for sound in sounds], silence)
    peaks = np.maximum([peak_db(sound) for sound in sounds], silence)
    case.check("ffmpeg_mean_db", means, tolerance=near)
    case.check("ffmpeg_max_db", peaks, tolerance=near)
    case.compare("analytic_rms_dbfs", means, np.maximum(case.take("analytic_rms_dbfs"), silence), near)


KINDS = (
    Kind("curation_syncnet", (r"lip_out", r"lip_feat", r"aud_out", r"n_lip", r"n_aud"), lip_network),
    Kind("curation_syncnet_offset", (r".+_im", r".+_cc", r".+_mdist", r".+_vshift"), lip_offsets),
    Kind("curation_mfcc", (r"x\d+", r"mfcc\d+"), cepstra),
    Kind("curation_aesthetic", (r"emb", r"normed", r"score"), aesthetic),
    Kind("curation_raft", (r"flow_low", r"flow_up_s4", r"mean_mag"), optical_flow),
    Kind("curation_transnetv2", (r"seed", r"T", r"out"), transitions),
    Kind("curation_scenes", (r"planted", r"frames_sha256", r"F"), cuts),
    Kind("curation_margins", (r"rows",), margins),
    Kind("curation_volume", (r"ffmpeg_mean_db", r"analytic_rms_dbfs", r"names"), volume),
)
