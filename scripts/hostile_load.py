"""The service under hostile load: `python scripts/hostile_load.py --minutes 30`.

A well-behaved client scores one image after another, first alone and then while hostile clients
(`scripts/hostile/attacks.py`) do what they can: slow heads, bodies and readers, half-open
connections by the thousand, floods of headers and parts, endless bodies, images that take seconds
to decode, clients that vanish. Service and well-behaved client share one core, hostile clients
have another one; the quiet baseline is measured likewise. At the end the service gets SIGTERM
while it is still under attack.

Ends with code 1 where an answer is wrong or missing, memory grows, the 99th percentile is more than
`--ratio` times the quiet one, or the service does not end cleanly.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import numpy as np
import psutil
from bench_service import start
from hostile.attacks import attack
from PIL import Image

GROWTH_MB = 100
"""Growth of the memory over the second half of the loaded time that is no leak."""

IMAGES = 40


def photographs() -> list[bytes]:
    """JPEG files of half a megapixel to one."""
    files = []
    for seed in range(IMAGES):
        rng = np.random.default_rng(seed)
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        stream = io.BytesIO()
        size = (int(rng.integers(800, 1200)), int(rng.integers(600, 900)))
        small.resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=85)
        files.append(stream.getvalue())
    return files


class Client:
    """The well-behaved client, and what it measures.

    Args:
        url: the service.
        process: the service's process.
    """

    def __init__(self, url: str, process: psutil.Process) -> None:
        self._client = httpx2.Client(base_url=url, timeout=60)
        self._process = process
        self._files = photographs()
        self._expected: list[float] = []
        self.wrong: list[str] = []
        self.memory: list[tuple[float, float]] = []

    def learn(self) -> None:
        """The right answers, from the service before anything disturbs it."""
        for file in self._files:
            answer = self._client.post("/score", files={"images": ("a.jpg", file)})
            self._expected.append(answer.json()["results"][0]["score"])

    def ask(self, seconds: float) -> list[float]:
        """Ask for so long; the seconds that each answer took."""
        taken: list[float] = []
        began = time.monotonic()
        looked = 0.0
        while (now := time.monotonic()) < began + seconds:
            number = len(taken) % len(self._files)
            try:
                answer = self._client.post(
                    "/score", files={"images": ("a.jpg", self._files[number])}
                )
                score = answer.json()["results"][0]["score"] if answer.status_code == 200 else None
                if score is None or abs(score - self._expected[number]) > 1e-4:
                    self.wrong.append(f"{answer.status_code} {answer.text[:200]}")
            except httpx2.HTTPError as error:
                self.wrong.append(f"{type(error).__name__}: {error}")
            taken.append(time.monotonic() - now)
            if now - looked > 1:
                looked = now
                self.memory.append((now - began, self._resident()))
        return taken

    def _resident(self) -> float:
        """Megabytes of the service and of the processes that decode for it."""
        total = 0
        for one in (self._process, *self._process.children()):
            with suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
        return total / 2**20


def shown(name: str, seconds: list[float]) -> tuple[float, float]:
    """Print and return the median and the 99th percentile."""
    cut = statistics.quantiles(seconds, n=100)
    print(f"{name}: {len(seconds)} requests, p50 {cut[49]:.4f} s, p99 {cut[98]:.4f} s", flush=True)
    return cut[49], cut[98]


def bound(options: argparse.Namespace, url: str) -> subprocess.Popen[bytes]:
    """The hostile clients, on a core of their own."""
    at = urlsplit(url)
    process = subprocess.Popen(
        [sys.executable, __file__, "--attack", f"{at.hostname}:{at.port}",
         "--connections", str(options.connections)],
    )  # fmt: skip
    os.sched_setaffinity(process.pid, {options.hostile_core})
    return process


def measure(options: argparse.Namespace, folder: Path) -> int:
    """The whole run; the exit code."""
    os.sched_setaffinity(0, {options.core})  # the service inherits it
    process, url = start(["hardware.threads=1", *options.overrides], folder / "log")
    client = Client(url, psutil.Process(process.pid))
    client.learn()
    client.ask(10)
    quiet = shown("quiet", client.ask(max(30.0, 6 * options.minutes)))
    client.memory.clear()
    hostile = bound(options, url)
    time.sleep(5)
    loaded = shown("loaded", client.ask(60 * options.minutes))
    with suppress(httpx2.HTTPError):
        (folder / "metrics").write_text(httpx2.get(f"{url}/metrics", timeout=30).text)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        code: int | None = process.wait(300)
    except subprocess.TimeoutExpired:
        code = None
        process.kill()
    ended = time.monotonic() - began
    hostile.send_signal(signal.SIGINT)
    hostile.wait(60)
    return report(options, client, (quiet, loaded), (code, ended), folder)


def report(
    options: argparse.Namespace,
    client: Client,
    times: tuple[tuple[float, float], tuple[float, float]],
    end: tuple[int | None, float],
    folder: Path,
) -> int:
    """Print what was found, and the exit code."""
    minute = {int(at // 60): f"{mb:.0f}" for at, mb in client.memory}
    print(f"resident MB by minute: {', '.join(minute.values())}")
    late = np.array(client.memory[len(client.memory) // 2 :])
    slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0])
    growth = slope * float(late[-1, 0] - late[0, 0])
    peak = max(mb for _, mb in client.memory)
    ratio = times[1][1] / times[0][1]
    print(f"peak {peak:.0f} MB; second half {growth:+.1f} MB ({60 * slope:+.2f} MB a minute)")
    print(f"p99 loaded / quiet: {ratio:.2f}; p50: {times[1][0] / times[0][0]:.2f}")
    print(f"wrong answers: {len(client.wrong)} {client.wrong[:3]}")
    print(f"exit code after SIGTERM: {end[0]}, after {end[1]:.1f} s")
    log = (folder / "log").read_text()
    print(f"the service's log: {len(log.splitlines())} lines, {log.count('Traceback')} tracebacks")
    if options.json is not None:
        record = {"quiet": times[0], "loaded": times[1], "memory": client.memory,
                  "wrong": client.wrong, "exit": end, "log": log[-20000:]}  # fmt: skip
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    failed = client.wrong or growth > GROWTH_MB or ratio > options.ratio or end[0] != 0
    return 1 if failed or "Traceback" in log else 0


async def attack_until_stopped(address: str, connections: int) -> None:
    """The hostile process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    host, _, port = address.rpartition(":")
    task = asyncio.ensure_future(attack(host, int(port), min(connections, hard - 1000)))
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


def main() -> int:
    """Run the script and return its exit code."""
    parser = argparse.ArgumentParser(description="Load the service as hostile clients would.")
    parser.add_argument("--minutes", type=float, default=30.0, help="of load")
    parser.add_argument("--connections", type=int, default=10_000, help="half-open ones")
    parser.add_argument("--core", type=int, default=0, help="of service and well-behaved client")
    parser.add_argument("--hostile-core", type=int, default=1)
    parser.add_argument("--ratio", type=float, default=3.0, help="most of the two p99")
    parser.add_argument("--json", type=Path, help="file for everything measured")
    parser.add_argument("--attack", metavar="HOST:PORT", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="of conf/serve.yaml")
    options = parser.parse_args()
    if options.attack:
        asyncio.run(attack_until_stopped(options.attack, options.connections))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return measure(options, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
