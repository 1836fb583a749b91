"""Fixtures shared by all tests."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from tests.support.images import noise_image

# No test may reach for a hub; what is not on the machine must fail at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    # Started by `nohup`: the commands under test would inherit that; a handler they do not.
    signal.signal(signal.SIGHUP, lambda *_: None)

# A machine that is busy takes any time for an example.
hypothesis.settings.register_profile("vqr1", deadline=None)
hypothesis.settings.load_profile("vqr1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


MUST_RUN = "VQR1_TESTS_MUST_RUN"
"""Set by targets whose environment was made for its tests: a test that is skipped there because a
package is missing, or broken, has failed."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session of which a test must run and was skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get(MUST_RUN) or reporter is None:
        return
    skipped = reporter.stats.get("skipped", [])
    if skipped and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{MUST_RUN} is set, and {len(skipped)} tests were skipped", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    # Two workers of pytest-xdist share the cores.
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(autouse=True)
def _own_log_handlers() -> Iterator[None]:
    """A command's handler would write to the streams of the test that ran it, which are closed."""
    handlers = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = handlers


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder that may not be listed, as a user without rights sees it."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    folder = place / "locked"
    folder.mkdir()
    noise_image(0).save(folder / "a.png")
    folder.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(place)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real label files and numeric vectors beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"real label files and vectors are not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def real_vllm() -> Iterator[str]:
    """Address of a server of vLLM itself on this CPU, which serves the tiny policy."""
    from tests.support.real_vllm import served
    from vqr1.policy.packaged import tiny_policy_folder

    command = [
        sys.executable, "-m", "tests.support.real_vllm_child",
        "--model", str(tiny_policy_folder()),
        "--enforce-eager", "--kv-cache-memory-bytes", str(2**26),
        "--enable-lora", "--max-lora-rank", "8",
    ]  # fmt: skip
    with served(command, VLLM_ALLOW_RUNTIME_LORA_UPDATING="1") as url:
        yield url
