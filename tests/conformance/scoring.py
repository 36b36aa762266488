"""Cases of what evaluation computes from features, logits, texts, votes and peaks."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np

from ovi.evaluation import scores, votes, words
from ovi.evaluation.frechet import Moments, distance, extrapolate
from ovi.evaluation.statistics import wilson
from ovi.evaluation.votes import Preference, Votes
from tests.conformance.case import Case
from tests.conformance.kind import Kind
from tests.conformance.tolerance import NUMBER, Tolerance, Unfit
from tests.golden import evaluation as formula

EXACT = Tolerance()
ROUNDING = 1e-12  # what is left of a difference of sums that should be zero
TWO_SIDED = 1.959964  # standard deviations of a 95 % interval
SPELLINGS = {  # British -> American; Whisper's own list of these comes with its weights
    "colour": "color", "favourite": "favorite", "favour": "favor", "flavour": "flavor", "honour": "honor",
    "neighbour": "neighbor", "centre": "center", "theatre": "theater", "metre": "meter", "litre": "liter",
    "grey": "gray", "realise": "realize", "organise": "organize", "recognise": "recognize", "analyse": "analyze",
    "travelling": "traveling", "traveller": "traveler", "defence": "defense", "aeroplane": "airplane", "tyre": "tire",
}  # fmt: skip


def frechet(case: Case) -> None:
    """Where a published scorer gives -1 or no number, it failed, and only the exact value counts."""
    exact = Tolerance(case.stated("vs fd_nuclear rtol"), ROUNDING)
    near = Tolerance(case.stated("vs upstream f64 rtol"), ROUNDING)
    for found in case.matches(r"(.+)\.fd_nuclear"):
        run = found[1]
        x, y = _features(case, run)
        got = distance(Moments.of(x), Moments.of(y))
        case.check(found[0], got, tolerance=exact)
        for other in case.matches(rf"{re.escape(run)}\.fd_(?!nuclear)\w+"):
            published = float(case.take(other[0]))
            if math.isfinite(published) and published != -1:
                case.check(other[0], got, tolerance=near)
    for found in case.matches(r"(.+)\.points"):
        _extrapolated(case, found[1], near)


def _features(case: Case, run: str) -> tuple[Any, Any]:
    """Stored, or made by a formula that the index tells."""
    if f"{run}.x" in case.arrays:
        return case.take(f"{run}.x"), case.take(f"{run}.y")
    about = next((one["case"] for one in case.about["cases"] if one.get("case", "").startswith(f"{run} ")), "")
    told = re.search(rf'x=normal\(\(n1,d\),"(.+?)"\), y={NUMBER}\*normal\(\(n2,d\),"(.+?)"\)\+{NUMBER}', about)
    if not told:
        raise Unfit(f"the index does not say how the features of {run} are made")
    one, other, size = case.take(f"{run}.n").tolist()
    y = float(told[2]) * formula.normal((other, size), told[3]) + float(told[4])
    return formula.normal((one, size), told[1]), y


def _extrapolated(case: Case, run: str, near: Tolerance) -> None:
    vectors, sizes = case.take(f"{run}.x"), case.take(f"{run}.ns").tolist()
    old = np.random.RandomState(int(case.take(f"{run}.seed")))
    reference = Moments.of(case.take(f"{run}.y"))
    found = extrapolate(vectors, reference, sizes, lambda n: old.choice(len(vectors), n, replace=True))
    case.check(f"{run}.points", found.points, tolerance=near)
    case.check(f"{run}.score", found.distance, tolerance=near)
    case.check(f"{run}.slope", found.slope, tolerance=near)


def logits(case: Case) -> None:
    near = Tolerance(case.stated("IS/KL rtol"), ROUNDING)
    rough = Tolerance(case.stated("f32 variants"))
    for found in case.matches(r"(is\..+)\.logits"):
        run = found[1]
        rows, splits = case.take(found[0]), int(case.take(f"{run}.splits"))
        mean, deviation = scores.inception_score(rows, splits)
        case.check(f"{run}.mean_shuffled2020", mean, tolerance=near)
        case.check(f"{run}.std_shuffled2020", deviation, tolerance=near)
        case.check(f"{run}.mean_noshuffle", scores.inception_score(rows, splits, shuffled=False)[0], tolerance=near)
    variants: dict[str, tuple[scores.Divergence, float, Tolerance]] = {
        "softmax": ("softmax", 0.0, near),
        "softmax_f32": ("softmax", 0.0, rough),
        "softmax_audioldm_eps": ("softmax", 1e-6, rough),
        "sigmoid_avbench": ("sigmoid", 0.0, near),
        "sigmoid_audioldm_eps": ("sigmoid", 1e-6, rough),
        "sigmoid_full_bernoulli": ("bernoulli", 0.0, near),
    }
    for found in case.matches(r"(kl\..+)\.pred_logits"):
        pair = case.take(found[0]), case.take(f"{found[1]}.gt_logits")
        for name, (of, floor, within) in variants.items():
            case.check(f"{found[1]}.{name}", scores.divergence(*pair, of, floor).mean(), tolerance=within)
    alike, within = scores.cosines(case.take("clap.audio"), case.take("clap.text")), case.stated("cosine atol")
    case.check("clap.cos", alike, tolerance=Tolerance(atol=within))
    case.check("clap.mean", alike.mean(), tolerance=Tolerance(atol=within))
    _kernel_distances(case, Tolerance(case.stated("KID rtol")))


def _kernel_distances(case: Case, near: Tolerance) -> None:
    x, y = case.take("kid.x"), case.take("kid.y")
    drawn = re.search(r"subsets=(\d+) subset_size=(\d+)", json.dumps(case.about.get("cases")))
    if not drawn:
        raise Unfit("the index does not say how many kernel distances of how many vectors are meant")
    mean, deviation = scores.kernel_distance(x, y, int(drawn[1]), int(drawn[2]))
    case.check("kid.mean", mean, tolerance=near)
    case.check("kid.std", deviation, tolerance=near)
    for found in case.matches(r"kid\.full_first(\d+)"):  # of all these vectors, in any order
        n = int(found[1])
        case.check(found[0], scores.kernel_distance(x[:n], y[:n], 1, n)[0], tolerance=near)


def word_errors(case: Case) -> None:
    near = Tolerance(atol=case.stated("wer atol"))
    said = list(zip(case.take("ref").tolist(), case.take("hyp").tolist(), strict=True))
    rules = {"seed": words.seed_tts, "f5": words.f5_tts, "wh": words.whisper(SPELLINGS)}
    for name, normalise in rules.items():
        texts = [(normalise(ref), normalise(hyp)) for ref, hyp in said]
        # Of an utterance without words the published scorers did not come to normalise what was heard.
        heard = [hyp if ref else want for (ref, hyp), want in zip(texts, case.take(f"{name}_hyp"), strict=True)]
        case.check(f"{name}_ref", [ref for ref, _ in texts], tolerance=EXACT)
        case.check(f"{name}_hyp", heard, tolerance=EXACT)
        _rates(case, name, texts, near)
    # FastVideo's rules are not among ours, only its counting is checked.
    _rates(case, "fv", zip(case.take("fv_ref").tolist(), case.take("fv_hyp").tolist(), strict=True), near)
    found = [words.errors(words.verse_bench(ref), words.verse_bench(hyp)) for ref, hyp in said]
    case.check("versebench_wer", [_or_nan(one.rate) for one in found], tolerance=near)
    found = [words.errors(words.seed_tts(ref), words.seed_tts(hyp)) for ref, hyp in said]
    case.check("seed_macro", _or_nan(words.mean_rate(found)), tolerance=near)
    case.check("seed_micro", _or_nan(words.corpus_rate(found)), tolerance=near)
    case.compare("punctuation_all", sorted(set(words.MARKS)), sorted(set(str(case.take("punctuation_all")))), EXACT)


def _rates(case: Case, name: str, texts: Any, near: Tolerance) -> None:
    found = [words.errors(ref, hyp) for ref, hyp in texts]
    case.check(f"{name}_wer", [_or_nan(one.rate) for one in found], tolerance=near)
    if f"{name}_sdi" in case.arrays:
        counts = [(one.substitutions, one.deletions, one.insertions, one.hits) for one in found]
        undefined = (-1, -1, -1, -1)
        rows = [count if one.written else undefined for one, count in zip(found, counts, strict=True)]
        case.check(f"{name}_sdi", rows, tolerance=EXACT)


def _or_nan(rate: float | None) -> float:
    return math.nan if rate is None else rate


def preference(case: Case) -> None:
    near = Tolerance(1e-9, case.stated("wilson/clopper"))
    columns = (case.take(name) for name in ("rater", "item", "a", "b", "a_on_left", "outcome"))
    rater, item, first, second, left, outcome = columns
    ballot = Votes(rater, item, first, second, left.astype(bool), outcome)
    names = [str(name) for name in case.take("names")]
    for found in case.matches(r"(.+)\|(.+)\.wins"):
        _pair(case, ballot.between(names.index(found[1]), names.index(found[2])), f"{found[1]}|{found[2]}", near)
    _strengths(case, ballot, names)
    case.check("alpha_nominal", votes.alpha(case.take("reliability_matrix")), tolerance=near)
    case.check("fleiss_kappa", votes.kappa(case.take("fleiss_table")), tolerance=near)
    share, p_value = votes.left_bias(ballot)
    case.check("left_win_rate", share, tolerance=near)
    case.check("left_bias_p", p_value, tolerance=near)


def _pair(case: Case, mine: Votes, pair: str, near: Tolerance) -> None:
    found = Preference.of(mine)
    for name in ("wins", "losses", "ties"):
        case.check(f"{pair}.{name}", getattr(found, name), tolerance=EXACT)
    rate, with_ties = _or_nan(found.rate), _or_nan(found.rate_with_ties)
    together, drawn = votes.clustered(mine, seed=0), Tolerance(atol=case.stated("draws -> atol"))
    independent = math.sqrt(with_ties * (1 - with_ties) / len(mine.outcome))
    for name, got, within in (
        ("pwr_no_ties", rate, near),
        ("pwr_half", with_ties, near),
        ("wilson", wilson(rate, found.decided), near),
        ("clopper_pearson", found.exact_interval(), near),
        ("binom_p", found.p_value(), near),
        ("naive_se", independent, near),
        ("cluster_boot_ci", (together.low, together.high), drawn),
        ("cluster_boot_se", together.deviation, drawn),
    ):
        case.check(f"{pair}.{name}", got, tolerance=within)


def _strengths(case: Case, ballot: Votes, names: list[str]) -> None:
    found, points = votes.bradley_terry(ballot, len(names)), Tolerance(atol=case.stated("arena ratings atol"))
    case.check("bt.theta_centered", found.strength, tolerance=Tolerance(atol=case.stated("bt theta")))
    order = [names.index(str(name)) for name in case.take("arena.competitors")]
    elo, deviation = 1000 + votes.ELO * found.strength[order], votes.ELO * found.deviation[order]
    case.check("arena.ratings", elo, tolerance=points)
    case.check("arena.rating_lower", elo - TWO_SIDED * deviation, tolerance=points)
    case.check("arena.rating_upper", elo + TWO_SIDED * deviation, tolerance=points)
    case.check("arena.variances", deviation**2, tolerance=points)
    found, near = votes.davidson(ballot, len(names)), Tolerance(atol=case.stated("davidson"))
    case.check("davidson.theta_centered", found.strength, tolerance=near)
    case.check("davidson.nu", found.tie, tolerance=near)
    case.check("davidson.nll", found.loss, tolerance=near)


def sound_and_picture(case: Case) -> None:
    near = Tolerance(atol=case.stated(""))
    for found in case.matches(r"iou(\d+)\.iou"):
        run, fps = found[1], int(case.take(f"iou{found[1]}.fps"))
        peaks = (case.take(f"iou{run}.{side}_peaks") for side in ("audio", "video"))
        case.check(found[0], scores.av_align(*peaks, fps), tolerance=near)
        times = scores.local_maxima(case.take(f"peaks{run}.flow"), fps)
        case.check(f"peaks{run}.times", times, tolerance=near)
    for found in case.matches(r"(javis\d+)\.score"):
        run = found[1]
        alike = scores.cosines(case.take(f"{run}.frame_emb"), case.take(f"{run}.audio_emb"))
        case.check(f"{run}.cos", alike, tolerance=near)
        case.check(f"{run}.k", int(scores.LEAST_ALIKE * alike.shape[1]), tolerance=EXACT)
        case.check(f"{run}.score", scores.javis(alike), tolerance=near)
        case.check(f"{run}.avh_like_mean", alike.mean(), tolerance=near)
    offsets = scores.desync_offsets(case.take("desync.logits_first_last"))
    case.check("desync.signed", offsets, tolerance=near)
    case.check("desync.score", np.abs(offsets).mean(), tolerance=near)
    case.check("desync.signed_mean_as_versebench_AVA", offsets.mean(), tolerance=near)
    case.check("flicker.score", scores.steadiness(case.take("flicker.frames")), tolerance=near)
    flows = [case.take(f"dyn.flow{at}") for at in range(len(list(case.matches(r"dyn\.flow\d+"))))]
    lengths, (limit, count) = np.array([scores.fast_motion(flow) for flow in flows]), case.take("dyn.thres_countnum")
    case.check("dyn.max_rad", lengths, tolerance=near)
    case.check("dyn.move", scores.is_dynamic(flows), tolerance=EXACT)
    case.compare("dyn.thres_countnum", scores.is_dynamic(flows), bool((lengths > limit).sum() >= count), EXACT)


KINDS = (
    Kind("evaluation_frechet", (r".+\.x", r".+\.y", r".+\.fd_nuclear"), frechet),
    Kind("evaluation_logits", (r"is\..+\.logits", r"kl\..+\.pred_logits", r"kid\.x", r"clap\.cos"), logits),
    Kind("evaluation_wer", (r"ref", r"hyp", r"seed_wer"), word_errors),
    Kind("evaluation_pwr", (r"rater", r"item", r"outcome", r"names"), preference),
    Kind("evaluation_av", (r"iou\d+\.iou", r"javis\d+\.score", r"flicker\.frames"), sound_and_picture),
)
