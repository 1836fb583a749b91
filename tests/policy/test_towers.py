"""Registered towers against timm's own features, and batch norms that keep their statistics."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import vqr1.policy.towers  # noqa: F401 (registers the names)
from tools.tiny_checkpoints import build
from vqr1.config import ModelConfig
from vqr1.policy.families.fast_vlm import FAMILY
from vqr1.policy.loading import load_policy

pytestmark = pytest.mark.medium


@pytest.mark.parametrize("name", ["efficientnet_lite0", "tf_efficientnet_lite0"])
def test_the_map_is_timms_own_stages_pooled(name: str) -> None:
    base = timm.create_model(name, pretrained=False)
    tower = timm.create_model(f"{name}_stages", pretrained=False, num_classes=0).eval()
    assert tower.load_state_dict(base.state_dict(), strict=False).missing_keys == []
    own = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4)).eval()
    own.load_state_dict(base.state_dict(), strict=False)
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = [nn.functional.adaptive_avg_pool2d(x, 5) for x in own(images)]
        found = tower.forward_features(images)
    assert found.shape == (2, tower.num_features, 5, 5)
    torch.testing.assert_close(found, torch.cat(expected, dim=1), rtol=1e-4, atol=1e-4)


def test_statistics_stay_in_training_mode(tmp_path: Path) -> None:
    folder = build("fast_vlm", tmp_path, seed=1)
    area = {"min_pixels": 64 * 64, "max_pixels": 64 * 64}
    model = load_policy(ModelConfig(name="m", path=str(folder), **area)).model
    images = list(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8))
    with torch.no_grad():
        expected = FAMILY.image_features(model, model.image_encoding, images)
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.train()
    found = FAMILY.image_features(model, model.image_encoding, images)
    sum(rows.sum() for rows in found).backward()
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
