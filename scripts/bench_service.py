"""Load a running service and print its rate, latency and memory: `python scripts/bench_service.py`.

Starts `python score.py serve port=0` with the overrides given, sends requests of one image each at
a fixed concurrency, some of them broken, and reads every hundred answers how much memory the server
holds (resident, without pages of files). The slope is that of a straight line through the second
half of the readings, after caches and allocators have reached their size. Ends with code 1
where a reply is missing or is a 5xx.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]

READ_EVERY = 100
"""Answers between two readings of the memory."""

START_S = 300
"""Seconds that the service may take to load its model."""


def image(seed: int) -> bytes:
    """A PNG file of a size and with noise of its own."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(100, 500, 2))
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def start(overrides: list[str], log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The service's process and address."""
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, ROOT / "score.py", "serve", "port=0", *overrides],
            stdout=stream,
            stderr=stream,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    deadline = time.monotonic() + START_S
    while (found := re.search(r"serving on (http://\S+)", log.read_text())) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"the service did not start:\n{log.read_text()}")
        time.sleep(0.1)
    return process, found.group(1)


def load(url: str, process: psutil.Process, options: argparse.Namespace) -> int:
    """Send the requests and print what came back; the exit code."""
    files = [image(seed) for seed in range(options.loaded_images)]
    broken_every = round(1 / options.broken) if options.broken else 0
    seconds: list[float] = []
    readings: list[tuple[int, float]] = []
    codes: Counter[str] = Counter()

    def one(number: int) -> None:
        broken = broken_every and number % broken_every == 0
        file = b"broken" if broken else files[number % len(files)]
        began = time.monotonic()
        try:
            answer = client.post("/score", files={"images": ("a.png", file)})
            codes[str(answer.status_code)] += 1
        except httpx2.HTTPError as error:
            codes[type(error).__name__] += 1
        seconds.append(time.monotonic() - began)
        if len(seconds) % READ_EVERY == 0:
            memory = process.memory_info()
            # Without pages of files: the kernel drops those of libraries' code, and reads them
            # again, as it likes.
            readings.append((len(seconds), (memory.rss - memory.shared) / 2**20))

    began = time.monotonic()
    with (
        httpx2.Client(base_url=url, timeout=600) as client,
        ThreadPoolExecutor(options.concurrency) as pool,
    ):
        list(pool.map(one, range(options.requests)))
    took = time.monotonic() - began
    percentiles = statistics.quantiles(seconds, n=100)
    print(f"{options.requests} requests at concurrency {options.concurrency} in {took:.0f} s")
    print(f"answers: {dict(sorted(codes.items()))}")
    print(f"seconds: median {statistics.median(seconds):.3f}, 95 % {percentiles[94]:.3f}")
    print("MB after: " + ", ".join(f"{n}: {mb:.0f}" for n, mb in readings))
    if len(readings) >= 4:
        late = np.array(readings[len(readings) // 2 :])
        slope = np.polyfit(late[:, 0], late[:, 1], 1)[0]
        print(f"slope over the second half: {1000 * slope:+.2f} MB per 1,000 requests")
    bad = sum(count for code, count in codes.items() if not code.startswith(("2", "4")))
    return 1 if bad else 0


def main() -> int:
    """Run the script and return its exit code."""
    parser = argparse.ArgumentParser(description="Load the service.")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--broken", type=float, default=0.05, help="share of broken images")
    parser.add_argument("--images", type=int, default=100, help="different images")
    parser.add_argument("overrides", nargs="*", help="of conf/serve.yaml")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        process, url = start(options.overrides, Path(folder) / "log")
        code = load(url, psutil.Process(process.pid), options)
        process.send_signal(signal.SIGTERM)
        print(f"exit code after SIGTERM: {process.wait(300)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
