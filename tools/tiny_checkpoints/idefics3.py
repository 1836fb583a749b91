"""A tiny random checkpoint of the first SmolVLM; see `smolvlm.py`."""

from __future__ import annotations

from pathlib import Path

from tools.tiny_checkpoints.smolvlm import write_checkpoint


def build(folder: Path, seed: int) -> None:
    """Writes a checkpoint of `idefics3`."""
    from transformers import Idefics3ForConditionalGeneration

    write_checkpoint(folder, seed, Idefics3ForConditionalGeneration, "Idefics3")
