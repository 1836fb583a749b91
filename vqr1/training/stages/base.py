"""What a run needs to know of its stage (`vqr1.training.run`, `PolicyTrainer`).

Not here: the step of a stage (`module.py` has what all of them share), the order of a run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vqr1.config import TaskConfig, TrainConfig
from vqr1.config.targets import build_target
from vqr1.config.training import StageConfig
from vqr1.distributed.stop_requests import StopRequests
from vqr1.errors import ConfigError
from vqr1.rewards import WeightedRewards

if TYPE_CHECKING:
    # They import Lightning and pandas, which a mistake on the command line does not wait for.
    import lightning as L

    from vqr1.data.datamodule import RankingDataModule
    from vqr1.iqa.answers import AnswerForm
    from vqr1.policy.loading import Policy
    from vqr1.policy.vision import VisionCache
    from vqr1.rollout.engine import RolloutEngine
    from vqr1.training.stages.module import StageModule
    from vqr1.training.validation import Validator


@dataclass(frozen=True)
class StageParts:
    """What a stage's module is built from.

    Attributes:
        config: of the run.
        policy: the model to train.
        data: the opened data sets.
        rewards: as configured; of no use to a stage that samples nothing.
        engine: samples responses from the policy.
        validator: evaluates validation batches.
        answer: how a response is written and read, without what the chat template writes of it.
        total_steps: optimiser steps in all.
        vision_cache: keeps features of a tower that does not change; None keeps none.
        run_dir: the run's folder.
        stops: asked for a stop after every batch of what a stage does before its steps.
    """

    config: TrainConfig
    policy: Policy
    data: RankingDataModule
    rewards: WeightedRewards
    engine: RolloutEngine
    validator: Validator
    answer: AnswerForm
    total_steps: int
    vision_cache: VisionCache | None
    run_dir: Path
    stops: StopRequests


class Stage(ABC):
    """One choice of `conf/stage`; its arguments are the YAML file's further keys."""

    @abstractmethod
    def build(self, parts: StageParts) -> StageModule:
        """The Lightning module that takes the steps."""

    def problems(self, config: TrainConfig, rewards: WeightedRewards) -> list[str]:
        """Rules of this stage that the configuration breaks, one line each; nothing is loaded."""
        return []

    def compares(self, rewards: WeightedRewards) -> bool:
        """Whether the images of a step are compared with each other, so that one is too few."""
        return False

    def compares_in_process(self, config: TrainConfig) -> bool:
        """Where `compares`, whether with images of the same process only."""
        return config.grpo.pool == "rank"

    def tasks(self, config: TrainConfig) -> Mapping[str, TaskConfig]:
        """Auxiliary tasks that are mixed into its training, by name."""
        return {}

    def check_data(  # noqa: B027 - a stage may need nothing of the data
        self, config: TrainConfig, rewards: WeightedRewards, data: RankingDataModule
    ) -> None:
        """Check what the opened data sets have to hold.

        Raises:
            ConfigError: every set that lacks something.
        """

    def updates_per_batch(self, config: TrainConfig) -> int:
        """Optimiser steps on each batch of images."""
        return 1

    def callbacks(self, config: TrainConfig) -> list[L.Callback]:
        """Callbacks beside those of every run."""
        return []

    @property
    def chooses_best(self) -> bool:
        """Whether the step that validation finds best is exported; False: the last one."""
        return True

    @property
    def gives_policy(self) -> bool:
        """Whether another training can start from its export."""
        return True

    def write_card(self, folder: Path, run_dir: Path) -> None:
        """Write the model card of the run's export."""
        from vqr1.training.model_card import write_model_card

        write_model_card(folder, run_dir)

    def described(self, config: TrainConfig) -> str:
        """What a step does with its images, as a run prints it after their number."""
        return ""


def build_stage(config: StageConfig) -> Stage:
    """The stage that a configuration names.

    Raises:
        ConfigError: there is no such class, it is no stage, or it refuses an argument.
    """
    built = build_target("stage", config.target, config.arguments)
    if not isinstance(built, Stage):
        raise ConfigError(
            [f"stage._target_={config.target}: it is no subclass of vqr1.training.stages.Stage"]
        )
    return built
