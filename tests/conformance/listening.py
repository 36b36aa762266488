"""Cases of the networks that evaluation asks: Cnn14, VGGish, the sound tower of CLAP, SyncNet.

Networks are filled and inputs made by the formula of the index, as `tests.golden.evaluation` has it.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovi.perception import clap, panns
from ovi.perception.mel import log_mel
from ovi.perception.panns import Cnn14
from ovi.perception.syncnet import FRAME_MS, SyncNet, distances, lip_sync
from ovi.perception.vggish import VGGish, examples, quantised
from tests.conformance.case import Case
from tests.conformance.kind import Kind
from tests.conformance.tolerance import NUMBER, Tolerance, Unfit
from tests.golden import evaluation as formula

EXACT = Tolerance()
SPECTRUM = Tolerance(l2=1e-3)  # of CLAP's decibels, for which the index states none; silent bins are mostly rounding


def _filled(network: nn.Module, case: Case) -> Any:
    """The network for inference. Its filters, which are computed and no weights, stay as they are."""
    state = {name: x for name, x in network.state_dict().items() if not name.startswith("logmel_extractor.")}
    network.load_state_dict(formula.filled(state, _prefix(case)), strict=False)
    return network.eval()


def _prefix(case: Case) -> str:
    return _said(case, r'prefix "(\w+)"')[1]


def _said(case: Case, pattern: str) -> re.Match[str]:
    found = re.search(pattern, f"{case.about.get('weights', '')} {case.what}")
    if not found:
        raise Unfit(f"the index does not say {pattern}")
    return found


def cnn14(case: Case) -> None:
    near, decibels = Tolerance(l2=case.stated("relative L2")), Tolerance(atol=case.stated("logmel max"))
    network, sound = _filled(Cnn14(), case), torch.from_numpy(case.take("wav"))
    bank = network.logmel_extractor["melW"]
    if "melW" in case.arrays:
        case.check("melW", bank, tolerance=near)
    heard = log_mel(sound, bank.T, panns.HOP)
    every = -(-heard.shape[1] // case.take("logmel").shape[1])  # some frames may be left out
    case.check("logmel", heard[:, ::every], tolerance=decibels)
    seen: dict[str, Tensor] = {}
    for name in ("bn0", *(f"conv_block{at}" for at in range(1, network.blocks + 1))):
        network.get_submodule(name).register_forward_hook(lambda _, __, x, name=name: seen.update({name: x}))
    embedding, logits = network(sound)
    case.check("bn0_mean_std", [seen["bn0"].mean(), seen["bn0"].std()], tolerance=near)
    for at in range(1, network.blocks + 1):
        x = seen[f"conv_block{at}"]
        x = F.avg_pool2d(x, 2) if at < network.blocks else x
        case.check(f"block{at}_shape", x.shape, tolerance=EXACT)
        case.check(f"block{at}_mean_std_absmax", [x.mean(), x.std(), x.abs().max()], tolerance=near)
    for name, got in {"embedding": embedding, "logits": logits, "clipwise": logits.sigmoid()}.items():
        case.check(name, got, tolerance=near)


def vggish(case: Case) -> None:
    near, one = Tolerance(l2=case.stated("embeddings rel")), Tolerance(atol=case.stated("exact except +-"))
    network = _filled(VGGish(), case)
    heard = np.stack([examples(sound) for sound in case.take("wav")])
    case.check("logmel_examples", heard, tolerance=Tolerance(atol=case.stated("examples atol")))
    rows = torch.from_numpy(heard).flatten(0, 1)
    one_sound = rows[: heard.shape[1], None]
    case.check("features_shape", network.features(one_sound).shape, tolerance=EXACT)
    points = network(rows)
    case.check("embedding_no_relu", points.view(*heard.shape[:2], -1), tolerance=near)
    case.check("embedding_with_relu", points.relu().view(*heard.shape[:2], -1), tolerance=near)
    pca = _said(case, rf'normal\(\((\d+),\d+\),"(.+?)"\)/{NUMBER}, means {NUMBER}\*sym\(\d+,"(.+?)"\)')
    count = int(pca[1])
    vectors = formula.normal((count, count), pca[2]) / float(pca[3])
    means = formula.symmetric(count, pca[5], float(pca[4]))
    found = quantised(points.relu().numpy(), vectors.astype(np.float32), means.astype(np.float32))
    case.check("postprocessed_uint8", found, tolerance=one)


def sound_tower(case: Case) -> None:
    """Of the sounds that the index describes, the one is meant that the spectrogram is of."""
    spectra = {}
    for found in re.finditer(r"chirp\(([\d., ]+)\)", case.what):
        rate, *shape = map(float, found[1].split(","))
        sound = clap.ten_seconds(formula.chirp(int(rate), *shape).astype(np.float32))
        spectra[found[0]] = clap.log_mels(torch.from_numpy(sound)[None])
    if not spectra:
        raise Unfit("the index describes no sound")
    want = torch.from_numpy(case.take("logmel"))
    heard = min(spectra.values(), key=lambda x: float((x[0, ::10] - want).abs().mean()))
    case.check("logmel", heard[0, ::10], tolerance=SPECTRUM)
    network = clap.from_laion(_laion(case), case.file, "cpu")
    seen = network.audio_model(input_features=heard[:, None])
    near = Tolerance(atol=case.stated("embedding atol"))
    case.check("embedding", seen.pooler_output, tolerance=near)
    case.check("fine_grained_mean", seen.last_hidden_state.mean(dim=(2, 3)), tolerance=near)
    case.leave("clipwise", "AudioSet's classes, of which CLAP makes no use")


def _laion(case: Case) -> dict[str, Tensor]:
    """A whole CLAP in LAION's names: the sound tower by the formula, a small text tower beside it."""
    from transformers import RobertaConfig, RobertaModel

    layout = formula.layout("htsat_base")
    weights = {
        name: torch.empty(shape)
        for name, shape in layout.items()
        if not clap.UNUSED.search(name) and not name.endswith(("num_batches_tracked", "relative_position_index"))
    }
    sound = {f"audio_branch.{name}": x for name, x in formula.filled(weights, _prefix(case)).items()}
    small = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    roberta = RobertaModel(RobertaConfig(vocab_size=8, max_position_embeddings=8, type_vocab_size=1, **small))
    text = {f"text_branch.{name}": x for name, x in roberta.state_dict().items()}
    heads = {
        f"{side}_projection.{at}.{part}": torch.zeros(shape)
        for side, width in (("audio", len(sound["audio_branch.norm.weight"])), ("text", 64))
        for at, into in ((0, width), (2, 4))
        for part, shape in (("weight", (4, into)), ("bias", (4,)))
    }
    scales = {f"logit_scale_{side}": torch.tensor(1.0) for side in "at"}
    return {**sound, **text, **heads, **scales}


def lips(case: Case) -> None:
    near, exact_to = Tolerance(l2=case.stated("embeddings rel")), Tolerance(atol=case.stated("dist/conf atol"))
    network, heard = _filled(SyncNet(), case), torch.from_numpy(case.take("aud_in"))
    case.check("aud", network.speech(heard), tolerance=near)
    shape = (len(case.take("lip")), 3, 5, 224, 224)
    drawn = np.floor(256 * formula.uniform(int(np.prod(shape)), f"{_split(case)}-sync|vid")) / 64
    shown = torch.from_numpy(drawn.reshape(shape).astype(np.float32))
    case.check("lip", network.lips(shown)[:, 0], tolerance=near)
    case.check("lipfeat", network.netcnnlip(shown).flatten(1), tolerance=near)
    for found in case.matches(r"(pd\d+)\.v(\d+)\.mdist"):
        run, reach = found[1], int(found[2])
        apart = distances(*(torch.from_numpy(case.take(f"{run}.{part}")) for part in ("im", "cc")), reach)
        said = lip_sync(apart)
        case.check(found[0], apart.mean(0), tolerance=exact_to)
        rest = f"{run}.v{reach}.offset_mind_conf"
        case.check(rest, -said.offset_ms / FRAME_MS, 0, tolerance=EXACT)
        case.check(rest, [said.distance, said.confidence], slice(1, 3), tolerance=exact_to)


def _split(case: Case) -> str:
    """The first word of the names of inputs that were made by formula."""
    found = re.search(r"\b(\w+)-fd-big\|", json.dumps([other.about for other in case.folder.cases]))
    if not found:
        raise Unfit("no entry of the index says how the names of its inputs begin")
    return found[1]


KINDS = (
    Kind("evaluation_cnn14", (r"wav", r"embedding", r"logits", r"block\d+_shape"), cnn14),
    Kind("evaluation_vggish", (r"wav", r"logmel_examples", r"embedding_no_relu"), vggish),
    Kind("evaluation_clap", (r"embedding", r"logmel", r"fine_grained_mean"), sound_tower),
    Kind("evaluation_syncnet", (r"aud_in", r"lip", r"lipfeat", r"pd\d+\.v\d+\.mdist"), lips),
)
