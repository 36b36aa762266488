"""Does the loader keep up? Samples of the paper's size from the page cache, and from an S3 store of 200 MB/s.

First one thread reads a set of latents that is in the page cache. Then the set lies behind a server on loopback that
speaks S3 and gives away 200 MB a second in all, and a loader with the profile's threads feeds steps that only sleep:
eight samples every 1.6 s, as a machine of eight H200 takes them at 40 % MFU.
Try it: `.venv/bin/python benchmarks/loading.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ovi import config, storage  # noqa: E402
from ovi.training import recipes  # noqa: E402
from ovi.training.batches import Batch, Chances, assemble  # noqa: E402
from ovi.training.latents import LatentSet, LatentWriter, Pool, Sample  # noqa: E402
from ovi.training.loader import Loader  # noqa: E402
from ovi.training.meter import Meter  # noqa: E402
from ovi.training.order import Draws, Order  # noqa: E402
from ovi.training.plan import shapes  # noqa: E402

SAMPLES, TEXT = 24, 128  # a caption's tokens, as in the paper's data
STORE, CHUNK = 200e6, 1 << 18  # bytes a second, and bytes at once
BATCH, STEP_S = 8, 1.6
READ_MIN, WAIT_MAX = 1e9, 0.01


def main() -> int:
    options = _options()
    torch.set_num_threads(1)
    settings = config.load(ROOT / "params.yaml", "ovi-11b")
    bars: list[tuple[str, bool, str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "latents"
        size = _written(folder, settings)
        alone = read(folder, size)
        bars.append((f"one thread reads at least {READ_MIN / 1e9:g} GB/s of warm samples",
                     alone["bytes_per_second"] >= READ_MIN, f"{alone['bytes_per_second'] / 1e9:.2f} GB/s"))  # fmt: skip
        with store(Path(name)) as address:
            fed = feed(f"{address}/latents", settings, options.steps)
        fed["asked_bytes_per_second"] = asked = BATCH * size / STEP_S
        bars.append((f"waiting for a store of {STORE / 1e6:g} MB/s less than {WAIT_MAX:.0%} of the time",
                     fed["loader_share"] < WAIT_MAX,
                     f"{fed['loader_share']:.2%}, asked for {asked / 1e6:.0f} MB/s"))  # fmt: skip
    for name, passed, figure in bars:
        print(f"{'PASS' if passed else 'FAIL'}  {name}: {figure}")
    storage.write_json(options.out or ROOT / "benchmarks/results/loading.json", {
        "command": " ".join(sys.argv), "machine": {"cores": os.cpu_count(), "torch": torch.__version__},
        "sample_bytes": size, "alone": alone, "fed": fed,
        "bars": [{"name": name, "passed": passed, "figure": figure} for name, passed, figure in bars],
    })  # fmt: skip
    failed = sum(not passed for _, passed, _ in bars)
    print(f"{len(bars) - failed} passed, {failed} failed")
    return 1 if failed else 0


def read(folder: Path, size: int) -> dict[str, float]:
    """Bytes a second: by the thread's own clock, so that other programs on the machine do not count, and the wall's."""
    latents = LatentSet.open(folder, "av", "train")
    latents._cache = None  # as a set that is larger than memory
    own = wall = math.inf
    for _ in range(5):
        began = time.thread_time(), time.perf_counter()
        for index in range(len(latents)):
            latents.read(index)
        own, wall = min(own, time.thread_time() - began[0]), min(wall, time.perf_counter() - began[1])
    return {"bytes_per_second": size * len(latents) / own, "bytes_per_wall_second": size * len(latents) / wall}


def feed(address: str, settings: config.Settings, steps: int) -> dict[str, float]:
    """What the meter says of the steps after the first two."""
    pool = Pool([Forgetful.open(address, "av", "train")])
    order, empty = Order([0] * len(pool), settings.seed, BATCH), torch.zeros(1, settings.text.dim)
    modalities = recipes.RECIPES["fusion"].modalities

    def made(number: int) -> Batch:
        picks = order.batch(number)
        draws = [Draws(settings.seed, "fusion", pool.names[pick.index], pick.visit) for pick in picks]
        return assemble([pool.read(pick.index) for pick in picks], draws, modalities, Chances(0.1), empty)

    loader, meter = Loader(made, settings.training.loader_workers), Meter()
    for number in range(steps + 2):
        if number == 2:
            meter.read()
        with meter.waiting():
            loader.take(number)
        time.sleep(STEP_S)
        meter.step(BATCH)
    figures = meter.read()
    loader.close()
    return {name: figures[name] for name in ("samples_per_second", "loader_share")}


class Forgetful(LatentSet):
    """Every sample is fetched every time, as of a set that is larger than memory."""

    def read(self, index: int) -> Sample:
        self._cache = None
        return super().read(index)


@contextlib.contextmanager
def store(root: Path) -> Iterator[str]:
    """s3://... of a bucket with the files below `root`, behind a server that all its readers share."""
    handler = type("Handler", (_Bucket,), {"root": root, "lock": threading.Lock(), "free": [0.0]})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    os.environ.update(AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.server_port}", AWS_DEFAULT_REGION="us-east-1",
                      AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret")  # fmt: skip
    try:
        yield "s3://bucket"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Bucket(BaseHTTPRequestHandler):
    """As much of S3 as reading needs: HEAD, ranged GET and the list of all."""

    root: Path
    lock: threading.Lock
    free: list[float]  # when the wire is free again
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, query = self.path.removeprefix("/bucket").partition("?")
        if "list-type" in query:
            self._list()
            return
        file = self.root / path.lstrip("/")
        size = file.stat().st_size if file.is_file() else None
        if size is None:
            self.send_response_only(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, last = 0, size - 1
        wanted = self.headers.get("Range")
        if wanted:
            low, _, high = wanted.removeprefix("bytes=").partition("-")
            first, last = int(low), min(int(high or last), last)
        self.send_response_only(206 if wanted else 200)
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("ETag", '"0"')
        self.end_headers()
        if self.command == "GET":
            with open(file, "rb") as source:
                for at in range(first, last + 1, CHUNK):
                    length = min(CHUNK, last + 1 - at)
                    self._take_turn(length)
                    self.connection.sendfile(source, at, length)

    do_HEAD = do_GET

    def _take_turn(self, length: int) -> None:
        with self.lock:
            self.free[0] = max(self.free[0], time.perf_counter()) + length / STORE
            until = self.free[0]
        time.sleep(max(0.0, until - time.perf_counter()))

    def _list(self) -> None:
        files = sorted(path for path in self.root.rglob("*") if path.is_file())
        items = "".join(
            f"<Contents><Key>{escape(path.relative_to(self.root).as_posix())}</Key><Size>{path.stat().st_size}</Size>"
            '<ETag>"0"</ETag></Contents>'
            for path in files
        )
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>".encode()
        self.send_response_only(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


def _written(folder: Path, settings: config.Settings) -> int:
    """A set of noise; the bytes of a sample."""
    sizes: dict[str, Any] = {**shapes(recipes.RECIPES["fusion"], settings), "text": [TEXT, settings.text.dim]}
    draw = torch.Generator().manual_seed(0)
    with LatentWriter(folder, "av", "train", 1 << 27) as writer:
        for number in range(SAMPLES):
            video, audio, text = (torch.randn(sizes[part], generator=draw) for part in ("video", "audio", "text"))
            writer.add(Sample(f"{number:04d}", video, audio, text, "A sound."))
    return sum(4 * math.prod(shape) for shape in sizes.values())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time the loader alone, and beside steps that only sleep.")
    parser.add_argument("--steps", type=int, default=12, help="steps that are fed from the slow store")
    parser.add_argument("--out", type=Path, help="results as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
