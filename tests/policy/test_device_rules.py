"""What passes do differently on an accelerator, shown on a CPU: precision, casts, kernels."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear

from tests.support.tiny_models import random_responses, tiny_model, tiny_prompts
from vqr1.distributed import collectives
from vqr1.distributed.sharding import Replicated
from vqr1.policy import flash, loading
from vqr1.policy.adapters import lean_adapters, lean_class
from vqr1.policy.fast_layers import WindowPlan, rms_norm, use_fast_layers
from vqr1.policy.prompt_state import read_prompts
from vqr1.policy.reference import FrozenCopy
from vqr1.policy.sampling_weights import half_weights, sampling_weights
from vqr1.policy.shared_prompt import pack_prompts, response_logprobs
from vqr1.policy.unwrap import parts_of
from vqr1.policy.vision import encode_images
from vqr1.rollout.cuda_graph_decode import StaticDecoder
from vqr1.rollout.decode import Decoder
from vqr1.rollout.turns import CPU_TOKENS, GPU_TOKENS, entry_bytes, turn_tokens

PROMPTS = tiny_prompts([(2, 2), (3, 5)], [5, 9])


def half() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False)


def test_mathematics_in_float32_stays_in_it_under_autocast() -> None:
    torch.manual_seed(0)
    q, k, v, grad = (torch.randn(2, 4, 5, 8) * 3 for _ in range(4))
    k, v = k[:, :2], v[:, :2]
    out, lse = flash.math_forward(q, k, v, causal=True, scale=0.5)
    gradients = flash.math_backward(grad, q, k, v, out=out, lse=lse, causal=True, scale=0.5)
    x, weight = torch.randn(7, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    expected = torch.autograd.grad(rms_norm(x, weight, 1e-6).sum(), (x, weight))
    with half():
        found, found_lse = flash.math_forward(q, k, v, causal=True, scale=0.5)
        lower = flash.math_backward(grad, q, k, v, out=out, lse=lse, causal=True, scale=0.5)
        of_norm = torch.autograd.grad(rms_norm(x, weight, 1e-6).sum(), (x, weight))
    assert torch.equal(found, out)
    assert torch.equal(found_lse, lse)
    for one, other in zip((*lower, *of_norm), (*gradients, *expected), strict=True):
        assert torch.equal(one, other)


def test_gradients_are_computed_outside_of_autocast() -> None:
    class Module:
        def manual_backward(self, loss: torch.Tensor) -> None:
            self.lower = torch.is_autocast_enabled("cpu")

    module = Module()
    model = tiny_model()
    features = encode_images(model, PROMPTS)
    leaves = features.leaves()
    seen = []
    features.flat[0].register_hook(lambda grad: seen.append(torch.is_autocast_enabled("cpu")))
    leaves.flat[0].grad = torch.ones_like(leaves.flat[0])
    with half():
        Replicated().backward(module, torch.ones(()))
        features.backward_from(leaves)
    assert module.lower is False
    assert seen == [False]


def test_rows_are_cast_once_for_all_layers_that_follow_a_norm() -> None:
    model = tiny_model()
    use_fast_layers(model)
    layer = model.model.language_model.layers[0]
    rows = torch.randn(3, 48)
    with half():
        assert layer.input_layernorm(rows).dtype == torch.bfloat16
    expected = layer.input_layernorm(rows)
    assert expected.dtype == torch.float32
    with half():
        assert torch.equal(layer.input_layernorm(rows), expected.bfloat16())


def adapted(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    return get_peft_model(tiny_model(dtype=torch.bfloat16), config).eval()


def test_adapters_keep_no_float32_copy_of_their_input() -> None:
    plain = adapted()
    lean = copy.deepcopy(plain)
    # Of three text layers, and `up_proj` of two blocks of the tower.
    assert lean_adapters(lean) == 3 * 2 + 2
    kept = []
    for model, kind in ((plain, Linear), (lean, lean_class())):
        layer = parts_of(model).text_layers[0].self_attn.q_proj
        assert type(layer) is kind
        x = torch.randn(5, 48, dtype=torch.bfloat16, requires_grad=True)
        wide: list[int] = []

        def note(tensor: torch.Tensor, wide: list[int] = wide) -> torch.Tensor:
            if tensor.dtype == torch.float32 and tensor.shape == (5, 48):
                wide.append(1)
            return tensor

        saved = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
        with half(), saved:
            layer(x)
        # Outside of autocast the input still gets the adapters' type.
        assert layer(x.detach()).shape == (5, 48)
        with half():
            kept.append((wide, layer(torch.ones(2, 48, dtype=torch.bfloat16))))
    assert torch.equal(kept[0][1], kept[1][1])
    assert kept[1][0] == []


def test_a_reference_of_half_the_bytes_gives_the_same_bits() -> None:
    model = tiny_model(seed=1)
    model.lm_head.weight = model.model.language_model.embed_tokens.weight
    full = FrozenCopy(model, vision_frozen=False)
    small = FrozenCopy(model, vision_frozen=False, half=True)
    layer = small.model.model.language_model.layers[0]
    assert layer.mlp.up_proj.weight.dtype == torch.bfloat16
    assert layer.input_layernorm.weight.dtype == torch.float32
    # The head is the embedding, whose rows are not cast.
    assert small.model.lm_head.weight is small.model.model.language_model.embed_tokens.weight
    assert small.model.lm_head.weight.dtype == torch.float32
    assert model.model.language_model.layers[0].mlp.up_proj.weight.dtype == torch.float32
    tokens, mask = random_responses([[4, 7, 1], [5, 5, 5]])
    found = []
    for reference in (full, small):
        with reference.weights() as weights, half():
            found.append(response_logprobs(weights, PROMPTS, tokens, mask).logprobs)
    assert torch.equal(*found)


def test_a_step_of_passes_embeds_all_its_tokens_at_once() -> None:
    model = tiny_model()
    calls: list[int] = []
    embeddings = model.model.language_model.embed_tokens
    embeddings.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    tokens, mask = random_responses([[4, 7, 1], [5, 5, 5]])
    response_logprobs(model, PROMPTS, tokens, mask)
    # A second call would make a second gradient of the embedding's size. The last token of each
    # response is no input: 3 + 6 + 0 and 3 x 4.
    assert calls == [sum(map(len, PROMPTS.input_ids)) + 21]


def test_windows_are_counted_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = WindowPlan._made
    monkeypatch.setattr(WindowPlan, "_made", lambda *args: made.append(1) or original(*args))
    model = tiny_model()
    use_fast_layers(model)
    encode_images(model, tiny_prompts([(3, 5)], [5]), at_once=True)
    # One block attends in windows, the other over the whole image: two tensors of bounds.
    assert len(made) == 2
    bounds = torch.tensor([0, 4, 8])
    assert WindowPlan.of(bounds, bounds.device) is WindowPlan.of(bounds, bounds.device)


def test_attention_takes_kernels_that_the_device_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "is_flash_attn_3_available", lambda: True)
    monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda: True)
    # An A100, and an H100.
    assert loading.best_attention((8, 0)) == "flash_attention_2"
    assert loading.best_attention((9, 0)) == "flash_attention_3"


def test_a_large_gradient_is_summed_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    summed: list[int] = []
    monkeypatch.setattr(collectives, "get_world_size", lambda: 2)
    monkeypatch.setattr(collectives, "BUCKET_NUMBERS", 10)
    monkeypatch.setattr(
        collectives.dist, "all_reduce", lambda value, **_: summed.append(value.data_ptr())
    )
    weights = [torch.nn.Parameter(torch.ones(n)) for n in (8, 3, 4)]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    collectives.all_reduce_gradients(weights)
    # Which weights have gradients; the first by itself, where it is; the other two together.
    assert len(summed) == 3
    assert summed[1] == weights[0].grad.data_ptr()


@torch.no_grad()
@pytest.mark.parametrize("adapters", [False, True])
def test_sampling_reads_weights_in_half_and_gives_them_back(adapters: bool) -> None:
    model = adapted() if adapters else tiny_model(seed=1)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    parts = parts_of(model)
    tokens, mask = random_responses([[4, 7, 1], [5, 5, 5]])
    with half():
        expected = response_logprobs(model, PROMPTS, tokens, mask).logprobs
        with half_weights(model):
            layers = [m for m in parts.text_layers.modules() if isinstance(m, torch.nn.Linear)]
            adapter = {id(m) for n, m in parts.text_layers.named_modules() if "lora_" in n}
            own = [m for m in layers if id(m) not in adapter]
            assert {m.weight.dtype for m in own} == {parts.head.weight.dtype} == {torch.bfloat16}
            found = response_logprobs(model, PROMPTS, tokens, mask).logprobs
    if adapters:
        # The sum of weight and adapter is rounded where their products were.
        assert (found - expected).abs().max() < 0.2
        with half(), model.disable_adapter():
            without = response_logprobs(model, PROMPTS, tokens, mask).logprobs
        assert (found - expected).norm() < 0.1 * (without - expected).norm()
    else:
        assert torch.equal(found, expected)
    assert [name for name, _ in model.named_parameters()] == list(before)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]), name
        assert weight.dtype == before[name].dtype


def test_sampling_reads_half_weights_under_autocast_alone() -> None:
    model = tiny_model(seed=1)
    weight = parts_of(model).text_layers[0].self_attn.q_proj
    with sampling_weights(model):
        assert weight.weight.dtype == torch.float32
    with half():
        with sampling_weights(model):
            assert weight.weight.dtype == torch.bfloat16
        assert weight.weight.dtype == torch.float32


def used_kernel(q: Any, k: Any, v: Any, cum_q: Any, cum_k: Any, *rest: Any, **options: Any) -> Any:
    """`_flash_attention_forward` of rows, by its definition: sequence by sequence."""
    out, lse = torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0])
    used = options["seqused_k"].tolist()
    for n, (first, last) in enumerate(zip(cum_q[:-1].tolist(), cum_q[1:].tolist(), strict=True)):
        keys = slice(int(cum_k[n]), int(cum_k[n]) + used[n])
        scores = torch.einsum("qhd,khd->hqk", q[first:last], k[keys]) * options["scale"]
        lse[:, first:last] = scores.logsumexp(dim=-1)
        out[first:last] = torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), v[keys])
    return out, lse, None, None, None


@torch.no_grad()
def test_one_recorded_step_serves_all_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[int]] = []

    def kernel(*args: Any, **options: Any) -> Any:
        read.append(options["seqused_k"].tolist())
        return used_kernel(*args, **options)

    monkeypatch.setattr(flash, "_CUDA_USED", kernel)
    monkeypatch.setattr(flash, "reads_used", lambda keys: True)
    model = tiny_model()
    state = read_prompts(model, pack_prompts(model, PROMPTS, encode_images(model, PROMPTS)))
    growing, fixed = Decoder(model, state, 3, 7), StaticDecoder(model, state, 3, 7)
    widths, rows = set(), 6
    for step in range(7):
        tokens = torch.arange(rows) + step
        torch.testing.assert_close(fixed.step(tokens), growing.step(tokens), rtol=1e-5, atol=1e-5)
        widths.add(fixed._width)
        if step in (3, 5):
            # Rows 0 and 4 end, then 1 and 2.
            kept = [1, 2, 3, 5] if step == 3 else [2, 3]
            growing.keep(kept)
            fixed.keep(kept)
            rows = len(kept)
    assert widths == {7}
    # In all three layers alike: the keys of a row that has ended are not read.
    assert read[0] == [1] * 6
    assert read[-1] == [1, 1, 1, 7, 1, 7]
    assert read[3 * 4] == [1, 5, 5, 5, 1, 5]


def test_turns_of_a_gpu_take_half_of_its_free_memory() -> None:
    assert turn_tokens(1000, gpu=True) == 1000
    assert turn_tokens(None, gpu=False) == CPU_TOKENS
    assert turn_tokens(None, gpu=True) == GPU_TOKENS
    # Qwen2.5-VL-7B: keys and values of 28 layers, 4 heads of 128, 2 bytes.
    entry = 2 * 28 * 4 * 128 * 2
    assert turn_tokens(None, gpu=True, free=40e9, entry=entry) == int(20e9 / entry) == 348_772
    assert turn_tokens(None, gpu=True, free=1e9, entry=entry) == CPU_TOKENS
    # The tiny model: 3 layers, 2 heads of 12, 4 bytes.
    assert entry_bytes(tiny_model()) == 2 * 3 * 2 * 12 * 4
