"""Which folders are students'; reads their configuration alone, and imports nothing heavy."""

from __future__ import annotations

import json
from pathlib import Path

from vqr1.config import ModelConfig

MODEL_TYPE = "vqr1_student"
CONFIG_FILE = "config.json"


def is_student(config: ModelConfig) -> bool:
    """Whether `model.path` is a student's folder."""
    return config.path is not None and is_student_folder(Path(config.path))


def is_student_folder(folder: Path) -> bool:
    """Whether a folder holds a student."""
    try:
        values = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # whoever loads it as a policy's checkpoint reports it
    return isinstance(values, dict) and values.get("model_type") == MODEL_TYPE
