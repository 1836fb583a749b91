"""The supervised step as a Lightning module: the policy learns to write given responses.

One step is one batch of images of one set, each with one or several responses that continue its
prompt. Their log-probabilities come from the shared packed pass (`vqr1.policy.shared_prompt`), so
that prompt and image are computed once; what they are worth is an `Objective`:
`response_targets.py` (cross-entropy) or `soft_levels.py` (DeQA-Score).

Not here: what all stages share (`module.py`). Shapes: see `vqr1.records`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from vqr1.distributed.collectives import all_reduce_sum
from vqr1.policy.loading import Policy, vision_trains
from vqr1.policy.memory import peak_memory_mib
from vqr1.policy.shared_prompt import response_logprobs
from vqr1.policy.vision import VisionCache, VisionFeatures, runs_within
from vqr1.records import RankingBatch
from vqr1.rollout.engine import RolloutEngine
from vqr1.training.stages.module import StageModule
from vqr1.training.step import StepRecord, UpdateSettings
from vqr1.training.validation import Validator


class StepTargets(Protocol):
    """What a batch's images shall be answered, and what log-probabilities of it cost."""

    @property
    def tokens(self) -> Tensor:
        """[B, K, C] int64 response tokens."""
        ...

    @property
    def mask(self) -> Tensor:
        """[B, K, C] bool, True from each response's first token to its last."""
        ...

    @property
    def together(self) -> int:
        """Images in a row that one pass has to hold, such as 2 of pairs."""
        ...

    @property
    def weights(self) -> Mapping[str, float]:
        """By name of a term, its factor in the loss."""
        ...

    def terms(self, part: slice, logprobs: Tensor) -> dict[str, Tensor]:
        """By name, a micro-batch's share of each term, with gradient.

        Args:
            part: images of the batch.
            logprobs: [b, K, C] log-probabilities of their tokens, 0 where the mask is False.
        """
        ...


class Objective(Protocol):
    """Makes the targets of batches."""

    def targets(self, batch: RankingBatch) -> StepTargets:
        """Those of a batch's B images; called by all ranks at once, with their own batches."""
        ...


class SftModule(StageModule):
    """Policy and the supervised step.

    Args:
        policy: the model to train.
        engine: samples responses from `policy.model`, for validation alone.
        validator: evaluates validation batches.
        objective: what the images shall be answered.
        settings: the optimiser steps' settings.
        vision_cache: keeps the features of a tower that does not change.
    """

    def __init__(
        self,
        policy: Policy,
        engine: RolloutEngine,
        validator: Validator,
        objective: Objective,
        settings: UpdateSettings,
        vision_cache: VisionCache | None = None,
    ) -> None:
        super().__init__(policy, engine, validator, settings, vision_cache)
        self.objective = objective

    def training_step(self, batch: RankingBatch, batch_idx: int) -> None:
        """Learn one batch's responses."""
        started = time.perf_counter()
        # As in the ranking step: adapters' dropout, where there is any, stays off.
        self.model.eval()
        vision = self._features(batch)
        encoded = time.perf_counter()
        learning_rate = self.learning_rate
        targets = self.objective.targets(batch)
        grad_norm, terms = self._update(batch, targets, vision)
        metrics = {
            "loss": sum(targets.weights[name] * value for name, value in terms.items()),
            **terms,
            "grad_norm": grad_norm,
            "lr": learning_rate,
            "time/vision": encoded - started,
            "time/update": time.perf_counter() - encoded,
            "memory_mib": peak_memory_mib(self.device),
        }
        self.last_step = StepRecord(batch, metrics, math.isfinite(grad_norm), "")
        self._log({f"train/{name}": value for name, value in metrics.items()}, len(batch))

    def _features(self, batch: RankingBatch) -> VisionFeatures:
        if vision_trains(self.model):
            return self._encode_trained(batch)
        # By full weights: processes need not know the same images already.
        with self.sharding.unsharded():
            return self._encode_frozen(self.model, batch.prompts)

    def _update(
        self, batch: RankingBatch, targets: StepTargets, vision: VisionFeatures
    ) -> tuple[float, dict[str, float]]:
        """One optimiser step; the gradient's norm, and the terms of the loss over all ranks."""
        tokens, mask = targets.tokens.to(self.device), targets.mask.to(self.device)
        seen: list[Tensor] = []

        def logprobs_of(part: slice, leaves: VisionFeatures) -> Tensor:
            return response_logprobs(
                self.model,
                batch.prompts.select(part.start, part.stop),
                tokens[part],
                mask[part],
                vision=leaves.select(part.start, part.stop),
            ).logprobs

        def loss_of(part: slice, leaves: VisionFeatures) -> Tensor:
            found = targets.terms(part, logprobs_of(part, leaves))
            seen.append(torch.stack([found[name].detach().float() for name in targets.weights]))
            parts = [targets.weights[name] * value for name, value in found.items()]
            return torch.stack(parts).sum()

        grad_norm = self.update(
            self._parts(batch, targets),
            vision,
            loss_of,
            lambda leaves: logprobs_of(slice(0, 1), leaves).sum(),
        )
        total = all_reduce_sum(torch.stack(seen).sum(dim=0)).tolist()
        return grad_norm, dict(zip(targets.weights, total, strict=True))

    def _parts(self, batch: RankingBatch, targets: StepTargets) -> list[slice]:
        """Micro-batches of images that fit the token budget and keep together what belongs so."""
        by, count = targets.together, len(batch)
        costs = [
            len(ids) + tokens
            for ids, tokens in zip(
                batch.prompts.input_ids, targets.mask.sum(dim=(1, 2)).tolist(), strict=True
            )
        ]
        groups = [sum(costs[first : first + by]) for first in range(0, count, by)]
        return [
            slice(first * by, min(last * by, count))
            for first, last in runs_within(groups, self._update_settings.micro_batch_tokens)
        ]
