"""The oneDNN linear layers against PyTorch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.support.tiny_models import random_responses, tiny_model, tiny_prompts
from tests.support.tiny_tokenizer import tiny_tokenizer
from vqr1.config import SamplingConfig
from vqr1.policy import cpu_linear
from vqr1.policy.cpu_linear import FastLinear, packed_weights, use_fast_linears
from vqr1.policy.shared_prompt import response_logprobs
from vqr1.rollout.local import LocalEngine

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN"
)


@pytest.fixture(autouse=True)
def everywhere(monkeypatch):
    """Uses the layers on every processor: they are right everywhere, only not faster."""
    monkeypatch.setattr(cpu_linear, "fast_linears_help", lambda: True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(40, 12), (3, 20, 12), (2, 12)])
def test_values_and_gradients(bias, shape):
    torch.manual_seed(0)
    plain = torch.nn.Linear(12, 7, bias=bias)
    fast = copy.deepcopy(plain)
    assert use_fast_linears(fast) == 1
    x = torch.randn(shape, requires_grad=True)
    weights = torch.randn(*shape[:-1], 7)
    expected = plain(x)
    found = fast(x)
    torch.testing.assert_close(found, expected)
    truth = torch.autograd.grad((expected * weights).sum(), (x, *plain.parameters()))
    gradients = torch.autograd.grad((found * weights).sum(), (x, *fast.parameters()))
    for gradient, true_gradient in zip(gradients, truth, strict=True):
        torch.testing.assert_close(gradient, true_gradient)


def test_frozen_weights_get_no_gradient():
    layer = torch.nn.Linear(12, 7)
    use_fast_linears(layer)
    layer.requires_grad_(False)
    x = torch.randn(16, 12, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(16, -1))


def test_only_plain_layers_change_and_state_stays():
    model = tiny_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    assert use_fast_linears(adapted) > 0
    assert use_fast_linears(adapted) == 0
    after = adapted.get_base_model().state_dict()
    for name, weight in before.items():
        name = name.replace("q_proj.", "q_proj.base_layer.")
        assert torch.equal(after[name], weight)
    assert isinstance(copy.deepcopy(model).lm_head, FastLinear)


def test_the_whole_pass_stays_the_same():
    plain = tiny_model()
    fast = copy.deepcopy(plain)
    use_fast_linears(fast)
    prompts = tiny_prompts([(2, 2), (3, 5)], [5, 9])
    tokens, mask = random_responses([[4, 7, 1], [5, 5, 5]])
    gradients = []
    for model in (plain, fast):
        logprobs = response_logprobs(model, prompts, tokens, mask).logprobs
        logprobs.sum().backward()
        gradients.append([p.grad for p in model.parameters()])
        torch.testing.assert_close(
            logprobs,
            response_logprobs(plain, prompts, tokens, mask).logprobs,
            rtol=1e-5,
            atol=1e-5,
        )
    for expected, found in zip(*gradients, strict=True):
        assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_decoding_packs_the_weights_and_forgets_them():
    plain = tiny_model()
    fast = copy.deepcopy(plain)
    use_fast_linears(fast)
    prompts = tiny_prompts([(2, 2), (3, 5), (4, 2)], [5, 9, 1])
    sampling = SamplingConfig(max_new_tokens=12)
    expected, found = (
        LocalEngine(model, tiny_tokenizer(), 10**6).sample(
            prompts, group_size=6, sampling=sampling, seed=2
        )
        for model in (plain, fast)
    )
    assert found.texts == expected.texts
    layer = fast.model.language_model.layers[0].mlp.up_proj
    assert layer.packed is None
    with torch.no_grad(), packed_weights(fast, 10):
        assert layer.packed is not None
        x = torch.randn(33, 48)
        torch.testing.assert_close(layer(x), x @ layer.weight.t())


def test_other_types_take_the_usual_way():
    layer = torch.nn.Linear(12, 7)
    use_fast_linears(layer)
    x = torch.randn(16, 12)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64
