"""Distillation as a Lightning module: a student learns a teacher's texts and scores (RALI).

    loss = mean (z(e_i) - y_i)^2 + w contrastive(e, t)

e_i: embeddings of a step's images, y_i: the teacher's mean scores, standardised over the training
images; t_ik: projections of the mean hidden states of its K answers. The contrastive term is CLIP's
with in-batch negatives, the K answers of an image all positive:

    - mean_ik log softmax_i'k'(s e_i t_i'k')_ik  - mean_ik log softmax_i'(s e_i' t_ik)_i,  halved

In the last steps (`DistillSettings.tuned`) the encoder stays, the head is fitted to all training
images (`Student.fit`), and then it alone is tuned by the squared error. No MOS is used. The fit is
a part of the step before them or, where a stop was asked for in it, of the first of them; without
such steps it is a part of the last step, and no stop breaks it off.

Not here: the teacher's answers (`teacher_answers.py`), the student (`vqr1.student`).

Shape legend: B images of a batch, K answers each, D numbers of an embedding, H hidden size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vqr1.config import TrainConfig
from vqr1.data.datamodule import RankingDataModule
from vqr1.data.labels import Split
from vqr1.distributed.stop_requests import StopRequests
from vqr1.iqa.correlation import srcc
from vqr1.policy.export import written_aside
from vqr1.policy.loading import Policy
from vqr1.policy.memory import peak_memory_mib
from vqr1.records import RankingBatch
from vqr1.student.folder import save_student
from vqr1.student.model import Student, StudentEngine
from vqr1.training.schedule import learning_rate_factor
from vqr1.training.stages.module import StageModule
from vqr1.training.stages.teacher_answers import TeacherAnswers, rows_of, split_rows
from vqr1.training.step import StepRecord, UpdateSettings
from vqr1.training.validation import Validator

SPLITS: tuple[Split, ...] = ("train", "val")
"""What a head is fitted to, and what its error is of."""


@dataclass(frozen=True)
class DistillSettings:
    """What the steps need beside student and answers.

    Attributes:
        align_weight: w; 0 learns scores alone.
        head_lr: peak learning rate of all that is not the encoder.
        train_encoder: whether the encoder learns.
        tuned: steps at the end that tune the fitted head.
        seed: of k-means.
    """

    align_weight: float
    head_lr: float
    train_encoder: bool
    tuned: int
    seed: int


def contrastive_loss(images: Tensor, texts: Tensor, log_scale: Tensor) -> Tensor:
    """[] CLIP's loss with several texts an image; see the module's header.

    Args:
        images: [B, D] embeddings.
        texts: [B, K, D] embeddings.
        log_scale: [] logarithm of s.
    """
    count, answers = texts.shape[:2]
    first = nn.functional.normalize(images, dim=1)
    second = nn.functional.normalize(texts.flatten(0, 1), dim=1)
    logits = (first @ second.mT) * log_scale.exp().clamp(max=100.0)
    own = torch.arange(count, device=images.device).repeat_interleave(answers)
    places = torch.arange(count * answers, device=images.device)
    to_texts = logits.log_softmax(dim=1)[own, places]
    to_images = logits.log_softmax(dim=0)[own, places]
    return -0.5 * (to_texts.mean() + to_images.mean())


class Alignment(nn.Module):
    """Projects the teacher's texts to the student's embeddings.

    Args:
        hidden: H.
        embedding: D.
    """

    def __init__(self, hidden: int, embedding: int) -> None:
        super().__init__()
        self.texts = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, embedding))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, embeddings: Tensor, states: Tensor) -> Tensor:
        """[] contrastive loss of [B, D] embeddings and [B, K, H] states."""
        return contrastive_loss(embeddings, self.texts(states), self.log_scale)


class DistillModule(StageModule):
    """Student and the distillation step.

    Args:
        student: the student.
        teacher: whose processor reads the images; its weights are not kept.
        answers: the teacher's.
        data: the training images, for fits.
        validator: evaluates validation batches by the student.
        settings: the optimiser steps' settings.
        distill: what else the steps need.
        hidden: H.
        stops: asked for a stop after every batch of a fit.
    """

    def __init__(
        self,
        student: Student,
        teacher: Policy,
        answers: TeacherAnswers,
        data: RankingDataModule,
        validator: Validator,
        settings: UpdateSettings,
        distill: DistillSettings,
        hidden: int,
        stops: StopRequests,
    ) -> None:
        policy = Policy(student, teacher.processor, teacher.source, teacher.revision)
        super().__init__(policy, StudentEngine(student), validator, settings)
        self.student = student
        self.alignment = Alignment(hidden, student.sizes.embedding)
        self._kind = str(teacher.family.model_class().config_class.model_type)
        self._answers, self._data, self._distill, self._stops = answers, data, distill, stops
        student.encoder.requires_grad_(distill.train_encoder)
        scores = answers.targets([r for r in split_rows(data, "train") if r in answers.scores])
        student.mean.copy_(scores.mean())
        student.std.copy_(scores.std(correction=0).clamp(min=1e-4))

    def configure_optimizers(self) -> Any:
        """AdamW with two peak learning rates, and one schedule for both."""
        own, settings = self._distill, self._update_settings.optimizer
        encoder = [p for p in self.student.encoder.parameters() if p.requires_grad]
        head = [*self.student.head_parameters(), *self.alignment.parameters()]
        groups: list[dict[str, Any]] = [{"params": head, "lr": own.head_lr}]
        groups += [{"params": encoder, "lr": settings.lr}] if encoder else []
        optimizer = torch.optim.AdamW(
            groups, betas=settings.betas, weight_decay=settings.weight_decay
        )
        total = self._update_settings.total_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, total, settings)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The student trains under one strategy: its optimizer state is as it was saved."""

    def training_step(self, batch: RankingBatch, batch_idx: int) -> None:
        """Learn from the teacher's answers to one batch."""
        started = time.perf_counter()
        learning_rate = self.learning_rate
        begun = self._update_settings.total_steps - self._distill.tuned
        tuning = self.global_step >= begun
        if tuning and not self.student.fitted:
            self._fit(at_once=True)
        terms = self._terms(batch, tuning)
        grad_norm = self._step(list(terms.values()))
        if self.global_step == begun:
            # Without a step after it there is no later one to fit in.
            self._fit(at_once=not self._distill.tuned)
        values = {name: float(term.detach()) for name, term in terms.items()}
        metrics = {
            "loss": sum(values.values()),
            **values,
            "grad_norm": grad_norm,
            "lr": learning_rate,
            "time/update": time.perf_counter() - started,
            "memory_mib": peak_memory_mib(self.device),
        }
        self.last_step = StepRecord(batch, metrics, math.isfinite(grad_norm), "")
        self._log({f"train/{name}": value for name, value in metrics.items()}, len(batch))

    def _terms(self, batch: RankingBatch, tuning: bool) -> dict[str, Tensor]:
        """The weighted terms of the loss; none where no image of the batch has a score."""
        known, rows = self._answers.known(batch), rows_of(batch)
        if not known:
            # The step is taken all the same, so that step count and schedule continue.
            return {}
        student, images = self.student, batch.prompts.flat_images
        student.eval()
        learns = self._distill.train_encoder and not tuning
        if learns:
            student.encoder.fit_mode()
        with torch.set_grad_enabled(learns or not tuning):
            embeddings = student.embed([images[b].to(self.device) for b in known])
        scores = self._answers.targets([rows[b] for b in known])
        targets = student.standardise(scores.to(embeddings))
        with torch.enable_grad():
            errors = student.standardised(embeddings) - targets
            terms = {"score_loss": errors.square().mean()}
            if self._distill.align_weight and not tuning:
                states = torch.stack([self._answers.states[rows[b]] for b in known])
                loss = self.alignment(embeddings, states.to(embeddings))
                terms["align_loss"] = self._distill.align_weight * loss
        return terms

    def _step(self, terms: Sequence[Tensor]) -> float:
        """One optimiser step; the norm of the gradient before clipping.

        Args:
            terms: [] each, of the loss; without any no parameter has a gradient, and none changes.
        """
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        optimizer.zero_grad()
        if terms:
            self.manual_backward(torch.stack(list(terms)).sum())
        limit = self._update_settings.optimizer.max_grad_norm
        parameters = [p for p in self.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit or math.inf))
        if not math.isfinite(norm):
            optimizer.zero_grad()
        optimizer.step()
        schedule.step()
        return norm

    @torch.no_grad()
    def _fit(self, at_once: bool) -> None:
        """Fit the head to all training images, and take its error on the validation images.

        Args:
            at_once: whatever asks for a stop; False then fits nothing.
        """
        student = self.student.eval()
        train, (embeddings, targets) = (self._embedded(s, at_once) for s in SPLITS)
        if not at_once and self._stops.asked():
            return
        student.fit(*train, self._distill.seed)
        errors = student.std * (student.standardised(embeddings) - targets)
        student.error.copy_(errors.square().mean().sqrt())

    def _embedded(self, split: Split, whole: bool) -> tuple[Tensor, Tensor]:
        """Embeddings and standardised scores of a split's images that the teacher has scored.

        Args:
            split: of the images.
            whole: of all of them; False breaks off where a stop is asked for.
        """
        found: list[Tensor] = []
        targets: list[Tensor] = []
        for batch in self._data.eval_dataloader(split):
            if found and not whole and self._stops.asked():
                break
            known, rows = self._answers.known(batch), rows_of(batch)
            if known:
                images = [batch.prompts.flat_images[b].to(self.device) for b in known]
                found.append(self.student.embed(images))
                targets.append(self._answers.targets([rows[b] for b in known]))
        return torch.cat(found), self.student.standardise(torch.cat(targets).to(self.device))

    def on_validation_epoch_end(self) -> None:
        """Log `val/srcc` and its companions, and agreement with the teacher."""
        super().on_validation_epoch_end()
        found = self.validator.predictions
        if found is None:
            return
        rows = list(zip(found.datasets, found.index.tolist(), strict=True))
        places = [n for n, row in enumerate(rows) if row in self._answers.scores]
        teacher = self._answers.targets([rows[n] for n in places]).double().numpy()
        self._log({"val/srcc_teacher": srcc(found.image_scores()[places], teacher)})

    def export(self, folder: Path, config: TrainConfig) -> None:
        """See `StageModule.export`."""
        model, reader = config.model, self.policy.processor.image_processor
        with written_aside(folder) as aside:
            save_student(
                self.student, aside, reader, self._kind, model.min_pixels, model.max_pixels
            )
