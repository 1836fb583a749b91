"""A small student of the packaged policy, and its folder."""

from __future__ import annotations

from pathlib import Path

import torch

from vqr1.policy.loading import Policy
from vqr1.student.encoders import TowerEncoder, tower_of
from vqr1.student.folder import save_student
from vqr1.student.model import Student, StudentSizes

SIZES = StudentSizes(embedding=8, components=4, prototypes=6, bins=3)


def tower_student(teacher: Policy, blocks: int | None = None) -> Student:
    """A student with a copy of the tower, fitted to four random images."""
    torch.manual_seed(0)
    encoder = TowerEncoder(
        teacher.model.config, teacher.processor.image_processor, tower_of(teacher.model), blocks
    )
    student = Student(encoder, SIZES, (1.0, 5.0)).eval()
    student.mean.fill_(3.0)
    student.error.fill_(0.25)
    with torch.no_grad():
        student.fit(student.embed(random_images()), torch.tensor([-1.0, 0.0, 0.5, 1.0]), seed=0)
    return student


def random_images() -> list[torch.Tensor]:
    """Four of noise, of several shapes [H, W, 3]."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(112, 112), (112, 56), (56, 112), (112, 112)]
    return [torch.randint(0, 255, (*s, 3), dtype=torch.uint8, generator=generator) for s in sizes]


def saved(student: Student, teacher: Policy, folder: Path) -> Path:
    """The student's folder, made."""
    folder.mkdir()
    save_student(student, folder, teacher.processor.image_processor, "qwen2_5_vl", 12544, 12544)
    return folder
