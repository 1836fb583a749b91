"""Write a checkpoint folder that every transformers version and serving engine can load.

Weights go through `save_pretrained` in the original key layout, adapters merged; every other file
is the base model's own, byte for byte, because the side files that transformers 5 writes are not
readable by 4.x. What vqr1 recorded about the base model's weights is not copied.
"""

from __future__ import annotations

import copy
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from vqr1.durable import make_folder, place_folder, replacing

if TYPE_CHECKING:
    # It imports torch, as `unwrap` does, which whoever only copies a checkpoint does without.
    from vqr1.policy.loading import Policy

WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json")
_SYSTEM_ERROR = re.compile(r"os error (\d+)")
"""How safetensors ends its message where the disk does not take a file."""
SIDE_FILES = ("*.json", "*.txt", "*.jinja", "LICENSE*")
NOT_COPIED = ("*.safetensors.index.json", "vqr1_*.json")
"""Side files that are about the base model's weights: a list of their files, and vqr1's records of
how they were trained and tested."""


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A new folder that becomes `folder` (made, or replaced as a whole) once the block has ended.

    Where the block raises, the new folder is gone and `folder` as it was. It is never a part of
    one: a power loss between the two renames that replace it leaves none, until it is written anew.
    """
    make_folder(folder.parent)
    # A name that nobody else gives: `.cache-mine` beside an export called `cache` stays.
    prefix = f".{folder.name}.vqr1-partial-"
    for left_over in folder.parent.glob(f"{glob.escape(prefix)}*"):
        shutil.rmtree(left_over)  # by a process that was killed
    aside = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    aside.chmod(0o755)
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, aside)
        yield aside
        undo.pop_all()
    former = Path(f"{aside}-former")
    place_folder(aside, folder, former=former)
    if former.exists():
        shutil.rmtree(former)


def write_checkpoint(policy: Policy, folder: Path, *, onto_checkpoint: bool = False) -> None:
    """Write `policy` into an empty folder.

    Args:
        policy: the policy with its weights as they shall be exported; left as it is.
        folder: destination.
        onto_checkpoint: by `merged_onto_checkpoint`, as weights of 4 bits always are.

    Raises:
        OSError: the disk does not take it.
    """
    for file in _base_files(policy):
        shutil.copyfile(file, folder / file.name)
    with tempfile.TemporaryDirectory(dir=folder) as weights:
        try:
            _merged(policy, onto_checkpoint).save_pretrained(weights)
        except SafetensorError as error:
            number = _SYSTEM_ERROR.search(str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from error
        for pattern in WEIGHT_PATTERNS:
            for file in Path(weights).glob(pattern):
                with replacing(folder / file.name) as aside:
                    os.replace(file, aside)


def export_checkpoint(policy: Policy, folder: Path) -> Path:
    """Write `policy` to `folder` (made, or replaced as a whole once all is written).

    Args:
        policy: the policy with its weights as they shall be exported; left as it is.
        folder: destination.

    Returns:
        `folder`.
    """
    with written_aside(folder) as aside:
        write_checkpoint(policy, aside)
    return folder


def _merged(policy: Policy, onto_checkpoint: bool) -> Any:
    from vqr1.policy.unwrap import unwrap

    model: Any = policy.model
    if onto_checkpoint or getattr(unwrap(model), "is_quantized", False):
        return merged_onto_checkpoint(policy)
    return copy.deepcopy(model).merge_and_unload() if hasattr(model, "merge_and_unload") else model


def merged_onto_checkpoint(policy: Policy) -> Any:
    """The policy's checkpoint, read anew as it is, with what the policy trained in it.

    Weights of 4 bits would be exported as such; these are of the checkpoint's precision. Adapters
    are merged, and weights that trained beside them (`model.freeze_vision=tower`) copied.
    """
    model: Any = policy.model
    base = policy.family.model_class().from_pretrained(
        policy.source, revision=policy.revision, dtype="auto", use_safetensors=True
    )
    if not hasattr(model, "merge_and_unload"):
        return base
    import torch
    from peft import get_peft_model

    adapted = get_peft_model(base, copy.deepcopy(model.peft_config["default"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                adapted.get_parameter(name).copy_(weight)
    return adapted.merge_and_unload()


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
    return sorted(file for file in files if not any(map(file.match, NOT_COPIED)))
