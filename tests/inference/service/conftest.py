from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import ServeConfig, validate
from vqr1.inference.backends.local import LocalBackend
from vqr1.inference.scorer import Scorer
from vqr1.inference.service.app import create_app
from vqr1.inference.service.served import Served, ServiceInfo
from vqr1.policy.loading import load_policy

ROOT = Path(__file__).resolve().parents[3]


def photo(seed: int) -> Image.Image:
    """A smooth pattern under noise of a strength, and with a size, of its own."""
    rng = np.random.default_rng(seed)
    width, height = int(rng.integers(60, 220)), int(rng.integers(60, 220))
    y, x = np.mgrid[0:height, 0:width]
    waves = (np.sin(x / (4 + seed % 7)), np.cos(y / 9), np.sin((x + y) / 13))
    noisy = 127 + 90 * np.stack(waves, axis=-1) + rng.normal(0, 8 * (seed % 6), (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def png(seed: int) -> bytes:
    """`image` as a PNG file."""
    stream = io.BytesIO()
    photo(seed).save(stream, "PNG")
    return stream.getvalue()


def form(*files: bytes | tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    """Files as httpx2 sends them; `N.png` where they have no name."""
    named = [f if isinstance(f, tuple) else (f"{i}.png", f) for i, f in enumerate(files)]
    return [("images", file) for file in named]


def settings(*overrides: str) -> ServeConfig:
    return validate(ServeConfig, plain_values(compose_config("serve", overrides)))


@pytest.fixture(scope="session")
def backend() -> LocalBackend:
    config = settings()
    return LocalBackend(load_policy(config.model), config.model)


@pytest.fixture(scope="session")
def scorer(backend: LocalBackend) -> Scorer:
    config = settings()
    return Scorer(backend, config.prompt, config.answer.form, config.mode)


@pytest.fixture
def make_app(backend: LocalBackend) -> Callable[..., FastAPI]:
    """An application in this process; a backend and a key may be given."""

    def make(*overrides: str, key: str | None = None, backend: LocalBackend = backend) -> FastAPI:
        config = settings(*overrides)
        info = ServiceInfo(config.model.name, config.prompt.name, "describe", config.mode.name)
        return create_app(
            Served(
                Scorer(backend, config.prompt, config.answer.form, config.mode),
                Scorer(backend, config.describe, config.describe_answer.form, config.mode),
            ),
            info, config.limits, config.batching, config.comparison, key,
        )  # fmt: skip

    return make


@dataclass(frozen=True)
class Server:
    """A service in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def metric(self, name: str) -> float:
        """One sample of /metrics; 0 before its first."""
        text = httpx2.get(f"{self.url}/metrics", timeout=60).text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found.group(1)) if found else 0.0


@contextmanager
def serving(folder: Path, *overrides: str) -> Iterator[Server]:
    """`python score.py serve`, on a free port."""
    log = folder / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, ROOT / "score.py", "serve", "port=0", *overrides],
            stderr=stream, stdout=stream, text=True, cwd=log.parent,
            # Fixed, else the allocator keeps tens of megabytes of freed images and activations for
            # later, and the resident memory states little of what is held.
            env={**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536"},
        )  # fmt: skip
    deadline = time.monotonic() + 300
    while (found := re.search(r"serving on (http://\S+)", log.read_text())) is None:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, "the service did not start"
        time.sleep(0.1)
    try:
        yield Server(process, found.group(1), log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(60)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service with the packaged policy."""
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server
