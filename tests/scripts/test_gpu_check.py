"""`gpu_check.py` on a CPU: gradients of shared and sharded passes; kernels on a bare machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

BARE = """
import sys

NAMES = {
    "pydantic", "omegaconf", "hydra", "PIL", "torchvision", "qwen_vl_utils", "lightning", "peft",
}

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        hidden = name.split(".")[0] in NAMES
        return None if hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
sys.path.insert(0, "scripts")
import gpu_check
sys.exit(gpu_check.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("bare", [False, True], ids=["here", "bare machine"])
def test_the_parts_that_a_cpu_can_run(bare: bool) -> None:
    start = ["-c", BARE] if bare else ["scripts/gpu_check.py"]
    # Recorded steps are tests of their own (tests/policy/test_device_rules.py).
    parts = ["versions", "kernels"] if bare else ["gradients", "sharded"]
    done = subprocess.run(
        [sys.executable, *start, "--device", "cpu", "--only", *parts], cwd=REPOSITORY,
        capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    for part in parts:
        assert f"{part}: good (" in done.stdout
    assert "BAD" not in done.stdout
    assert ("missing, and not needed: pydantic, PIL" in done.stdout) is bare
