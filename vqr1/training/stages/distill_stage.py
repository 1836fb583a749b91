"""`stage=distill`: a fast scorer. What a run asks of it; the step is `distill.py`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vqr1.config import TrainConfig
from vqr1.rewards import WeightedRewards
from vqr1.training.stages.base import Stage, StageParts

if TYPE_CHECKING:
    from vqr1.policy.loading import Policy
    from vqr1.student.model import Student
    from vqr1.training.stages.module import StageModule

_Count = Annotated[int, Field(ge=1)]
_Weight = Annotated[float, Field(ge=0)]


@dataclass(config={"extra": "forbid"}, kw_only=True, frozen=True)
class DistillStage(Stage):
    """A student learns the texts and scores of the model that the run begins with.

    Attributes:
        student: `tower` (the teacher's own, copied), or a timm architecture.
        tower_share: share of the tower's blocks, from the first, that the copy has.
        weights: safetensors file of the architecture's weights; None: random ones.
        image_size: edge of an architecture's images, in pixels.
        samples: answers of the teacher to each image.
        answers_from: folder of another run of this stage with the same teacher, images and draws,
            whose answers are taken; None asks the teacher.
        align: align the images with the teacher's texts.
        align_weight: of the contrastive term.
        train_encoder: train the encoder; false trains what comes after it.
        head: `prototypes` (RALI's) or `linear` (ridge regression).
        embedding: numbers of an embedding.
        components: principal components of prototypes.
        prototypes: how many.
        bins: bins of scores, inside of which prototypes are found.
        head_lr: peak learning rate of projections and head; the encoder's is `optimizer.lr`.
        tune_share: share of the steps, at the end, that tune the fitted head alone: one at least,
            or none with 0.
    """

    student: str = "tower"
    tower_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    weights: str | None = None
    image_size: Annotated[int, Field(ge=16)] = 224
    samples: _Count = 6
    answers_from: str | None = None
    align: bool = True
    align_weight: _Weight = 0.1
    train_encoder: bool = True
    head: Literal["prototypes", "linear"] = "prototypes"
    embedding: _Count = 64
    components: _Count = 32
    prototypes: _Count = 64
    bins: _Count = 24
    head_lr: Annotated[float, Field(gt=0)] = 1e-3
    tune_share: Annotated[float, Field(ge=0, lt=1)] = 0.2

    def build(self, parts: StageParts) -> StageModule:
        """See `Stage.build`; asks the teacher first."""
        import torch

        from vqr1.inference.request import Request
        from vqr1.student.model import StudentEngine
        from vqr1.training.stages.distill import DistillModule, DistillSettings
        from vqr1.training.stages.teacher_answers import teacher_answers
        from vqr1.training.step import UpdateSettings
        from vqr1.training.validation import ValidationModes, Validator

        config, policy = parts.config, parts.policy
        answers = teacher_answers(parts, self.samples, self.answers_from)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            student = self._student(policy, parts)
            request = Request(config.prompt, parts.answer, config.rollout.sampling, expected=True)
            return DistillModule(
                student,
                policy,
                answers,
                parts.data,
                Validator(
                    StudentEngine(student),
                    ValidationModes(request, None),
                    parts.validator.metrics,
                    parts.validator.pairs,
                ),
                UpdateSettings(
                    optimizer=config.optimizer,
                    micro_batch_tokens=config.hardware.micro_batch_tokens,
                    total_steps=parts.total_steps,
                ),
                DistillSettings(
                    align_weight=self.align_weight if self.align else 0.0,
                    head_lr=self.head_lr,
                    train_encoder=self.train_encoder,
                    tuned=self.tuned_steps(parts.total_steps),
                    seed=config.seed,
                ),
                next(iter(answers.states.values())).shape[1],
                parts.stops,
            )

    def tuned_steps(self, total_steps: int) -> int:
        """Steps at the end that tune the head alone."""
        return max(round(self.tune_share * total_steps), 1) if self.tune_share else 0

    def _student(self, policy: Policy, parts: StageParts) -> Student:
        from vqr1.policy.unwrap import unwrap
        from vqr1.student.encoders import (
            TOWER,
            ImageEncoder,
            TimmEncoder,
            TowerEncoder,
            share_of_blocks,
            tower_of,
        )
        from vqr1.student.model import Student, StudentSizes

        encoder: ImageEncoder
        if self.student == TOWER:
            model, reader = policy.model, policy.processor.image_processor
            blocks = share_of_blocks(model, self.tower_share)
            encoder = TowerEncoder(unwrap(model).config, reader, tower_of(model), blocks)
        else:
            encoder = TimmEncoder(self.student, self.image_size, self.weights)
        sizes = StudentSizes(self.head, self.embedding, self.components, self.prototypes, self.bins)
        return Student(encoder, sizes, parts.answer.score_range)

    def problems(self, config: TrainConfig, rewards: WeightedRewards) -> list[str]:
        """See `Stage.problems`."""
        model, problems = config.model, []
        if model.path is None and config.init_from is None:
            problems.append(
                "stage=distill: there is no teacher to learn from; give the run that trained it as "
                "init_from=, or its checkpoint as model.path="
            )
        if model.lora is not None:
            problems.append(
                "stage=distill, model.lora: a teacher learns nothing; set model.lora=null"
            )
        if config.prompt.images != 1:
            problems.append(
                f"stage=distill, prompt.images={config.prompt.images}: a student scores one image; "
                "choose a prompt about one"
            )
        if config.validation.questions is not None:
            problems.append(
                "stage=distill, validation.questions: a student answers no questions; set null"
            )
        if config.target == "self_vote":
            problems.append(
                "target=self_vote, stage=distill: votes are rewards of stage=grpo; in a chain give "
                "it to that entry (chain=['grpo target=self_vote',distill])"
            )
        checkpoint = config.callbacks.checkpoint
        if checkpoint is not None and checkpoint.monitor.endswith("_greedy"):
            problems.append(
                f"stage=distill, callbacks.checkpoint.monitor={checkpoint.monitor}: a student "
                f"samples nothing, and has no greedy metrics beside its own; use "
                f"{checkpoint.monitor.removesuffix('_greedy')}"
            )
        processes = config.hardware.devices * config.hardware.nodes
        if processes > 1 or config.hardware.strategy != "auto":
            problems.append(
                f"stage=distill, hardware: it runs in one process, not in {processes} "
                f"({config.hardware.strategy}); use hardware=cpu or hardware=1gpu"
            )
        if config.optimizer.ema_decay is not None:
            problems.append(
                "stage=distill, optimizer.ema_decay: students have no average; set null"
            )
        if config.optimizer.lr_connector is not None:
            problems.append(
                "stage=distill, optimizer.lr_connector: students have no connector; set null"
            )
        return problems + self._own_problems()

    def _own_problems(self) -> list[str]:
        problems = []
        for name, value, most, limit in (
            ("components", self.components, "embedding", self.embedding),
            ("bins", self.bins, "prototypes", self.prototypes),
        ):
            if value > limit:
                problems.append(f"stage.{name}={value}: must not exceed stage.{most}={limit}")
        if self.student != "tower" and importlib.util.find_spec("timm") is None:
            problems.append(
                f"stage.student={self.student}: timm is not installed; install the extra "
                "vqr1[timm], or use stage.student=tower"
            )
        if self.weights is not None and self.student == "tower":
            problems.append(
                f"stage.weights={self.weights}: the tower has the teacher's weights; give a timm "
                "architecture as stage.student, or stage.weights=null"
            )
        return problems

    @property
    def chooses_best(self) -> bool:
        """See `Stage.chooses_best`: validation looks at MOS, which a student never sees."""
        return False

    @property
    def gives_policy(self) -> bool:
        """See `Stage.gives_policy`: a student is not trained further."""
        return False

    def write_card(self, folder: Path, run_dir: Path) -> None:
        """See `Stage.write_card`."""
        from vqr1.training.student_card import write_student_card

        write_student_card(folder, run_dir)

    def described(self, config: TrainConfig) -> str:
        """See `Stage.described`."""
        aligned = "texts and scores" if self.align and self.align_weight else "scores"
        return f"; student {self.student} with {self.head}, learns the teacher's {aligned}"
