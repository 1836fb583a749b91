"""Groups whose rewards do not differ are answered again, the same in every run."""

from __future__ import annotations

import torch

from tests.support.tiny_models import tiny_model
from tests.training.test_grpo import B, K, PatternReward, fit, make_module, ranking_batch
from vqr1.config import GrpoConfig
from vqr1.records import Rollout
from vqr1.training.resampling import replace_groups
from vqr1.training.step import step_seed


def rollout(lengths: list[list[int]], value: int) -> Rollout:
    """Responses of so many tokens, all of one number; log-probabilities minus that."""
    longest = max(max(row) for row in lengths)
    counts = torch.tensor(lengths)
    mask = torch.arange(longest) < counts[:, :, None]
    tokens = torch.where(mask, value, 0)
    texts = [[f"{value}" * n for n in row] for row in lengths]
    return Rollout(tokens, mask, texts, counts > 1, -tokens.float())


def test_replaced_groups_by_hand() -> None:
    first, fresh = rollout([[1, 2], [2, 1], [1, 1]], 3), rollout([[3, 1]], 5)
    joined = replace_groups(first, [1], fresh)
    # Padded to the longer of both; the other groups stay as they are.
    assert joined.tokens.tolist() == [
        [[3, 0, 0], [3, 3, 0]], [[5, 5, 5], [5, 0, 0]], [[3, 0, 0], [3, 0, 0]]
    ]  # fmt: skip
    assert joined.lengths.tolist() == [[1, 2], [3, 1], [1, 1]]
    assert joined.texts == [["3", "33"], ["555", "5"], ["3", "3"]]
    assert joined.finished.tolist() == [[False, True], [True, False], [False, False]]
    assert joined.logprobs is not None
    assert joined.logprobs[1, 0].tolist() == [-5.0, -5.0, -5.0]
    assert replace_groups(first, [], fresh) is first


class ThirdTime(PatternReward):
    """The last image's rewards differ from the third rewarding on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __call__(self, inputs: object) -> torch.Tensor:
        grid = super().__call__(inputs)  # type: ignore[arg-type]
        self.calls += 1
        if self.calls >= 3:
            grid[-1] = torch.arange(grid.shape[1]).float()
        return grid


def test_a_step_samples_again_until_rewards_differ() -> None:
    seeds, texts, found = [], [], []
    for tries in (0, 5, 5):
        module, engine = make_module(
            tiny_model(seed=1), ThirdTime(),
            grpo=GrpoConfig(group_size=K, resample_zero_variance=tries),
        )  # fmt: skip
        sample, drawn = engine.sample, []
        engine.sample = lambda p, _s=sample, _d=drawn, **k: (
            _d.append((len(p), k["seed"])) or _s(p, **k)
        )  # type: ignore[method-assign, func-returns-value, misc]
        fit(module, ranking_batch(), 1)
        assert module.last_step is not None
        seeds.append(drawn)
        found.append(module.last_step)
        texts.append(module.last_step.scored.rollout.tokens)
    # Rewarded three times: all B images at first, then twice the last one alone.
    assert seeds[1] == [(B, step_seed(3, 0)), (1, step_seed(3, 0, 1)), (1, step_seed(3, 0, 2))]
    assert seeds[0] == seeds[1][:1]
    assert found[0].scored.has_variance.tolist() == [True, True, False]
    assert found[1].scored.has_variance.tolist() == [True, True, True]
    # Two groups sampled again, of three.
    assert abs(found[1].metrics["resampled_rate"] - 2 / 3) < 1e-6
    assert "resampled_rate" not in found[0].metrics
    # The other images keep their responses; a run that is repeated draws the same.
    width = min(texts[0].shape[2], texts[1].shape[2])
    assert texts[0][:-1, :, :width].equal(texts[1][:-1, :, :width])
    assert texts[1].equal(texts[2])
    assert seeds[1] == seeds[2]


def test_tries_are_bounded() -> None:
    module, _ = make_module(
        tiny_model(seed=1), PatternReward(same=True),
        grpo=GrpoConfig(group_size=K, resample_zero_variance=2),
    )  # fmt: skip
    fit(module, ranking_batch(), 1)
    assert module.last_step is not None
    # All three groups, twice.
    assert module.last_step.metrics["resampled_rate"] == 2.0
    assert module.last_step.metrics["zero_variance_rate"] == 1.0
