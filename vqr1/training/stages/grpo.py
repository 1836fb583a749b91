"""The ranking step as a Lightning module: owns policy, reference and optimiser; only wires.

One step is one ranking batch: sample K responses per image, parse, reward and normalise them, then
update the policy on the response tokens of all groups with non-zero variance. The mathematics lives
in `losses/`, `advantages/` and `vqr1.iqa`; sampling and log-probabilities at the interfaces
of `vqr1.rollout` and `vqr1.policy.shared_prompt`. Not here: what all stages share (`module.py`).
Shapes: see `vqr1.records`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import Tensor

from vqr1.data.degraded import degraded_prompts
from vqr1.data.task_sets import part_name
from vqr1.distributed.collectives import all_reduce_max, raise_on_all_ranks
from vqr1.policy.loading import Policy, vision_trains
from vqr1.policy.memory import peak_memory_mib
from vqr1.policy.reference import FrozenCopy, Reference, make_reference
from vqr1.policy.shared_prompt import plan_micro_batches, response_logprobs
from vqr1.policy.vision import VisionCache, VisionFeatures, encode_images
from vqr1.records import LossOutput, RankingBatch, Rollout, ScoredRollout
from vqr1.rollout.engine import RolloutEngine
from vqr1.training.advantages.base import fields_of
from vqr1.training.ahead import RolloutAhead
from vqr1.training.importance_sampling import importance_factors, mismatch_metrics
from vqr1.training.losses.averaging import Averaging, token_weights
from vqr1.training.losses.base import LossInputs
from vqr1.training.losses.falling import falling_share
from vqr1.training.losses.over_ranks import denominators_over_ranks, total_over_ranks
from vqr1.training.losses.perception import PerceptionTerm, perception_weight
from vqr1.training.resampling import Scored, resample_zero_variance
from vqr1.training.scored_rollout import sampled_entropy, score_rollout
from vqr1.training.stages.module import StageModule
from vqr1.training.step import RankingStep, StepSettings, non_finite_cause, step_seed
from vqr1.training.task import Task, task_metric
from vqr1.training.token_fields import credit_tokens, field_masks
from vqr1.training.validation import Validator


class GrpoModule(StageModule):
    """Policy, frozen reference and the group-sampling step.

    Args:
        policy: the model to train.
        engine: samples responses from `policy.model`.
        tasks: how responses to a batch of each task are read and rewarded, by name.
        validator: evaluates validation batches.
        settings: the step's settings.
        vision_cache: keeps the features of the tower that does not change: the policy's where it is
            frozen, else the reference's. None computes them at every step.
        ahead: responses to the next batch while this one is updated; None samples in each step.
    """

    last_step: RankingStep | None

    engine: RolloutEngine

    def __init__(
        self,
        policy: Policy,
        engine: RolloutEngine,
        tasks: Mapping[str, Task],
        validator: Validator,
        settings: StepSettings,
        vision_cache: VisionCache | None = None,
        ahead: RolloutAhead | None = None,
    ) -> None:
        super().__init__(policy, engine, validator, settings, vision_cache)
        self.ahead = ahead
        self.tasks = tasks
        self._sampling = {
            name: settings.sampling.ending_with(task.answer.closing) for name, task in tasks.items()
        }
        self.settings = settings
        # Why one of the step's updates was skipped; None where none was.
        self._cause: str | None = None
        # Not a submodule: checkpoints hold the policy only, and the copy never trains.
        self._reference: list[Reference | None] = [
            make_reference(
                policy.model,
                settings.loss.kl_weight,
                settings.reference,
                half=settings.half_reference,
            )
        ]

    @property
    def reference(self) -> Reference | None:
        """The frozen reference, None when the KL weight is 0."""
        return self._reference[0]

    def configure_callbacks(self) -> list[L.Callback]:
        """What cancels the responses under way where training ends before they are used."""
        fits = self.trainer.state.fn == "fit"
        return [self.ahead] if fits and self.ahead is not None else []

    def training_step(self, batch: RankingBatch, batch_idx: int) -> None:
        """Sample, reward and update on one ranking batch."""
        started = time.perf_counter()
        self.last_step = None  # its images are on the device
        # Dropout would make the sampling and the training distribution differ.
        self.model.eval()
        vision, scored, answer_metrics = self._sample(batch)
        self._ask_ahead()
        sampled = time.perf_counter()
        # A second set of weights is full in every process.
        own_weights = isinstance(self.reference, FrozenCopy)
        with nullcontext() if own_weights else self.sharding.unsharded():
            reference = self._reference_logprobs(batch, scored, vision.detach())
        referred = time.perf_counter()
        learning_rate = self.learning_rate
        loss, grad_norm, further = self._update(batch, scored, reference, vision)
        finished = time.perf_counter()
        metrics = {
            **{task_metric(batch.task, name): value for name, value in answer_metrics.items()},
            **sampled_entropy(scored.rollout),
            **further,
            "loss": float(loss.loss),
            "policy_loss": float(loss.policy_loss),
            "kl": float(loss.kl),
            "clip_fraction": float(loss.clip_fraction),
            "grad_norm": grad_norm,
            "lr": learning_rate,
            "time/rollout": sampled - started,
            "time/reference": referred - sampled,
            "time/update": finished - referred,
            "memory_mib": peak_memory_mib(self.device),
        }
        cause = self._cause
        self.last_step = RankingStep(batch, metrics, cause is None, cause or "", scored)
        self._log({f"train/{name}": value for name, value in metrics.items()}, len(batch))

    def _sample(
        self, batch: RankingBatch
    ) -> tuple[VisionFeatures, ScoredRollout, dict[str, float]]:
        """Image features, and responses with their rewards and the metrics of both."""
        settings = self.settings
        early = None if self.ahead is None else self.ahead.take(batch)
        vision = self._encode_trained(batch) if vision_trains(self.model) else None
        with self.sharding.unsharded():
            if vision is None:
                # By full weights: processes need not know the same images already.
                vision = self._encode_frozen(self.model, batch.prompts)
            self.engine.synchronise()
            rollout = early or self._responses(batch, range(len(batch)), 0, vision.detach())
        scored, metrics = self._score(batch, rollout)
        if settings.grpo.resample_zero_variance:
            scored, metrics = self._resampled(batch, (scored, metrics))
        fields = fields_of(settings.advantage)
        if fields:
            masks = self._fields(batch, scored.rollout, fields)
            scored = replace(scored, advantages=credit_tokens(scored.advantages, masks))
        return vision, scored, metrics

    def _ask_ahead(self) -> None:
        """Ask for the next step's responses, by the weights that this step has sent."""
        if self.ahead is None:
            return
        self.ahead.forget()
        step = self.global_step + self.settings.grpo.num_iterations
        if step < self.settings.total_steps:
            self.ahead.ask(self.engine, self._sampling, step_seed(self.settings.seed, step))

    def on_validation_epoch_start(self) -> None:
        """See `StageModule`; the weights are not replaced while responses are under way."""
        if self.ahead is not None:
            self.ahead.finish()
        super().on_validation_epoch_start()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the next step's responses with a whole state; the best weights need none."""
        if self.ahead is not None and "optimizer_states" in checkpoint:
            checkpoint["rollout_ahead"] = self.ahead.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them over."""
        super().on_load_checkpoint(checkpoint)
        if self.ahead is not None:
            self.ahead.load_state(checkpoint.get("rollout_ahead", []))

    def _responses(
        self,
        batch: RankingBatch,
        rows: Sequence[int],
        attempt: int,
        vision: VisionFeatures | None = None,
    ) -> Rollout:
        """K responses to some of a batch's prompts, drawn in this step for the so many-th time."""
        return raise_on_all_ranks(
            lambda: self.engine.sample(
                batch.prompts.choose(rows),
                group_size=self.settings.grpo.group_size,
                sampling=self._sampling[batch.task],
                seed=step_seed(self.settings.seed, self.global_step, attempt),
                vision=vision,
            )
        )

    def _score(self, batch: RankingBatch, rollout: Rollout) -> Scored:
        """Rewards and advantages of a batch's responses."""
        settings, task = self.settings, self.tasks[batch.task]
        return score_rollout(
            rollout,
            batch.mos,
            task.rewards,
            answer=task.answer,
            advantage=settings.advantage,
            dataset=part_name(batch.task, batch.dataset),
            pool=settings.grpo.pool,
            images=batch.index,
            mos_range=settings.mos_range(batch.dataset, task.answer.score_range),
            labels=batch.labels,
            pairs=settings.pairs.get(part_name(batch.task, batch.dataset)),
        )

    def _resampled(self, batch: RankingBatch, first: Scored) -> Scored:
        with self.sharding.unsharded():
            return resample_zero_variance(
                first,
                self.settings.grpo.resample_zero_variance,
                # Features of some images only: the engine finds or computes them.
                lambda rows, attempt: self._responses(batch, rows, attempt),
                lambda rollout: self._score(batch, rollout),
            )

    def _fields(
        self, batch: RankingBatch, rollout: Rollout, names: Sequence[str]
    ) -> dict[str, Tensor]:
        """[B, K, C] bool tokens of fields of the answer, by name; nothing is looked for in vain."""
        if not names:
            return {}
        answer = self.tasks[batch.task].answer
        return field_masks(rollout, answer, names, self.policy.processor.tokenizer)

    @property
    def _kl_share(self) -> float:
        """Of the KL's weight, in the next optimiser step."""
        return falling_share(self.global_step, self.settings.total_steps, self.settings.kl_until)

    def _reference_logprobs(
        self, batch: RankingBatch, scored: ScoredRollout, vision: VisionFeatures
    ) -> Tensor | None:
        reference, signal = self.reference, bool(scored.has_variance.any())
        # Its shards are gathered by all processes, or by none.
        if reference is None or self._kl_share == 0 or not all_reduce_max(signal):
            return None
        mask = scored.rollout.mask & scored.has_variance[:, None, None]
        with reference.weights() as model:
            if not signal:
                return None
            if not reference.shares_vision:
                vision = self._encode_frozen(model, batch.prompts)
            return response_logprobs(
                model,
                batch.prompts,
                scored.rollout.tokens,
                mask,
                temperature=self.settings.sampling.temperature,
                vision=vision,
                micro_batch_tokens=self.settings.micro_batch_tokens,
            ).logprobs

    def _update(
        self,
        batch: RankingBatch,
        scored: ScoredRollout,
        reference: Tensor | None,
        vision: VisionFeatures,
    ) -> tuple[LossOutput, float, dict[str, float]]:
        """All inner iterations on one rollout, none beyond the last step of the training.

        Returns:
            Loss, gradient norm and further metrics of the last one, among them how far the engine
            was from the trainer.
        """
        old: Tensor | None = None
        self._cause = None
        left = max(self.settings.total_steps - self.global_step, 1)
        for iteration in range(min(self.settings.grpo.num_iterations, left)):
            if iteration > 0 and vision_trains(self.model):
                vision = self._encode_trained(batch)
            perception = self._perception_term(batch, scored)
            loss, grad_norm, logprobs = self._iterate(
                batch, scored, reference, old, vision, perception
            )
            # On policy, the first pass's own log-probabilities are the old ones.
            old = logprobs if old is None else old
        assert old is not None
        further = {} if perception is None else perception.metrics(logprobs)
        engine = scored.rollout.logprobs
        if engine is None:
            return loss, grad_norm, further
        mask = scored.rollout.mask & scored.has_variance[:, None, None]
        cap = self.settings.importance_cap
        return loss, grad_norm, {**further, **mismatch_metrics(old, engine, mask, cap)}

    def _perception_term(self, batch: RankingBatch, scored: ScoredRollout) -> PerceptionTerm | None:
        """The same responses given degraded copies, under the policy before an update."""
        config = self.settings.perception
        if config is None:
            return None
        gamma = perception_weight(config, self.global_step, self.settings.total_steps)
        if gamma == 0:
            return None
        rollout = scored.rollout
        names = [[f"{batch.dataset}/{name}" for name in images] for images in batch.images]
        copies = degraded_prompts(batch.prompts, names, config.degradation, self.settings.seed)
        # With full weights, processes need not make the same passes.
        with self.sharding.unsharded(), torch.no_grad():
            degraded = response_logprobs(
                self.model,
                copies,
                rollout.tokens,
                rollout.mask & scored.has_variance[:, None, None],
                temperature=self.settings.sampling.temperature,
                vision=encode_images(self.model, copies)
                if vision_trains(self.model)
                else self._encode_frozen(self.model, copies),
                micro_batch_tokens=self.settings.micro_batch_tokens,
            ).logprobs
        weights = self._token_weights(scored, "token_mean")
        return PerceptionTerm(gamma, degraded, weights.to(degraded.device))

    def _token_weights(self, scored: ScoredRollout, averaging: Averaging) -> Tensor:
        """[B, K, C] weight of each token in the mean over the step of all ranks."""
        return token_weights(
            scored.rollout.mask,
            scored.has_variance,
            averaging,
            self.settings.sampling.max_new_tokens,
            denominators_over_ranks(scored.rollout.mask),
        )

    def _iterate(
        self,
        batch: RankingBatch,
        scored: ScoredRollout,
        reference: Tensor | None,
        old: Tensor | None,
        vision: VisionFeatures,
        perception: PerceptionTerm | None,
    ) -> tuple[LossOutput, float, Tensor]:
        """One optimiser step, its gradient added up over micro-batches of images."""
        rollout = scored.rollout
        weights = self._token_weights(scored, self.settings.loss.averaging)
        mask = rollout.mask & scored.has_variance[:, None, None]
        # Passes count their tokens on the host.
        counted = mask.cpu()
        planned = plan_micro_batches(batch.prompts, counted, self.settings.micro_batch_tokens)
        parts = [part for part in planned if bool(counted[part].any())]
        outputs: list[LossOutput] = []
        logprobs = torch.zeros_like(weights)
        loss, fields = self.settings.loss, self._fields(batch, rollout, self.settings.loss.fields)

        def loss_of(part: slice, leaves: VisionFeatures) -> Tensor:
            found = response_logprobs(
                self.model,
                batch.prompts.select(part.start, part.stop),
                rollout.tokens[part],
                counted[part],
                temperature=self.settings.sampling.temperature,
                vision=leaves.select(part.start, part.stop),
                with_entropy=loss.needs_entropies,
            )
            current = found.logprobs
            logprobs[part] = current.detach()
            before = current.detach() if old is None else old[part]
            output = loss(
                LossInputs(
                    logprobs=current,
                    old=before,
                    sampler=None if rollout.logprobs is None else rollout.logprobs[part],
                    reference=None if reference is None else reference[part],
                    mask=mask[part],
                    advantages=scored.advantages[part],
                    weights=weights[part],
                    importance=importance_factors(
                        before, rollout.logprobs, part, self.settings.importance_cap
                    ),
                    lengths=rollout.lengths[part],
                    entropies=found.entropy,
                    fields={name: mask_[part] for name, mask_ in fields.items()},
                    kl_share=self._kl_share,
                )
            )
            if perception is not None:
                output = replace(output, loss=output.loss + perception.loss(part, current))
            outputs.append(output)
            return output.loss

        grad_norm = self.update(
            parts, vision, loss_of, lambda leaves: self._idle_pass(batch, rollout, leaves)
        )
        if not math.isfinite(grad_norm):
            self._cause = non_finite_cause(scored, reference, logprobs)
        return total_over_ranks(outputs, weights), grad_norm, logprobs

    def _idle_pass(self, batch: RankingBatch, rollout: Rollout, leaves: VisionFeatures) -> Tensor:
        """A scalar of a pass like those of the micro-batches."""
        return response_logprobs(
            self.model,
            batch.prompts.select(0, 1),
            rollout.tokens[:1],
            rollout.mask[:1],
            vision=leaves.select(0, 1),
        ).logprobs.sum()
