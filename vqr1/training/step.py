"""What a step is given, and what it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vqr1.config import (
    GrpoConfig,
    OptimizerConfig,
    PerceptionConfig,
    ReferencePlace,
    SamplingConfig,
)
from vqr1.iqa.answers import ASKED_RANGE, ScoreRange
from vqr1.iqa.preferences import StatedPairs
from vqr1.records import RankingBatch, ScoredRollout
from vqr1.training.advantages import AdvantageRule
from vqr1.training.losses import PolicyLoss


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """What an optimiser step of any stage needs.

    Attributes:
        optimizer: AdamW and its schedule.
        micro_batch_tokens: most tokens in one forward and backward pass.
        total_steps: optimiser steps in all, for the schedule.
    """

    optimizer: OptimizerConfig
    micro_batch_tokens: int
    total_steps: int


@dataclass(frozen=True, kw_only=True)
class StepSettings(UpdateSettings):
    """Everything the ranking step needs beside models and rewards.

    Attributes:
        grpo: group size, pool, inner iterations.
        loss: the loss of the sampled tokens.
        advantage: the rule from rewards to advantages.
        sampling: how responses are drawn; each task ends them in its own way.
        seed: seed of the sampled responses.
        importance_cap: largest importance weight between engine and trainer; None corrects nothing.
        reference: where a second set of weights lies between its passes.
        half_reference: its linear layers have bfloat16 weights, as its passes take them.
        published_mos: names of the data sets whose MOS are as published, on the asked scale where
            a reward looks at more than their order.
        pairs: by data set, the stated preferences that are learnt from; empty where MOS are.
        perception: the term of degraded copies; None makes none.
        kl_until: share of the training after which the KL term is 0; None keeps it.
    """

    grpo: GrpoConfig
    loss: PolicyLoss
    advantage: AdvantageRule
    sampling: SamplingConfig
    seed: int
    importance_cap: float | None = None
    reference: ReferencePlace = "device"
    half_reference: bool = False
    published_mos: frozenset[str] = frozenset()
    pairs: Mapping[str, StatedPairs] = field(default_factory=dict)
    perception: PerceptionConfig | None = None
    kl_until: float | None = None

    def mos_range(self, dataset: str, asked: ScoreRange) -> ScoreRange:
        """Scale on which the MOS of a data set are, whose images are asked for such a score."""
        return asked if dataset in self.published_mos else ASKED_RANGE


@dataclass(frozen=True)
class StepRecord:
    """The step that was just taken, for whoever looks at it.

    Attributes:
        batch: its images.
        metrics: what it logged, by name.
        finite: False where the gradient was not and the update was excluded.
        cause: what else of the step was not finite then, on this rank; empty where nothing was.
    """

    batch: RankingBatch
    metrics: dict[str, float]
    finite: bool
    cause: str


@dataclass(frozen=True)
class RankingStep(StepRecord):
    """A step on sampled responses.

    Attributes:
        scored: its responses.
    """

    scored: ScoredRollout


def non_finite_cause(scored: ScoredRollout, reference: Tensor | None, policy: Tensor) -> str:
    """What a loss that is not finite was computed from; empty where all of it was finite.

    Args:
        scored: the step's responses.
        reference: [B, K, C] log-probabilities under the reference, None without one.
        policy: [B, K, C] log-probabilities under the policy.
    """
    sources = {
        "advantages": scored.advantages,
        "log-probabilities of the sampler": scored.rollout.logprobs,
        "log-probabilities under the reference": reference,
        "log-probabilities under the policy": policy,
    }
    for name, values in sources.items():
        if values is not None and not bool(torch.isfinite(values).all()):
            return name
    return ""


def step_seed(seed: int, step: int, attempt: int = 0) -> int:
    """Seed of one step's samples: a function of the run's seed, the step and the try.

    It is the same in every process: an image's samples depend on the seed and its content, so that
    it is the same sample however the images are dealt out.
    """
    words = (seed, step, attempt) if attempt else (seed, step)
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))
