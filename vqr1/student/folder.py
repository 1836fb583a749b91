"""A student's folder: `config.json`, `student.safetensors`, `preprocessor_config.json`, a card.

Not here: what reads images and scores them (`vqr1.inference.backends.student`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from vqr1.data.prompts import ResizeRule
from vqr1.durable import write_file
from vqr1.errors import ConfigError, ModelError, first_line
from vqr1.policy.families import family
from vqr1.student.encoders import build_encoder
from vqr1.student.files import CONFIG_FILE, MODEL_TYPE
from vqr1.student.model import Student, StudentSizes

WEIGHTS = "student.safetensors"
_ENCODER = "encoder."


def save_student(
    student: Student, folder: Path, image_processor: Any, kind: str, min_pixels: int,
    max_pixels: int,
) -> None:  # fmt: skip
    """Write a student into an empty folder.

    Args:
        student: the student.
        folder: the folder.
        image_processor: its teacher's.
        kind: the teacher's `model_type`, whose rule resizes images.
        min_pixels: smallest area that an image is resized to.
        max_pixels: largest area.
    """
    tensors = {
        **{n: t for n, t in student.state_dict().items() if not n.startswith(_ENCODER)},
        **{f"{_ENCODER}{name}": tensor for name, tensor in student.encoder.tensors().items()},
    }
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_file(folder / WEIGHTS, save(plain))
    image_processor.save_pretrained(folder)
    record = {
        "model_type": MODEL_TYPE,
        **student.record(),
        "images": {"model_type": kind, "min_pixels": min_pixels, "max_pixels": max_pixels},
    }
    write_file(folder / CONFIG_FILE, json.dumps(record, indent=2) + "\n")


def load_student(path: str, device: torch.device | str = "cpu") -> tuple[Student, ResizeRule]:
    """A student and the rule by which its images are resized.

    Raises:
        ModelError: a file is missing or damaged, or they do not belong together.
        ConfigError: the library of its encoder is not installed.
    """
    folder = Path(path).expanduser()
    who = f"model.path={path}"
    try:
        record = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
        reader = _image_processor(folder)
        encoder = build_encoder(record["encoder"], reader, {
            n.removeprefix(_ENCODER): t for n, t in tensors.items() if n.startswith(_ENCODER)
        })  # fmt: skip
        low, high = record["score_range"]
        student = Student(encoder, StudentSizes(**record["sizes"]), (float(low), float(high)))
        names = student.state_dict()
        student.load_state_dict({n: t for n, t in tensors.items() if n in names})
        rule = resize_rule_of(record, reader)
    except ConfigError as error:
        raise ConfigError([f"{who}: {problem}" for problem in error.problems]) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{who}: not a whole student ({type(error).__name__}: {first_line(error)}); export it "
            "again by stage=distill"
        ) from error
    return student.to(device).eval().requires_grad_(False), rule


def load_resize_rule(path: str) -> ResizeRule:
    """How a student's images are resized, without its weights.

    Raises:
        ModelError: its files cannot be read.
    """
    folder = Path(path).expanduser()
    try:
        record = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        return resize_rule_of(record, _image_processor(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"model.path={path}: not a whole student ({first_line(error)}); export it again by "
            "stage=distill"
        ) from error


def resize_rule_of(record: dict[str, Any], image_processor: Any) -> ResizeRule:
    """The rule that a student's configuration states."""
    images = record["images"]
    own = family(str(images["model_type"]), "the student's teacher")
    return own.resize_rule(image_processor, int(images["min_pixels"]), int(images["max_pixels"]))


def _image_processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(str(folder), trust_remote_code=False)
