"""The benchmark's operation counts against PyTorch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.support.tiny_models import tiny_model, tiny_prompts
from vqr1.planning.flops import step_flops
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.vision import encoding_of


def test_counts_equal_the_profilers():
    model = tiny_model()
    # 16 x 8 merged patches are 32 x 16 patches: four whole windows of 16 x 8 patches ... the
    # window edge is 56 pixels, 4 patches, so every window is whole.
    prompts = tiny_prompts([(16, 8)], [5])
    ids = prompts.input_ids[0]
    rule = FAMILY.resize_rule(None, 28 * 28, 2**22)
    tower = FAMILY.tower_cost(model.config, rule, (8 * 28, 16 * 28))
    assert (tower.rows, tower.tokens) == (512, 128)
    counted = step_flops(model.config, tower.flops, len(ids), images=1, group=1, tokens=1)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model.get_image_features(*encoding_of(model).encode(prompts.flat_images))
    assert counted.vision == pytest.approx(counter.get_total_flops(), rel=1e-6)
    hidden = torch.randn(1, len(ids), 48)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model.model.language_model(inputs_embeds=hidden)
    # The profiler counts all pairs of the masked softmax, we only those that see each other:
    # L^2 - L (L + 1) / 2 = L (L - 1) / 2 pairs less, 4 * width operations each, in 3 layers.
    length = len(ids)
    unseen = 3 * 4 * 48 * length * (length - 1) / 2
    assert counted.prompt + unseen == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_a_step_adds_up():
    model = tiny_model()
    one = step_flops(model.config, 5e6, 30, images=1, group=1, tokens=9)
    many = step_flops(model.config, 5e6, 30, images=3, group=4, tokens=9)
    logits = 2 * 48 * 96  # one row of logits
    assert many.vision == 3 * one.vision
    assert many.prompt == 3 * one.prompt
    # Twelve responses; the logits of first tokens are computed once for each image.
    assert many.responses == pytest.approx(12 * (one.responses - logits) + 3 * logits)
    assert many.step == pytest.approx(5 * many.forward - many.vision)
