"""What a run ran with: versions, processor, GPUs and commit, kept as `environment.json`.

Not here: whether this suffices (`vqr1.doctor`).
"""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import vqr1
from vqr1.processor import processor
from vqr1.tracking.git_state import git_tags

FILE = "environment.json"
PACKAGES = (
    "torch", "transformers", "lightning", "peft", "trl", "accelerate", "deepspeed", "vllm",
    "flash-attn", "mlflow", "numpy", "pillow",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Versions, machine and commit, without names of machines and users."""
    found: dict[str, Any] = {
        "vqr1": vqr1.__version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": processor()[2],
        "logical cores": os.cpu_count(),
        "GPUs": ", ".join(_gpus()) or "none in use",
        **{name: number for name in PACKAGES if (number := _version(name)) is not None},
    }
    tags = git_tags()
    if tags:
        found["commit"] = tags["mlflow.source.git.commit"]
        found["changed since the commit"] = tags["vqr1.git.dirty"]
    return found


def _gpus() -> list[str]:
    """Names of the GPUs; none where nothing has imported PyTorch, which is slow to import."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
