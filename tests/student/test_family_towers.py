"""Students with the first half of each family's tower."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.transforms.functional import to_pil_image

from tests.policy.families.cases import FamilyCase
from tests.policy.families.conftest import (  # noqa: F401 - fixtures
    case,
    checkpoint,
    model_config,
    policy,
)
from tests.support.students import SIZES
from vqr1.config import ModelConfig
from vqr1.errors import ConfigError
from vqr1.policy.loading import Policy
from vqr1.policy.unwrap import parts_of, unwrap
from vqr1.student.encoders import TowerEncoder, share_of_blocks, tower_of
from vqr1.student.folder import load_student, save_student
from vqr1.student.model import Student

pytestmark = pytest.mark.medium


def test_half_a_tower_scores_as_its_saved_copy(
    policy: Policy, model_config: ModelConfig, case: FamilyCase, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    model, reader = policy.model, policy.processor.image_processor
    layers = parts_of(model).vision_layers
    if alike := isinstance(layers, torch.nn.ModuleList):
        blocks = share_of_blocks(model, 0.5)
        assert blocks == max(1, round(len(layers) / 2))
    else:
        with pytest.raises(ConfigError, match="none can be left away; set 1"):
            share_of_blocks(model, 0.5)
        blocks = share_of_blocks(model, 1.0)
    encoder = TowerEncoder(unwrap(model).config, reader, tower_of(model), blocks)
    whole = sum(p.numel() for p in parts_of(model).vision.parameters())
    kept = sum(p.numel() for p in encoder.parameters())
    assert kept < whole if alike and len(layers) > 1 else kept == whole
    student = Student(encoder, SIZES, (1.0, 5.0)).eval()
    low, high = case.area
    save_student(student, tmp_path, reader, case.model_type, low, high)
    loaded, rule = load_student(str(tmp_path))
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(3, 160, 224, generator=generator)
    pixels = [rule.pixels(to_pil_image(noise))]
    with torch.no_grad():
        scores = student(pixels)
        assert torch.isfinite(scores).all()
        assert torch.equal(loaded(pixels), scores)
