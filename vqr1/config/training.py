"""Keys of `python train.py` (`conf/train.yaml`)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from vqr1.config.affects import Affects
from vqr1.config.answer import AnyAnswer
from vqr1.config.data import AnyDataset, LoaderConfig
from vqr1.config.machine import HardwareConfig, LoggerConfig
from vqr1.config.metrics import OwnMetrics
from vqr1.config.model import ModelConfig, PromptConfig, RolloutConfig
from vqr1.config.pairs import TrainingTarget
from vqr1.config.sweep import SweepConfig
from vqr1.config.targets import arguments_apart
from vqr1.config.tasks import RewardConfig, Tasks
from vqr1.config.types import (
    STRICT_KEYS,
    BelowOne,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
)
from vqr1.config.votes import VotesConfig


@dataclass(config=STRICT_KEYS, kw_only=True)
class StageConfig:
    """The stage (`conf/stage`)."""

    target: Annotated[str, Field(alias="_target_")]
    """Class of the stage, a subclass of `vqr1.training.stages.Stage`."""
    arguments: dict[str, Any]
    """The class's arguments, which it checks itself."""


Strength = PositiveFloat | tuple[PositiveFloat, PositiveFloat]


@dataclass(config=STRICT_KEYS, kw_only=True)
class PerceptionConfig:
    """The loss term between the answers to an image and to its degraded copy."""

    weight: NonNegativeFloat = 0.0
    """gamma at the start (Q-Hawkeye: 1e-4), falling by a cosine to 0; 0 makes no copies."""
    until: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training after which it is 0."""
    degradation: dict[str, Strength] = field(default_factory=dict)
    """Kinds of the copies (`vqr1.data.distortions`), one drawn for each image, with their strength,
    or [lowest, highest] between which it is drawn."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class LossConfig:
    """The loss (`conf/loss`)."""

    target: Annotated[str, Field(alias="_target_")]
    """Class of the loss, a subclass of `vqr1.training.losses.PolicyLoss`."""
    kl_weight: NonNegativeFloat | None = None
    """Weight of the KL term to the reference; 0, or no such key, needs no reference."""
    kl_until: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the training after which the KL term is 0, falling to it by a cosine; None keeps its
    weight to the end."""
    perception: PerceptionConfig = field(default_factory=PerceptionConfig)
    """The term of degraded copies, added to any loss."""
    arguments: dict[str, Any]
    """The class's further arguments, which it checks itself."""

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares the policy with a reference."""
        return bool(self.kl_weight)

    def all_arguments(self) -> dict[str, Any]:
        """What the class is called with."""
        own = {} if self.kl_weight is None else {"kl_weight": self.kl_weight}
        return {**own, **self.arguments}


@dataclass(config=STRICT_KEYS, kw_only=True)
class AdvantageConfig:
    """The rule from rewards to advantages (`conf/advantage`)."""

    target: Annotated[str, Field(alias="_target_")]
    """Class of the rule, see `vqr1.training.advantages.AdvantageRule`."""
    arguments: dict[str, Any]
    """The class's arguments, which it checks itself."""


def _pool(value: Any) -> Any:
    number = isinstance(value, int) and not isinstance(value, bool)
    if value in ("global", "rank") or (number and value >= 2):
        return value
    raise ValueError("must be global, rank, or a number of images of at least 2")


@dataclass(config=STRICT_KEYS, kw_only=True)
class GrpoConfig:
    """Group-relative policy optimisation."""

    group_size: Annotated[int, Field(ge=2)]
    """K: responses sampled for each image."""
    pool: Annotated[Literal["global", "rank"] | int, BeforeValidator(_pool)] = "global"
    """Images that a reward compares: those of all processes (`global`), of each process on its own
    (`rank`), or so many of all processes' at a time, in the order of the batches, whatever the
    number of processes; it must divide the step's images. The published training compares the 8
    images of one GPU: 8, or `rank` with 8 images a process."""
    resample_zero_variance: Annotated[int, Field(ge=0, le=100)] = 0
    """Times that images whose rewards do not differ are answered again in a step (DAPO); 0 leaves
    them out at once (published)."""
    num_iterations: PositiveInt = 1
    """mu: optimiser steps on each rollout; the last one has those that are left of `max_steps`."""
    reference_sync_every: PositiveInt | None = None
    """Optimiser steps after which the reference moves towards the policy, again and again; null
    keeps it as it was at the start (published)."""
    reference_mixup: Annotated[float, Field(gt=0, le=1)] = 1.0
    """How far it moves: reference = (1 - mixup) reference + mixup policy. Only with
    `reference_sync_every`."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class OptimizerConfig:
    """AdamW and its schedule."""

    lr: PositiveFloat
    """Peak learning rate."""
    lr_connector: PositiveFloat | None = None
    """Peak learning rate of what leads from the vision tower to the text model (merger, projector),
    on the same schedule; null: `lr`."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    """Decay rates of the first and second moment."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes from its peak to `final_fraction` of it."""
    warmup_steps: NonNegativeInt = 0
    """Optimiser steps over which the learning rate rises linearly to its peak."""
    final_fraction: Fraction = 0.0
    """Learning rate at the end, relative to the peak (linear and cosine)."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Clip the global gradient norm to this; null never clips."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a moving average of the trained weights, which is evaluated at the end and exported
    beside the policy (`export_average`); null keeps none."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class CheckpointConfig:
    """Which checkpoints are kept."""

    monitor: Annotated[str, Affects.RESULTS] = "val/srcc"
    """Metric of the best checkpoint: `val/NAME` or `val/NAME_greedy` of a metric that validations
    log (`vqr1.evaluation.metrics`)."""
    every_steps: PositiveInt | None = None
    """Optimiser steps between saves; null saves at every validation."""
    keep: PositiveInt = 2
    """Last saved states that are kept, so that one can be damaged."""
    on_failed_write: Literal["continue", "stop"] = "continue"
    """What a run does when a checkpoint could not be written (a full disk): continue with a
    warning, or stop."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class WatchConfig:
    """One watchdog: what it watches is in `vqr1.training.watchdogs`."""

    limit: NonNegativeFloat
    """Value that the watched metric must not reach."""
    steps: PositiveInt = 20
    """Training steps in a row for which it may."""
    action: Literal["off", "warn", "stop"] = "warn"
    """`warn` continues; `stop` saves a checkpoint and ends the run."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class WatchdogsConfig:
    """Signs that a training has gone wrong."""

    non_finite_limit: PositiveInt
    """Updates with a loss or gradient that is no number: each is excluded, so many stop the
    run."""
    zero_variance: WatchConfig
    """Share of groups whose rewards do not differ."""
    constant: WatchConfig
    """Distance of the fidelity reward from that of a constant predictor, .7071."""
    format_rate: WatchConfig
    """Share of format-compliant responses."""
    kl: WatchConfig
    """KL estimate per token, in nats."""
    length: WatchConfig
    """Response length relative to the first steps."""
    entropy: WatchConfig
    """Mean negative log-probability of the sampled tokens, in nats."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class HungStepConfig:
    """When a step is taken to hang, and stacks are written (`vqr1.training.step_watch`)."""

    factor: Annotated[float, Field(gt=1)] = 20.0
    """Times the median of the steps before."""
    floor_s: PositiveFloat = 300.0
    """Seconds that are never too long; decides alone until a step has ended."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class CallbacksConfig:
    """What happens around the steps."""

    progress: bool = True
    """Show the progress bar."""
    checkpoint: CheckpointConfig | None = field(default_factory=CheckpointConfig)
    """null keeps no checkpoints during training (the last policy is still exported)."""
    watchdogs: WatchdogsConfig | None = None
    """null looks at nothing; a non-finite update is excluded all the same."""
    hung_step: Annotated[HungStepConfig | None, Affects.NOTHING] = field(
        default_factory=HungStepConfig
    )
    """null waits for each step as long as it takes."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class ValidationConfig:
    """Evaluation during and around training."""

    every_steps: PositiveInt
    """Optimiser steps between validations, rounded down to whole rollouts of `grpo.num_iterations`
    steps."""
    mode: Literal["answers", "levels"] = "answers"
    """`answers`: responses are sampled, and greedy ones are evaluated too; `levels`: as
    `mode=levels`, one pass over the words of the answer form, which `val/srcc` is then of."""
    samples: NonNegativeInt = 6
    """Responses sampled for each image, their mean score is evaluated; 0 evaluates greedy answers
    only."""
    max_images: PositiveInt | None = None
    """Most validation images of each set at each validation, drawn as `dataset.max_images` draws
    them; where both are set, the smaller number holds. null uses all."""
    batch_size: PositiveInt = 64
    """Images evaluated together; does not change what is computed, only how fast."""
    test: bool = True
    """Evaluate the test split before and after training."""
    bootstrap_draws: PositiveInt = 1000
    """Draws of the 95 % bootstrap intervals."""
    questions: Annotated[str | None, Affects.NOTHING] = None
    """JSON file of questions about images (`vqr1.data.questions`), asked of the policy before
    training and of the one that is exported, greedily and of at most
    `rollout.sampling.max_new_tokens`; needs `rollout=local`. null asks none."""
    questions_root: Annotated[str | None, Affects.NOTHING] = None
    """Folder of their images; null: the folder of the file."""


Part = Literal[
    "image_editor",
    "probability_gain",
    "second_score",
    "tool_calls",
    "video",
]

PARTS: dict[Part, str] = {
    "image_editor": "an image editor and a model that evaluates edits",
    "probability_gain": "the probability of an answer without its reasoning",
    "second_score": "a task that asks for a score of another kind, with MOS and rewards of its own",
    "tool_calls": "tools that the model calls, over several turns",
    "video": "video",
}
"""What methods may need that a training has not, in words."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class MethodConfig:
    """Where a method's configuration comes from (`conf/method`)."""

    name: str
    """Its name."""
    source: str | None = None
    """Its paper and its public code."""
    requires: list[Part] = field(default_factory=list)
    """Parts that it needs and that are not here: a training refuses to start."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class TrainConfig:
    """`python train.py`."""

    dataset: AnyDataset
    model: ModelConfig
    prompt: PromptConfig
    answer: AnyAnswer
    stage: Annotated[StageConfig, arguments_apart()]
    reward: RewardConfig
    loss: Annotated[LossConfig, arguments_apart("kl_weight", "kl_until", "perception")]
    advantage: Annotated[AdvantageConfig, arguments_apart()]
    rollout: RolloutConfig
    optimizer: OptimizerConfig
    hardware: HardwareConfig
    logger: Annotated[LoggerConfig, Affects.NOTHING]
    callbacks: Annotated[CallbacksConfig, Affects.NOTHING]
    loader: LoaderConfig
    grpo: GrpoConfig
    validation: ValidationConfig
    target: TrainingTarget = "mos"
    """What rewards compare answers with: the MOS of the images, stated preferences between them
    (`pairs`: `dataset.pairs`), or the policy's own votes on pairs (`self_vote`: `votes`); rewards
    that need a number for each image get scores fitted to the pairs."""
    votes: VotesConfig = field(default_factory=VotesConfig)
    tasks: Tasks = field(default_factory=dict)
    """Auxiliary tasks mixed into a training by sampled responses (`stage=grpo`), by name; chosen by
    `tasks=` (docs/training.md)."""
    sweep: Annotated[SweepConfig, Affects.NOTHING]
    max_steps: PositiveInt | None
    """Optimiser steps in all; null: `max_epochs` decides."""
    max_epochs: PositiveInt | None
    """Passes over the training images; null: `max_steps` decides."""
    seed: Seed
    """Seed of batches, samples and initial adapters."""
    init_from: str | None = None
    """Finished run whose exported weights the training starts from, in place of `model.path`: its
    folder or its MLflow id. What the command does not choose of `model`, `prompt` and `answer` is
    that of the run. null: `model.path`."""
    chain: Annotated[list[str] | None, Affects.START] = None
    """On the command line: trainings one after the other, each from the export of the one before,
    such as `[sft,'grpo prompt=thinking']` (docs/stages.md); null: one training."""
    run_dir: Annotated[str, Affects.START]
    """Folder that receives checkpoints, tables and `summary.json`."""
    resume: Annotated[str | None, Affects.START] = None
    """Run to resume: its MLflow id, its folder, or `auto` (the newest unfinished run beside
    `run_dir` with this configuration, else a new one)."""
    resume_force: Annotated[bool, Affects.START] = False
    """Continue although the configuration has changed in keys that change what is computed."""
    method: Annotated[MethodConfig | None, Affects.NOTHING] = None
    """Of which method the groups are a configuration; null: of none."""
    metrics: OwnMetrics = field(default_factory=dict)
    """Metrics beside those of `vqr1.evaluation.metrics`, by name (docs/extending.md)."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class DataConfig:
    """`vqr1 data`: looking at data without training (`conf/data.yaml`)."""

    dataset: AnyDataset
    model: ModelConfig
    prompt: PromptConfig
    answer: AnyAnswer
    loader: LoaderConfig
    seed: Seed
    """Seed of the order of batches."""
