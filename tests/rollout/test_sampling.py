"""Drawing tokens: the distribution, the cuts and the noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import RepetitionPenaltyLogitsProcessor

from vqr1.config import SamplingConfig
from vqr1.rollout.sampling import draw, penalised, uniform_noise

NOTHING = torch.empty(0, dtype=torch.long)
LOGITS = torch.log(torch.tensor([[0.5, 0.2, 0.15, 0.1, 0.05]]))


def frequencies(sampling, banned=NOTHING, draws=20000):
    """How often each of the five tokens comes, with evenly standard deviation noise."""
    noise = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    tokens, _ = draw(LOGITS.repeat(draws, 1), noise, sampling, banned)
    return (torch.bincount(tokens, minlength=5) / draws).numpy()


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (SamplingConfig(), [0.5, 0.2, 0.15, 0.1, 0.05]),
        # Two likeliest: 0.5 / 0.7, 0.2 / 0.7.
        (SamplingConfig(top_k=2), [5 / 7, 2 / 7, 0, 0, 0]),
        # 0.5 + 0.2 = 0.7 < 0.75, so the third token is needed: 0.5 / 0.85, ...
        (SamplingConfig(top_p=0.75), [0.5 / 0.85, 0.2 / 0.85, 0.15 / 0.85, 0, 0]),
        # Of the three likeliest (sum 0.85), 0.5 / 0.85 = 0.59 < 0.6: two stay.
        (SamplingConfig(top_k=3, top_p=0.6), [5 / 7, 2 / 7, 0, 0, 0]),
        (SamplingConfig(top_p=1e-6), [1, 0, 0, 0, 0]),
        (SamplingConfig(temperature=0.0), [1, 0, 0, 0, 0]),
        # p^2 / sum p^2 with sum .25 + .04 + .0225 + .01 + .0025 = .325.
        (
            SamplingConfig(temperature=0.5),
            [0.25 / 0.325, 0.04 / 0.325, 0.0225 / 0.325, 0.01 / 0.325, 0.0025 / 0.325],
        ),
    ],
)
def test_frequencies_equal_the_cut_distribution(sampling, expected):
    np.testing.assert_allclose(frequencies(sampling), expected, atol=2e-4)


def test_banned_tokens_never_come_and_the_rest_keeps_its_proportions():
    banned = torch.tensor([0, 3])
    # 0.2 + 0.15 + 0.05 = 0.4 is left.
    np.testing.assert_allclose(
        frequencies(SamplingConfig(), banned), [0, 0.5, 0.375, 0, 0.125], atol=2e-4
    )
    np.testing.assert_allclose(frequencies(SamplingConfig(temperature=0.0), banned)[1], 1)


@pytest.mark.parametrize("sampling", [SamplingConfig(), SamplingConfig(top_k=1, top_p=0.1)])
def test_logprobs_are_those_of_the_whole_distribution(sampling):
    tokens, logprobs = draw(LOGITS.clone(), torch.tensor([0.0]).double(), sampling, NOTHING)
    assert tokens.tolist() == [0]
    torch.testing.assert_close(logprobs, torch.log(torch.tensor([0.5])))


def test_logprobs_count_the_temperature():
    _, logprobs = draw(
        LOGITS.clone(), torch.zeros(1).double(), SamplingConfig(temperature=0.5), NOTHING
    )
    torch.testing.assert_close(logprobs, torch.log(torch.tensor([0.25 / 0.325])))


def test_noise_at_the_edges_never_leaves_the_allowed_tokens():
    edge = torch.tensor([0.0, np.nextafter(1.0, 0.0)], dtype=torch.float64)
    banned = torch.tensor([0, 4])
    tokens, _ = draw(LOGITS.repeat(2, 1), edge, SamplingConfig(), banned)
    assert tokens.tolist() == [1, 3]


def test_noise_is_uniform_and_a_function_of_seed_image_and_response():
    keys = [(b"a" * 16,), (b"b" * 16,)]
    noise = uniform_noise(7, keys, 50, 100)
    assert noise.shape == (2, 50, 100)
    assert stats.kstest(noise.flatten().numpy(), "uniform").pvalue > 0.01
    assert torch.equal(uniform_noise(7, keys[1:], 50, 100)[0], noise[1])
    assert torch.equal(uniform_noise(7, keys, 3, 10), noise[:, :3, :10])
    assert not (uniform_noise(8, keys, 50, 100) == noise).any()
    # No two responses share their noise, not even those of one image that comes twice.
    twice = uniform_noise(7, [keys[0], keys[0]], 2, 5).view(4, 5)
    assert len({tuple(row.tolist()) for row in twice}) == 4


def test_noise_does_not_touch_the_global_random_state():
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    uniform_noise(1, [(b"c" * 16,)], 2, 3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


@pytest.mark.parametrize(
    "sampling",
    [SamplingConfig(), SamplingConfig(top_k=2, top_p=0.9), SamplingConfig(temperature=0.0)],
)
@pytest.mark.parametrize("broken", [[0.0, np.nan, 1.0], [0.0, np.inf, 1.0], [-np.inf] * 3])
def test_logits_that_are_no_numbers_show_in_the_logprob_of_their_row(sampling, broken):
    logits = torch.tensor([[0.0, 1.0, 2.0], broken])
    tokens, logprobs = draw(logits, torch.tensor([0.5, 0.5]).double(), sampling, NOTHING)
    assert ((tokens >= 0) & (tokens < 3)).all()
    assert torch.isfinite(logprobs).tolist() == [True, False]


def test_no_token_is_drawn_where_only_banned_ones_have_a_probability():
    # exp(-200) is 0 in float32: nothing is left beside the banned token.
    logits = torch.tensor([[200.0, 0.0, 0.0]])
    tokens, logprobs = draw(
        logits, torch.tensor([0.5]).double(), SamplingConfig(), torch.tensor([0])
    )
    assert tokens.tolist() == [0]
    assert logprobs.isnan().all()


@pytest.mark.parametrize("penalty", [0.8, 1.05, 2.0])
def test_the_repetition_penalty_is_that_of_the_model_library(penalty):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 40, generator=generator)
    # Tokens that come more than once count once.
    ids = torch.randint(0, 40, (3, 60), generator=generator)
    seen = torch.zeros(3, 40, dtype=torch.bool).scatter_(1, ids, True)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    assert torch.equal(penalised(logits, seen, penalty), expected)


def test_a_penalty_changes_what_is_drawn_and_no_log_probability():
    # Logits ln 4, 0 and -ln 2; a penalty of 2 on the first and the third makes them ln 4 / 2 = ln 2
    # and -2 ln 2 = ln .25, so that the shares are 2 : 1 : .25.
    logits = torch.log(torch.tensor([[4.0, 1.0, 0.5]]))
    seen = torch.tensor([[True, False, True]])
    draws = 20000
    noise = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    tokens, logprobs = draw(
        logits.repeat(draws, 1), noise, SamplingConfig(repetition_penalty=2.0), NOTHING,
        seen.expand(draws, -1),
    )  # fmt: skip
    found = (torch.bincount(tokens, minlength=3) / draws).numpy()
    np.testing.assert_allclose(found, [2 / 3.25, 1 / 3.25, 0.25 / 3.25], atol=2e-4)
    # Those of the policy: 4, 1 and .5 of 5.5.
    own = torch.log(torch.tensor([4.0, 1.0, 0.5]) / 5.5)
    torch.testing.assert_close(logprobs, own[tokens])
    # At temperature .5 after the penalty: squares of 2, 1, .25.
    cold = SamplingConfig(repetition_penalty=2.0, temperature=0.5)
    tokens, _ = draw(logits.repeat(draws, 1), noise, cold, NOTHING, seen.expand(draws, -1))
    found = (torch.bincount(tokens, minlength=3) / draws).numpy()
    np.testing.assert_allclose(found, np.array([4, 1, 0.0625]) / 5.0625, atol=2e-4)
    # Greedy: ln 4 - 1.5 = -.114, times 20 = -2.27, is below the second's -1.5.
    greedy = SamplingConfig(temperature=0.0, repetition_penalty=20.0)
    below = logits - 1.5
    tokens, logprobs = draw(below, torch.zeros(1).double(), greedy, NOTHING, seen)
    assert tokens.tolist() == [1]
    torch.testing.assert_close(logprobs, own[1:2])
