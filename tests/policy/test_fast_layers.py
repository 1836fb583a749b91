"""The lean layers against the model library's own."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.support.plain_logprobs import plain_logprobs
from tests.support.tiny_models import random_responses, tiny_model, tiny_prompts
from vqr1.policy.families._qwen2_5_vl_layers import (
    FastPatchEmbed,
    FastRmsNorm,
    FastTextMlp,
    FastVisionMlp,
)
from vqr1.policy.fast_layers import rms_norm, swiglu, use_fast_layers, window_attention
from vqr1.policy.shared_prompt import response_logprobs
from vqr1.policy.vision import encode_images


def modules_of(model):
    layer, block = model.model.language_model.layers[0], model.model.visual.blocks[0]
    return {"norm": layer.input_layernorm, "text": layer.mlp, "vision": block.mlp}


@pytest.mark.parametrize("name", ["norm", "text", "vision"])
@pytest.mark.parametrize("shape", [(1, 9), (7,)])
def test_values_and_gradients_of_each_layer(name, shape):
    plain = tiny_model()
    fast = copy.deepcopy(plain)
    use_fast_layers(fast)
    one, other = modules_of(plain)[name], modules_of(fast)[name]
    assert type(other) is not type(one)
    width = 32 if name == "vision" else 48
    x = torch.randn(*shape, width, requires_grad=True)
    weights = torch.randn(*shape, width)
    expected = torch.autograd.grad((one(x) * weights).sum(), (x, *one.parameters()))
    found = torch.autograd.grad((other(x) * weights).sum(), (x, *other.parameters()))
    torch.testing.assert_close(other(x), one(x), rtol=1e-5, atol=1e-5)
    for gradient, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, truth, rtol=1e-5, atol=1e-5)


def test_gradients_in_double_precision_by_finite_differences():
    torch.manual_seed(0)
    x, up = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(swiglu, (x, up))
    assert torch.autograd.gradcheck(rms_norm, (x, weight, 1e-6))


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_whole_pass_equals_the_plain_path_of_the_plain_model(adapters, checkpointing):
    plain = tiny_model()
    fast = copy.deepcopy(plain)
    if adapters:
        config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
        plain = get_peft_model(plain, config).eval()
        fast = get_peft_model(fast, config).eval()
        fast.load_state_dict(plain.state_dict())
    use_fast_layers(fast)
    use_fast_layers(fast)
    if checkpointing:
        fast.gradient_checkpointing_enable({"use_reentrant": False})
        fast.enable_input_require_grads()
    prompts = tiny_prompts([(2, 2), (3, 5)], [5, 9])
    tokens, mask = random_responses([[4, 7, 1], [5, 5, 5]])
    expected = plain_logprobs(plain, prompts, tokens, mask).logprobs
    found = response_logprobs(fast, prompts, tokens, mask).logprobs
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    expected.sum().backward()
    found.sum().backward()
    for one, other in zip(plain.parameters(), fast.parameters(), strict=True):
        if one.grad is not None:
            assert (other.grad - one.grad).norm() <= 1e-5 * one.grad.norm()
    assert list(fast.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("bounds", [[0, 4, 8, 12], [0, 3, 7, 10, 12], [0, 12]])
def test_windows_of_one_size_share_a_call(bounds):
    torch.manual_seed(0)
    q, k, v = (torch.randn(12, 2, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    whole = torch.zeros(12, 12, dtype=torch.bool)
    for start, end in pairwise(bounds):
        whole[start:end, start:end] = True
    scores = torch.einsum("qhd,khd->hqk", q, k) * 0.3
    weights = scores.masked_fill(~whole, -torch.inf).softmax(dim=-1)
    expected = torch.einsum("hqk,khd->qhd", weights, v).flatten(1)
    found = window_attention(q, k, v, torch.tensor(bounds), 0.3)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad(found, (q, k, v), direction),
        torch.autograd.grad(expected, (q, k, v), direction),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_patches_are_embedded_as_by_the_convolution():
    plain = tiny_model().model.visual.patch_embed
    fast = copy.deepcopy(plain)
    fast.__class__ = FastPatchEmbed
    x = torch.randn(40, plain.proj.weight[0].numel())
    one, other = plain(x), fast(x)
    # By norm: a sum of 1176 products near zero has lost digits that its terms decide.
    assert (other - one).norm() <= 1e-5 * one.norm()
    gradients = [
        torch.autograd.grad(y.square().sum(), m.proj.weight)[0]
        for y, m in ((one, plain), (other, fast))
    ]
    assert (gradients[1] - gradients[0]).norm() <= 1e-5 * gradients[0].norm()


@pytest.mark.parametrize("name", ["norm", "text", "vision"])
def test_lower_precision_takes_the_library_s_way(name):
    plain = tiny_model(dtype=torch.bfloat16)
    fast = copy.deepcopy(plain)
    use_fast_layers(fast)
    x = torch.randn(7, 32 if name == "vision" else 48, dtype=torch.bfloat16)
    assert torch.equal(modules_of(fast)[name](x), modules_of(plain)[name](x))


def test_less_is_kept_for_the_backward_pass():
    kept = []
    for fast in (False, True):
        model = tiny_model()
        if fast:
            use_fast_layers(model)
        weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        storages = {}

        def note(tensor, storages=storages, weights=weights):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            features = encode_images(model, tiny_prompts([(6, 6)], [1]))
        kept.append(sum(storages.values()))
        del features
    # 144 patches of float32: silu(gate) of 64 in two blocks, the normalised 32 of five norms, and
    # in two blocks the windows' outputs of 32, which need not be put together.
    assert kept[0] - kept[1] == 144 * 4 * (2 * 64 + 5 * 32 + 2 * 32)


def test_only_known_layers_change():
    model = tiny_model()
    use_fast_layers(model)
    changed = {type(module) for module in modules_of(model).values()}
    assert changed == {FastRmsNorm, FastTextMlp, FastVisionMlp}
