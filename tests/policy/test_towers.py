"""Registered towers against timm's own features; what a frozen tower spares a trained projector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import nn

import vqr1.policy.towers  # noqa: F401 (registers the names)
from tools.tiny_checkpoints import build
from vqr1.config import LoraConfig, ModelConfig, OptimizerConfig
from vqr1.policy.families.fast_vlm import FAMILY
from vqr1.policy.loading import Policy, load_policy
from vqr1.policy.prompts import PromptBuilder
from vqr1.policy.unwrap import parts_of
from vqr1.policy.vision import VisionCache, encode_images, rows_are_kept
from vqr1.training.schedule import adamw

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("fast_vlm", tmp_path_factory.mktemp("fast_vlm"), seed=1)


def load(folder: Path, **keys: Any) -> Policy:
    area = {"min_pixels": 64 * 64, "max_pixels": 64 * 64}
    return load_policy(ModelConfig(name="m", path=str(folder), **area, **keys))


def test_statistics_stay_in_training_mode(folder: Path) -> None:
    model = load(folder).model
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


def test_rows_are_kept_while_the_projector_trains(folder: Path, tmp_path: Path) -> None:
    policy = load(folder, freeze_vision="tower", lora=LoraConfig(rank=2))
    model, connector = policy.model, parts_of(policy.model).connector
    builder = PromptBuilder(FAMILY, policy.processor, "Good?", 64 * 64, 64 * 64, vision_id=False)
    generator = torch.Generator().manual_seed(0)
    pixels = (torch.rand(3, 64, 64, 3, generator=generator) * 255).byte().numpy()
    prompts = builder([Image.fromarray(image) for image in pixels])
    runs: list[int] = []
    parts_of(model).vision[0].register_forward_pre_hook(lambda *_: runs.append(1))
    assert rows_are_kept(model)

    def gradients(features: Any) -> list[torch.Tensor]:
        total = sum((embed**2).sum() for embed in features.flat)
        return list(torch.autograd.grad(total, list(connector.parameters())))

    cache = VisionCache(folder=tmp_path)
    for known in (0, 2, 3):
        # Whatever is known already, the same bits.
        other = VisionCache(folder=tmp_path / str(known))
        if known:
            other.encode(model, prompts.select(0, known))
        found = other.encode(model, prompts)
        if not known:
            first = found
            expected = encode_images(model, prompts)
            for one, two in zip(gradients(found), gradients(expected), strict=True):
                assert float((one - two).norm()) < 1e-4 * float(two.norm())
        for one, two, three in zip(found.flat, first.flat, expected.flat, strict=True):
            assert torch.equal(one, two)
            assert float((one - three).detach().norm()) < 1e-4 * float(three.detach().norm())
    cache.encode(model, prompts)
    runs.clear()
    with torch.no_grad():
        for weight in connector.parameters():
            weight.mul_(2)
    expected = encode_images(model, prompts)
    assert len(runs) == 1
    # Other weights of the projector: other features, no pass of the tower; from disk too.
    for kept in (cache, VisionCache(folder=tmp_path)):
        for one, two in zip(kept.encode(model, prompts).flat, expected.flat, strict=True):
            assert float((one - two).detach().norm()) < 1e-4 * float(two.detach().norm())
    assert len(runs) == 1
    model.requires_grad_(True)
    assert not rows_are_kept(model)


def test_the_projector_has_a_learning_rate_of_its_own(folder: Path) -> None:
    model = load(folder, freeze_vision="tower", lora=LoraConfig(rank=2)).model
    config = OptimizerConfig(lr=1e-4, lr_connector=5e-4)
    optimizer, schedule = adamw(model, config, total_steps=10)
    adapters, projector = optimizer.param_groups
    assert {id(p) for p in projector["params"]} == {
        id(p) for p in parts_of(model).connector.parameters()
    }
    count = len(adapters["params"]) + len(projector["params"])
    assert count == sum(parameter.requires_grad for parameter in model.parameters())
    for _ in range(5):
        optimizer.step()
        schedule.step()
    # Half of the way down to 0.
    assert (adapters["lr"], projector["lr"]) == pytest.approx((0.5e-4, 2.5e-4))
    one, _ = adamw(model, OptimizerConfig(lr=1e-4), total_steps=10)
    assert len(one.param_groups) == 1
