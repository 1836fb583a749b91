"""The shared-prompt pass against the ordinary padded batch, which transformers computes alone."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.support.plain_logprobs import plain_logprobs
from tests.support.tiny_models import (
    random_responses,
    tiny_model,
    tiny_prompts,
)
from vqr1.errors import ModelError
from vqr1.policy.shared_prompt import (
    plan_micro_batches,
    response_logprobs,
    response_states,
)
from vqr1.policy.unwrap import unwrap
from vqr1.policy.vision import VisionFeatures, encode_images
from vqr1.records import PromptBatch

GRIDS = [(2, 2), (3, 5), (2, 2), (4, 2)]
TEXTS = [5, 9, 5, 1]
RAGGED = [[4, 7, 1], [5, 5, 5], [2, 2, 8], [1, 1, 1]]


def weighted_gradients(model, logprobs):
    """Gradients of a random weighting of the log-probabilities, by parameter name."""
    weights = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(5))
    model.zero_grad(set_to_none=True)
    (logprobs * weights).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found, expected, tolerance=1e-5):
    """Relative to the norm of all gradients of each tensor."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        error = (found[name] - gradient).norm() / gradient.norm().clamp_min(1e-12)
        assert error < tolerance, name


def assert_equal_paths(model, prompts, tokens, mask, **options):
    shared = response_logprobs(model, prompts, tokens, mask, with_entropy=True, **options)
    plain = plain_logprobs(
        model, prompts, tokens, mask, with_entropy=True,
        temperature=options.get("temperature", 1.0),
    )  # fmt: skip
    torch.testing.assert_close(shared.logprobs, plain.logprobs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shared.entropy, plain.entropy, rtol=1e-5, atol=1e-5)
    assert (shared.logprobs[~mask] == 0).all()
    assert_same_gradients(
        weighted_gradients(model, shared.logprobs), weighted_gradients(model, plain.logprobs)
    )


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_mixed_sizes_and_ragged_responses_equal_the_plain_path(kv_heads):
    model = tiny_model(kv_heads=kv_heads)
    tokens, mask = random_responses(RAGGED)
    assert_equal_paths(model, tiny_prompts(GRIDS, TEXTS), tokens, mask)


@pytest.mark.parametrize("group", [1, 2, 6])
@pytest.mark.parametrize("ragged", [False, True])
def test_group_sizes(group, ragged):
    lengths = [[1 + (3 * b + 2 * k) % 7 if ragged else 6 for k in range(group)] for b in range(3)]
    tokens, mask = random_responses(lengths)
    assert_equal_paths(tiny_model(), tiny_prompts(GRIDS[:3], TEXTS[:3]), tokens, mask)


def test_one_image_one_response_of_one_token():
    tokens, mask = random_responses([[1]])
    assert_equal_paths(tiny_model(), tiny_prompts([(3, 4)], [2]), tokens, mask)


def test_states_are_the_means_of_the_plain_passs_last_hidden_states():
    model, prompts = tiny_model(), tiny_prompts(GRIDS, TEXTS)
    tokens, mask = random_responses([[4, 0, 1], [5, 5, 5], [2, 2, 8], [1, 1, 1]])
    seen = []
    norm = unwrap(model).model.language_model.norm
    with norm.register_forward_hook(lambda *given: seen.append(given[2])):
        plain_logprobs(model, prompts, tokens, mask)
    hidden = seen[0][:, -mask.shape[2] :].unflatten(0, mask.shape[:2])
    counts = mask.sum(dim=2, keepdim=True)
    expected = (hidden * mask[..., None]).sum(dim=2) / counts.clamp(min=1)
    found = response_states(model, prompts, tokens, mask, encode_images(model, prompts))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)


def test_temperature_divides_the_logits():
    tokens, mask = random_responses(RAGGED)
    assert_equal_paths(tiny_model(), tiny_prompts(GRIDS, TEXTS), tokens, mask, temperature=0.7)


def test_masked_responses_and_groups_are_as_if_they_were_not_there():
    model, prompts = tiny_model(), tiny_prompts(GRIDS, TEXTS)
    tokens, mask = random_responses([[4, 0, 3], [0, 0, 0], [0, 5, 0], [2, 2, 2]])
    assert_equal_paths(model, prompts, tokens, mask)
    # The second image has no response: its features are never asked for.
    vision = encode_images(model, prompts)
    broken = (vision.embeds[0], (torch.full_like(vision.flat[1], torch.nan),), *vision.embeds[2:])
    found = response_logprobs(model, prompts, tokens, mask, vision=VisionFeatures(broken))
    assert found.logprobs.isfinite().all()


def test_nothing_to_compute_gives_zeros():
    tokens, mask = random_responses([[0, 0]])
    found = response_logprobs(tiny_model(), tiny_prompts([(2, 2)], [1]), tokens, mask)
    assert found.logprobs.tolist() == [[[0.0], [0.0]]]


def test_micro_batches_add_up_to_the_whole_batch():
    model, prompts = tiny_model(), tiny_prompts(GRIDS, TEXTS)
    tokens, mask = random_responses(RAGGED)
    whole = response_logprobs(model, prompts, tokens, mask)
    expected = weighted_gradients(model, whole.logprobs)
    weights = torch.randn(mask.shape, generator=torch.Generator().manual_seed(5))
    model.zero_grad(set_to_none=True)
    vision = encode_images(model, prompts)
    leaves = vision.leaves()
    parts = plan_micro_batches(prompts, mask, 40)
    assert len(parts) > 1
    for part in parts:
        found = response_logprobs(
            model,
            prompts.select(part.start, part.stop),
            tokens[part],
            mask[part],
            vision=leaves.select(part.start, part.stop),
        )
        torch.testing.assert_close(found.logprobs, whole.logprobs[part], rtol=1e-5, atol=1e-5)
        (found.logprobs * weights[part]).sum().backward()
    vision.backward_from(leaves)
    summed = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert_same_gradients(summed, expected)


def test_a_token_budget_gives_the_same_numbers():
    model, prompts = tiny_model(), tiny_prompts(GRIDS, TEXTS)
    tokens, mask = random_responses(RAGGED)
    with torch.no_grad():
        whole = response_logprobs(model, prompts, tokens, mask, with_entropy=True)
        turns = response_logprobs(
            model, prompts, tokens, mask, with_entropy=True, micro_batch_tokens=30
        )
    torch.testing.assert_close(turns.logprobs, whole.logprobs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(turns.entropy, whole.entropy, rtol=1e-5, atol=1e-5)


def test_plan_counts_prompts_once_and_skips_masked_images():
    # Prompt lengths: 3 words + 2 + image + text = 3 + 2 + 4 + 5 = 14, 29, 14, 14.
    prompts = tiny_prompts(GRIDS, TEXTS)
    assert [len(ids) for ids in prompts.input_ids] == [14, 29, 14, 14]
    _, mask = random_responses([[2, 2], [1, 1], [0, 0], [3, 1]])
    # Costs: 14 + 4 = 18, 29 + 2 = 31, 0, 14 + 4 = 18.
    assert plan_micro_batches(prompts, mask, 49) == [slice(0, 3), slice(3, 4)]
    assert plan_micro_batches(prompts, mask, 48) == [slice(0, 1), slice(1, 3), slice(3, 4)]
    assert plan_micro_batches(prompts, mask, 1) == [slice(0, 1), slice(1, 3), slice(3, 4)]
    assert plan_micro_batches(prompts, mask, 67) == [slice(0, 4)]
    assert plan_micro_batches(prompts, mask.zero_(), 67) == []


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing_but_memory(reentrant):
    model, prompts = tiny_model(), tiny_prompts(GRIDS, TEXTS)
    tokens, mask = random_responses(RAGGED)
    expected = weighted_gradients(model, response_logprobs(model, prompts, tokens, mask).logprobs)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    calls = count_layer_runs(model)
    found = weighted_gradients(model, response_logprobs(model, prompts, tokens, mask).logprobs)
    assert_same_gradients(found, expected)
    # Each of three layers runs forwards, and once more during the backward pass.
    assert len(calls) == 6
    assert unwrap(model).model.language_model.config._attn_implementation == "sdpa"


def count_layer_runs(model):
    calls = []
    for layer in model.model.language_model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def test_lora_and_its_reference():
    base = tiny_model()
    untouched = copy.deepcopy(base)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"],
        init_lora_weights=False,
    )  # fmt: skip
    model = get_peft_model(base, config).eval()
    prompts = tiny_prompts(GRIDS, TEXTS)
    tokens, mask = random_responses(RAGGED)
    assert_equal_paths(model, prompts, tokens, mask)
    with torch.no_grad(), model.disable_adapter():
        reference = response_logprobs(model, prompts, tokens, mask).logprobs
    expected = plain_logprobs(untouched, prompts, tokens, mask).logprobs
    torch.testing.assert_close(reference, expected, rtol=1e-5, atol=1e-5)
    adapted = response_logprobs(model, prompts, tokens, mask).logprobs
    assert (adapted - reference).abs().max() > 0.1


def test_frozen_tower_reuses_features_and_gets_no_gradient():
    model, prompts = tiny_model(), tiny_prompts(GRIDS, TEXTS)
    model.model.visual.requires_grad_(False)
    tokens, mask = random_responses(RAGGED)
    assert_equal_paths(model, prompts, tokens, mask)
    vision = encode_images(model, prompts)
    assert not any(embed.requires_grad for embed in vision.flat)
    expected = response_logprobs(model, prompts, tokens, mask).logprobs
    runs = []
    model.model.visual.register_forward_pre_hook(lambda *_: runs.append(1))
    found = response_logprobs(model, prompts, tokens, mask, vision=vision).logprobs
    assert runs == []
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert_same_gradients(
        weighted_gradients(model, found), weighted_gradients(model, expected), 1e-9
    )


def test_bfloat16_stays_within_the_noise_of_the_plain_path():
    exact = tiny_model(std=0.1)
    model = copy.deepcopy(exact).bfloat16()
    tokens, mask = random_responses(RAGGED)
    plain_errors, shared_errors = [], []
    # One batch's errors are a few dozen numbers, and chance decides whose are larger.
    for seed in range(4):
        prompts = tiny_prompts(GRIDS, TEXTS, seed)
        with torch.no_grad():
            truth = plain_logprobs(exact, prompts, tokens, mask).logprobs
            plain = plain_logprobs(model, prompts, tokens, mask).logprobs
            shared = response_logprobs(model, prompts, tokens, mask).logprobs
        plain_errors.append((plain - truth)[mask])
        shared_errors.append((shared - truth)[mask])
    plain_error, shared_error = torch.cat(plain_errors), torch.cat(shared_errors)
    assert shared_error.square().mean() <= 1.3**2 * plain_error.square().mean()
    assert shared_error.abs().max() <= 1.5 * plain_error.abs().max()
    assert 0 < plain_error.abs().max() < 0.2


def test_autocast_computes_in_the_lower_precision():
    model, prompts = tiny_model(std=0.1), tiny_prompts(GRIDS, TEXTS)
    tokens, mask = random_responses(RAGGED)
    with torch.autocast("cpu", torch.bfloat16):
        shared = response_logprobs(model, prompts, tokens, mask).logprobs
        plain = plain_logprobs(model, prompts, tokens, mask).logprobs
    assert shared.dtype == torch.float32
    assert (shared - plain).abs().max() < 0.1


def test_the_model_is_left_as_it_was():
    model, prompts = tiny_model(), tiny_prompts(GRIDS, TEXTS)
    tokens, mask = random_responses(RAGGED)
    before = plain_logprobs(model, prompts, tokens, mask).logprobs
    response_logprobs(model, prompts, tokens, mask)
    assert model.model.language_model.config._attn_implementation == "sdpa"
    assert model.model.visual.config._attn_implementation == "sdpa"
    after = plain_logprobs(model, prompts, tokens, mask).logprobs
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_a_mask_with_a_gap_is_refused():
    tokens, mask = random_responses([[4, 3]])
    mask[0, 0, 1] = False
    with pytest.raises(ValueError, match="without gaps"):
        response_logprobs(tiny_model(), tiny_prompts([(2, 2)], [1]), tokens, mask)


def test_features_of_another_image_are_refused():
    model = tiny_model()
    tokens, mask = random_responses([[2]])
    other = encode_images(model, tiny_prompts([(3, 3)], [1]))
    with pytest.raises(ModelError, match="4 image tokens and 9 image features"):
        response_logprobs(model, tiny_prompts([(2, 2)], [1]), tokens, mask, vision=other)
    prompts = tiny_prompts([(2, 2)], [1])
    wrong = PromptBatch(prompts.input_ids, tiny_prompts([(2, 3)], [1]).images)
    with pytest.raises(ModelError, match="4 image tokens for an image of 6"):
        response_logprobs(model, wrong, tokens, mask, vision=encode_images(model, prompts))


def test_other_models_are_refused():
    with pytest.raises(ModelError, match=r"found a Linear; .*model\.path"):
        unwrap(torch.nn.Linear(2, 2))
