"""How long until a model folder samples, and how much memory does loading take beside the weights themselves?

Builds a folder of a profile's real sizes whose weights are zeros in sparse files (no disk is filled), reads its files
once as plain bytes, then opens a sampler on it: verify, map, check, encode a prompt, make the denoiser ready.
Try it: `.venv/bin/python benchmarks/load.py --profile ovi-11b` (five minutes on two cores; reads 40 GB of zeros).
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from ovi import config, storage
from ovi.config import Runtime, Settings
from ovi.diffusion.request import Request
from ovi.diffusion.sampler import Sampler
from ovi.models import codecs
from ovi.models.folder import load_model, save_folder

ROOT = Path(__file__).resolve().parents[1]
OVER_READING_MAX_S, OVER_WEIGHTS_MAX = 20.0, 0.15  # beside reading the files; private memory beside the weights
TYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}
BLOCK = 1 << 24


def main() -> int:
    options = _options()
    settings = config.load(ROOT / "params.yaml", options.profile)
    with tempfile.TemporaryDirectory(prefix="ovi-load-", dir=options.work) as folder:
        model = build(settings, Path(folder))
        size = sum(file.stat().st_size for file in model.iterdir())
        read_s = _read(model)
        first_s = timed(lambda: load_model(model))
        memory = Memory()
        with memory:
            began = time.perf_counter()
            sampler = Sampler(load_model(model), Runtime())  # not `open`, which refuses models beyond this memory
            opened_s = time.perf_counter() - began
            plan = sampler.plan([Request("A dog barks. <AUDCAP>Loud barking.<ENDAUDCAP>", steps=1)])
            with sampler.machine.denoiser() as denoiser, torch.no_grad():
                denoiser.prepare(plan.condition, plan.guidance, plan.schedule)
            ready_s = time.perf_counter() - began
    over, share = ready_s - read_s, memory.peak / size
    first_over = first_s + (ready_s - opened_s) - read_s
    print(
        f"{size / 1e9:.1f} GB of files: read in {read_s:.1f} s; opened in {first_s:.1f} s the first time, when they "
        f"are hashed, and in {opened_s:.1f} s later; ready to sample in {ready_s:.1f} s"
    )
    bars = [
        (f"ready within {OVER_READING_MAX_S:.0f} s beside reading", over <= OVER_READING_MAX_S,
         f"{over:.1f} s; {first_over:.1f} s the first time"),
        ("no second copy of the weights", share <= OVER_WEIGHTS_MAX,
         f"{memory.peak / 1e9:.2f} GB private memory at its peak, {share:.0%} of the files"),
    ]  # fmt: skip
    for name, passed, figure in bars:
        print(f"{'PASS' if passed else 'FAIL'}  {name}: {figure}")
    results: dict[str, Any] = {
        "profile": options.profile, "command": " ".join(sys.argv), "device": str(sampler.machine.device),
        "cores": psutil.cpu_count(), "bytes": size, "read_s": read_s, "first_s": first_s, "opened_s": opened_s,
        "ready_s": ready_s, "private_bytes": memory.peak,
        "bars": [{"name": name, "passed": passed, "figure": figure} for name, passed, figure in bars],
    }  # fmt: skip
    storage.write_json(options.out or ROOT / f"benchmarks/results/load-{options.profile}.json", results)
    failed = sum(not passed for _, passed, _ in bars)
    print(f"{len(bars) - failed} passed, {failed} failed")
    return 1 if failed else 0


def build(settings: Settings, folder: Path) -> Path:
    """A model folder of the settings' sizes, all weights zero."""
    wanted, files = codecs.model_config(settings), {}
    for name in codecs.COMPONENTS:
        with torch.device("meta"):
            state = codecs.build(name, wanted[name]).state_dict()
        half = settings.training.precision == "bf16" and name in ("transformer", "text_encoder")
        files[name] = _zeros(folder / f"{name}.safetensors", state, torch.bfloat16 if half else torch.float32)
    if "tokenizer" in wanted:
        files["tokenizer"] = _tokenizer(folder / "tokenizer.json")
    save_folder(folder / "model", wanted, files, {"made_by": "benchmarks/load.py"})
    return folder / "model"


def _zeros(path: Path, state: dict[str, torch.Tensor], dtype: torch.dtype) -> Path:
    """A safetensors file with these names and shapes, its data a hole in the file."""
    header, at = {}, 0
    for name, tensor in state.items():
        end = at + tensor.numel() * dtype.itemsize
        header[name] = {"dtype": TYPES[dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return path


def _tokenizer(path: Path) -> Path:
    """A tokenizer of single letters in the format of the released one."""
    from tokenizers import Tokenizer, models

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [(chr(code), -1.0) for code in range(32, 127)]
    Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False)).save(str(path))
    return path


def _read(folder: Path) -> float:
    began = time.perf_counter()
    for path in sorted(folder.iterdir()):
        with open(path, "rb", buffering=0) as file:
            while file.read(BLOCK):
                pass
    return time.perf_counter() - began


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Memory:
    """The largest private memory of this process while the block runs: pages mapped from files do not count."""

    def __enter__(self) -> Memory:
        self._start, self.peak, self._done = self._now(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.peak = max(self.peak, self._now() - self._start)

    @staticmethod
    def _now() -> int:
        memory = psutil.Process().memory_info()
        return int(memory.rss - memory.shared)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time the loading of a model folder of a profile's sizes.")
    parser.add_argument("--profile", default="ovi-11b", help="of params.yaml")
    parser.add_argument("--work", type=Path, help="where the folder goes (default: the system's temporary folder)")
    parser.add_argument("--out", type=Path, help="results as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
