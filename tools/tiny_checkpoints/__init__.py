"""Tiny random checkpoints of every model family, for tests and benchmarks.

Real classes, a real processor and a real tokenizer (Qwen's own merges, fewer of them), random
weights from a seed: whatever runs on such a folder runs on a downloaded checkpoint of its family.
Each family is one module of this package, named as its `model_type`, that defines `checkpoint`; a
new file here is a new family. Modules that begin with an underscore are shared.

    build("qwen3_vl", folder, seed=1)

Not here: the packaged demo model, which is trained (`tools.tiny_policy`).
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from tools.tiny_checkpoints._folder import Checkpoint, in_vllm, write_folder

__all__ = ["MODEL_TYPES", "build"]

MODEL_TYPES: tuple[str, ...] = tuple(
    sorted(
        module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")
    )
)
"""Every family's `model_type`."""


def build(model_type: str, folder: Path, *, seed: int = 0, for_vllm: bool = False) -> Path:
    """Writes a checkpoint folder.

    Args:
        model_type: one of `MODEL_TYPES`.
        folder: created where absent; files of earlier builds are replaced.
        seed: names the weights.
        for_vllm: what vLLM computes on a CPU, see `_folder.in_vllm`.

    Returns:
        `folder`.

    Raises:
        KeyError: no module here knows the family.
        FileNotFoundError: the package that holds the tokenizer is not installed.
    """
    if model_type not in MODEL_TYPES:
        raise KeyError(f"{model_type}: none of {', '.join(MODEL_TYPES)}")
    made: Checkpoint = importlib.import_module(f"{__name__}.{model_type}").checkpoint()
    write_folder(in_vllm(made) if for_vllm else made, folder, seed)
    return folder
