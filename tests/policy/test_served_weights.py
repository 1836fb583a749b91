"""Weights for a serving engine, against what peft merges itself."""

from __future__ import annotations

import copy

import torch
from peft import LoraConfig, get_peft_model

from tests.support.tiny_models import tiny_model
from vqr1.policy.served_weights import served_weights


def test_adapters_are_added_and_the_policy_stays_as_it_is() -> None:
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False
    )
    model = get_peft_model(tiny_model(), config).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    served = {name: value.clone() for name, value in served_weights(model)}
    merged = copy.deepcopy(model).merge_and_unload()
    expected = dict(merged.named_parameters())
    assert served.keys() == expected.keys()
    for name, value in served.items():
        torch.testing.assert_close(value, expected[name].detach(), rtol=1e-6, atol=1e-6)
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(served[name], dict(tiny_model().named_parameters())[name])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_bare_policy_is_served_as_it_is() -> None:
    model = tiny_model()
    served = dict(served_weights(model))
    assert served.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(served[name], value) for name, value in model.named_parameters())
