"""Rollouts against `model.generate` and against the model's own probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy import stats

from tests.support.plain_logprobs import plain_logprobs
from tests.support.tiny_models import IMAGE_TOKEN, tiny_model, tiny_prompts
from tests.support.tiny_tokenizer import tiny_tokenizer
from vqr1.config import SamplingConfig
from vqr1.policy.vision import encode_images, encoding_of
from vqr1.records import PromptBatch
from vqr1.rollout.local import LocalEngine

TOKENIZER = tiny_tokenizer()
PROMPTS = tiny_prompts([(2, 2), (3, 5), (2, 2), (4, 2)], [5, 9, 5, 1])
BANNED, ENDS = [90, 91, 92, 93], [94, 95]
LARGE = 10**6


def generated(model, prompts, limit, **further):
    """Greedy responses of the model library, one image at a time."""
    rows = []
    for b, ids in enumerate(prompts.input_ids):
        patches, grid = encoding_of(model).encode(prompts.images[b])
        out = model.generate(
            input_ids=ids[None],
            attention_mask=torch.ones_like(ids[None]),
            mm_token_type_ids=(ids == IMAGE_TOKEN).int()[None],
            pixel_values=patches,
            image_grid_thw=grid,
            do_sample=False,
            max_new_tokens=limit,
            eos_token_id=ENDS,
            pad_token_id=ENDS[0],
            suppress_tokens=BANNED,
            **further,
        )
        rows.append(out[0, len(ids) :].tolist())
    return rows


def responses(rollout, k=0):
    return [
        row[k][keep[k]].tolist() for row, keep in zip(rollout.tokens, rollout.mask, strict=True)
    ]


GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=24)


@pytest.mark.medium
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_greedy_equals_generate_token_for_token(seed, kv_heads):
    model = tiny_model(seed=seed, kv_heads=kv_heads)
    engine = LocalEngine(model, TOKENIZER, LARGE)
    rollout = engine.sample(PROMPTS, group_size=1, sampling=GREEDY, seed=0)
    assert responses(rollout) == generated(model, PROMPTS, 24)


@pytest.mark.medium
@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_greedy_with_a_repetition_penalty_equals_generate(penalty):
    """Tokens of the prompt count too, and rows that end early leave the others theirs."""
    model = tiny_model()
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=24, repetition_penalty=penalty)
    engine = LocalEngine(model, TOKENIZER, LARGE)
    rollout = engine.sample(PROMPTS, group_size=2, sampling=greedy, seed=0)
    expected = generated(model, PROMPTS, 24, repetition_penalty=penalty)
    assert responses(rollout) == responses(rollout, 1) == expected
    assert expected != generated(model, PROMPTS, 24)
    # The log-probabilities stay those of the policy.
    own = plain_logprobs(model, PROMPTS, rollout.tokens, rollout.mask).logprobs
    torch.testing.assert_close(rollout.logprobs, own, rtol=1e-5, atol=2e-5)


@pytest.mark.medium
def test_nothing_is_taken_from_a_generation_config():
    model = tiny_model()
    engine = LocalEngine(model, TOKENIZER, LARGE)
    plain = engine.sample(PROMPTS, group_size=2, sampling=SAMPLING, seed=1)
    model.generation_config.update(
        do_sample=True, temperature=0.1, top_k=1, repetition_penalty=1.5
    )  # fmt: skip
    assert engine.sample(PROMPTS, group_size=2, sampling=SAMPLING, seed=1).texts == plain.texts


@pytest.mark.medium
def test_greedy_with_adapters_equals_generate():
    config = LoraConfig(
        r=4, target_modules=["q_proj", "k_proj", "up_proj"], init_lora_weights=False
    )
    model = get_peft_model(tiny_model(), config).eval()
    engine = LocalEngine(model, TOKENIZER, LARGE)
    rollout = engine.sample(PROMPTS, group_size=1, sampling=GREEDY, seed=0)
    assert responses(rollout) == generated(model, PROMPTS, 24)
    with model.disable_adapter():
        plain = engine.sample(PROMPTS, group_size=1, sampling=GREEDY, seed=0)
        assert responses(plain) == generated(model, PROMPTS, 24)
    assert responses(plain) != responses(rollout)


SAMPLING = SamplingConfig(max_new_tokens=30, stop="answer")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def rollout(model):
    return LocalEngine(model, TOKENIZER, LARGE).sample(
        PROMPTS, group_size=6, sampling=SAMPLING, seed=3
    )


def test_logprobs_are_those_of_the_plain_path(model, rollout):
    expected = plain_logprobs(model, PROMPTS, rollout.tokens, rollout.mask).logprobs
    torch.testing.assert_close(rollout.logprobs, expected, rtol=1e-5, atol=2e-5)


def test_shapes_lengths_and_ends(rollout):
    assert rollout.tokens.shape == rollout.mask.shape == rollout.logprobs.shape
    assert rollout.tokens.shape[:2] == rollout.finished.shape == (4, 6)
    assert rollout.tokens.shape[2] == int(rollout.lengths.max())
    # This model and seed end some responses early and cut others at the limit.
    assert 0 < int(rollout.finished.sum()) < 24
    for b in range(4):
        for k in range(6):
            tokens = rollout.tokens[b, k][rollout.mask[b, k]].tolist()
            ended = tokens[-1] in ENDS or "</answer>" in TOKENIZER.decode(tokens)
            assert bool(rollout.finished[b, k]) == ended
            assert ended or len(tokens) == 30
            assert not set(tokens) & set(BANNED)
            assert not set(tokens[:-1]) & set(ENDS)
            text = TOKENIZER.decode(tokens, skip_special_tokens=True)
            assert rollout.texts[b][k] == text


@pytest.mark.medium
def test_samples_depend_on_seed_and_image_only(model, rollout):
    engine = LocalEngine(model, TOKENIZER, LARGE)
    torch.manual_seed(99)
    again = engine.sample(PROMPTS, group_size=6, sampling=SAMPLING, seed=3)
    assert torch.equal(again.tokens, rollout.tokens)
    alone = engine.sample(PROMPTS.select(2, 4), group_size=6, sampling=SAMPLING, seed=3)
    assert alone.texts == rollout.texts[2:]
    fewer = engine.sample(PROMPTS, group_size=2, sampling=SAMPLING, seed=3)
    assert fewer.texts == [group[:2] for group in rollout.texts]
    other = engine.sample(PROMPTS, group_size=6, sampling=SAMPLING, seed=4)
    assert other.texts != rollout.texts
    first, second = (ids for ids in PROMPTS.input_ids[:2])
    swapped = PromptBatch((second, first), (PROMPTS.images[1], PROMPTS.images[0]))
    exchanged = engine.sample(swapped, group_size=6, sampling=SAMPLING, seed=3)
    assert exchanged.texts == [rollout.texts[1], rollout.texts[0]]


@pytest.mark.medium
@pytest.mark.parametrize("budget", [1, 75, 400])
def test_sampling_in_turns_changes_nothing(model, rollout, budget):
    engine = LocalEngine(model, TOKENIZER, budget)
    found = engine.sample(PROMPTS, group_size=6, sampling=SAMPLING, seed=3)
    assert found.texts == rollout.texts


def test_given_features_spare_the_tower(model, rollout):
    engine = LocalEngine(model, TOKENIZER, LARGE)
    with torch.no_grad():
        vision = encode_images(model, PROMPTS)
    runs = []
    handle = model.model.visual.register_forward_pre_hook(lambda *_: runs.append(1))
    found = engine.sample(PROMPTS, group_size=6, sampling=SAMPLING, seed=3, vision=vision)
    handle.remove()
    assert runs == []
    assert found.texts == rollout.texts


def test_the_tower_and_the_prompt_run_once_for_all_responses(model):
    rows = []
    layer = model.model.language_model.layers[0].mlp
    handle = layer.register_forward_pre_hook(lambda _, args: rows.append(args[0].numel() // 48))
    engine = LocalEngine(model, TOKENIZER, LARGE)
    engine.sample(
        PROMPTS.select(0, 1), group_size=6, sampling=SamplingConfig(max_new_tokens=2), seed=0
    )
    handle.remove()
    # The prompt's 14 tokens, then one token of each response that is still open.
    assert rows[0] == 14
    assert len(rows) == 2
    assert rows[1] <= 6


def test_training_mode_is_left_as_found(model):
    model.train()
    try:
        LocalEngine(model, TOKENIZER, LARGE).sample(
            PROMPTS.select(0, 1), group_size=1, sampling=SamplingConfig(max_new_tokens=2), seed=0
        )
        assert model.training
    finally:
        model.eval()


def favour(model, token, strength=200.0):
    """Makes the model state one token only: the head answers with it whatever the state."""

    def one_sided(_, __, logits):
        logits = logits.clone()
        logits[..., token] += strength
        return logits

    return model.lm_head.register_forward_hook(one_sided)


def test_all_responses_end_at_once_after_one_token(model):
    handle = favour(model, ENDS[1])
    found = LocalEngine(model, TOKENIZER, LARGE).sample(
        PROMPTS, group_size=3, sampling=SAMPLING, seed=0
    )
    handle.remove()
    assert found.tokens.tolist() == [[[ENDS[1]]] * 3] * 4
    assert found.finished.all()
    assert found.texts == [[""] * 3] * 4


def test_responses_fill_the_limit(model):
    letter = TOKENIZER.get_vocab()["q"]
    handle = favour(model, letter)
    found = LocalEngine(model, TOKENIZER, LARGE).sample(
        PROMPTS, group_size=3, sampling=SamplingConfig(max_new_tokens=5), seed=0
    )
    handle.remove()
    assert found.texts == [["qqqqq"] * 3] * 4
    assert not found.finished.any()
    assert found.mask.all()


def test_a_limit_of_one_token(model):
    found = LocalEngine(model, TOKENIZER, LARGE).sample(
        PROMPTS, group_size=2, sampling=SamplingConfig(max_new_tokens=1), seed=0
    )
    assert found.tokens.shape == (4, 2, 1)


def test_sampled_tokens_fit_the_models_probabilities():
    """Chi-square of first tokens, and of second tokens given the commonest first one."""
    model = tiny_model(seed=4, std=0.08)
    prompts = tiny_prompts([(2, 2)], [4])
    group = 3000
    sampling = SamplingConfig(max_new_tokens=2, temperature=0.8)
    rollout = LocalEngine(model, TOKENIZER, LARGE).sample(
        prompts, group_size=group, sampling=sampling, seed=11
    )
    first = rollout.tokens[0, :, 0]
    _assert_fits(first, _probabilities(model, prompts, ALLOWED[:, None]))
    common = int(first.mode().values)
    second = rollout.tokens[0, first == common, 1]
    pairs = torch.stack([torch.full_like(ALLOWED, common), ALLOWED], dim=1)
    _assert_fits(second, _probabilities(model, prompts, pairs))


# An image token as response would make the plain path look for another image.
ALLOWED = torch.tensor([token for token in range(96) if token not in BANNED])


def _probabilities(model, prompts, tokens):
    """[96] probability of each last token in `tokens` [92, C], by the plain path, without bans."""
    mask = torch.ones(1, *tokens.shape, dtype=torch.bool)
    with torch.no_grad():
        logprobs = plain_logprobs(model, prompts, tokens[None], mask, temperature=0.8).logprobs
    probs = torch.zeros(96, dtype=torch.float64)
    probs[ALLOWED] = logprobs[0, :, -1].double().exp()
    assert 0.5 < float(probs.sum()) < 1
    return (probs / probs.sum()).numpy()


def _assert_fits(tokens, probs):
    counts = np.bincount(tokens.numpy(), minlength=96)
    assert counts[BANNED].sum() == 0
    expected = probs * counts.sum()
    # Tokens that are too rare for the test are counted together.
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    assert stats.chisquare(observed, expected).pvalue > 0.001


def test_looking_every_few_tokens_changes_no_response():
    model, sampling = tiny_model(), SamplingConfig(max_new_tokens=13, stop="answer")
    every, seldom = (
        LocalEngine(model, tiny_tokenizer(), 10**6, look_every=look).sample(
            tiny_prompts([(2, 2), (3, 5)], [5, 9]), group_size=4, sampling=sampling, seed=3
        )
        for look in (1, 5)
    )
    # Some end early, at tokens between two looks.
    assert len(set(every.lengths.flatten().tolist())) > 2
    assert torch.equal(every.tokens, seldom.tokens)
    assert torch.equal(every.mask, seldom.mask)
    assert torch.equal(every.finished, seldom.finished)
    torch.testing.assert_close(every.logprobs, seldom.logprobs)
    assert every.texts == seldom.texts
