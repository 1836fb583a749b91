"""Write a checkpoint folder that every transformers version and serving engine can load.

Weights go through `save_pretrained` in the original key layout, adapters merged; every other file
is the base model's own, byte for byte, because the side files that transformers 5 writes are not
readable by 4.x.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from pathlib import Path
from typing import Any

from vqr1.policy.loading import Policy

WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json")
SIDE_FILES = ("*.json", "*.txt", "*.jinja", "LICENSE*")


def export_checkpoint(policy: Policy, folder: Path) -> Path:
    """Write `policy` to `folder` (made, or replaced as a whole once all is written).

    Args:
        policy: the policy with its weights as they shall be exported; left as it is.
        folder: destination.

    Returns:
        `folder`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left_behind in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(left_behind)  # by an export that was killed
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    aside.chmod(0o755)
    for file in _base_files(policy):
        shutil.copyfile(file, aside / file.name)
    with tempfile.TemporaryDirectory(dir=aside) as weights:
        _merged(policy).save_pretrained(weights)
        for pattern in WEIGHT_PATTERNS:
            for file in Path(weights).glob(pattern):
                shutil.move(file, aside / file.name)
    if folder.exists():
        shutil.rmtree(folder)
    aside.rename(folder)
    return folder


def _merged(policy: Policy) -> Any:
    model: Any = policy.model
    return copy.deepcopy(model).merge_and_unload() if hasattr(model, "merge_and_unload") else model


def _base_files(policy: Policy) -> list[Path]:
    folder = Path(policy.source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(
            snapshot_download(
                policy.source, revision=policy.revision, allow_patterns=list(SIDE_FILES)
            )
        )
    files = {file for pattern in SIDE_FILES for file in folder.glob(pattern)}
    return sorted(file for file in files if not file.match("*.safetensors.index.json"))
