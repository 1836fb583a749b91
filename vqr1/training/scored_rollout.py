"""From sampled texts to rewards and advantages: the middle of the ranking step.

Shapes: see `vqr1.records`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vqr1.iqa.answers import AnswerFormat, parse_answer
from vqr1.records import Rollout, ScoredRollout
from vqr1.rewards import RewardInputs, WeightedRewards
from vqr1.training.advantages import group_advantages, groups_with_signal


def score_rollout(
    rollout: Rollout,
    mos: Tensor,
    rewards: WeightedRewards,
    *,
    answer_format: AnswerFormat,
    normalise_std: bool = True,
) -> ScoredRollout:
    """Parse the answers of a whole comparison pool and reward them.

    Args:
        rollout: K responses to each of B images of one data set.
        mos: [B] opinion scores scaled to [1, 5].
        rewards: the reward terms.
        answer_format: form that a response must have.
        normalise_std: divide advantages by the group's standard deviation.

    Raises:
        ValueError: a reward term gave a value that is not finite.
    """
    answers = [[parse_answer(text, answer_format) for text in texts] for texts in rollout.texts]
    device = rollout.tokens.device
    scores = torch.tensor(
        [[math.nan if a.score is None else a.score for a in row] for row in answers],
        dtype=torch.float32,
        device=device,
    )
    well_formed = torch.tensor([[a.well_formed for a in row] for row in answers], device=device)
    valid = torch.isfinite(scores)
    total, terms = rewards(RewardInputs(scores, valid, well_formed, mos.to(device)))
    for name, term in terms.items():
        if not bool(torch.isfinite(term).all()):
            raise ValueError(f"reward.terms.{name}: gave a reward that is not a finite number")
    return ScoredRollout(
        rollout=rollout,
        scores=scores,
        valid=valid,
        well_formed=well_formed,
        rewards=total,
        terms=terms,
        advantages=group_advantages(total, normalise_std=normalise_std),
        has_signal=groups_with_signal(total),
    )


def rollout_metrics(scored: ScoredRollout) -> dict[str, float]:
    """Figures of one step; each with its denominator.

    Returns:
        `reward/total` and `reward/<term>`: mean over all B x K responses;
        `invalid_rate`: answers without a score / responses;
        `well_formed_rate`: responses of the demanded form / responses;
        `truncated_rate`: responses cut by the length limit / responses;
        `zero_signal_rate`: groups whose rewards do not differ / groups;
        `response_length`: mean tokens of a response;
        `score_mean`: mean of all valid scores; `score_std`: mean over groups with two or more
        valid scores of their unbiased standard deviation. Either is absent where it is undefined.
    """
    valid_count = scored.valid.sum(dim=1)
    filled = torch.where(scored.valid, scored.scores, torch.zeros_like(scored.scores))
    mean = filled.sum(dim=1, keepdim=True) / valid_count.clamp_min(1)[:, None]
    squares = torch.where(scored.valid, (filled - mean) ** 2, torch.zeros_like(filled)).sum(dim=1)
    spread = (squares / (valid_count - 1).clamp_min(1)).sqrt()[valid_count >= 2]
    figures = {f"reward/{name}": term.mean() for name, term in scored.terms.items()}
    figures |= {
        "reward/total": scored.rewards.mean(),
        "invalid_rate": 1.0 - scored.valid.float().mean(),
        "well_formed_rate": scored.well_formed.float().mean(),
        "truncated_rate": 1.0 - scored.rollout.finished.float().mean(),
        "zero_signal_rate": 1.0 - scored.has_signal.float().mean(),
        "response_length": scored.rollout.lengths.float().mean(),
    }
    if valid_count.sum() > 0:
        figures["score_mean"] = filled.sum() / valid_count.sum()
    if len(spread):
        figures["score_std"] = spread.mean()
    return {name: float(value) for name, value in figures.items()}
