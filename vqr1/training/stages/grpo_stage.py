"""`stage=grpo`: ranking by reinforcement learning. What a run asks of it; the step is `grpo.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from vqr1.config import TaskConfig, TrainConfig
from vqr1.rewards import WeightedRewards
from vqr1.training.stages.base import Stage, StageParts

if TYPE_CHECKING:
    import lightning as L

    from vqr1.data.datamodule import RankingDataModule
    from vqr1.training.stages.module import StageModule


@dataclass(config={"extra": "forbid"}, frozen=True)
class GrpoStage(Stage):
    """Samples responses and learns from their rewards (`grpo`, `reward`, `loss`, `advantage`)."""

    def build(self, parts: StageParts) -> StageModule:
        """See `Stage.build`."""
        from vqr1.training.ahead import RolloutAhead
        from vqr1.training.stages.grpo import GrpoModule
        from vqr1.training.stages.grpo_settings import step_settings
        from vqr1.training.task import Task, built_tasks

        group_size = parts.config.grpo.group_size
        overlaps = parts.config.rollout.ahead > 0
        return GrpoModule(
            parts.policy,
            parts.engine,
            built_tasks(Task(parts.rewards, parts.answer), parts.data.tasks),
            parts.validator,
            step_settings(parts),
            parts.vision_cache,
            RolloutAhead(parts.data.upcoming_batch, group_size) if overlaps else None,
        )

    def problems(self, config: TrainConfig, rewards: WeightedRewards) -> list[str]:
        """See `Stage.problems`."""
        from vqr1.training.ranking_checks import ranking_problems
        from vqr1.training.task_checks import task_problems

        return ranking_problems(config, rewards) + task_problems(config)

    def tasks(self, config: TrainConfig) -> Mapping[str, TaskConfig]:
        """See `Stage.tasks`."""
        return config.tasks

    def compares(self, rewards: WeightedRewards) -> bool:
        """See `Stage.compares`."""
        return rewards.ranks

    def check_data(
        self, config: TrainConfig, rewards: WeightedRewards, data: RankingDataModule
    ) -> None:
        """See `Stage.check_data`."""
        from vqr1.training.label_checks import check_labels

        check_labels(config, rewards, data.sets.values())

    def updates_per_batch(self, config: TrainConfig) -> int:
        """See `Stage.updates_per_batch`."""
        return config.grpo.num_iterations

    def callbacks(self, config: TrainConfig) -> list[L.Callback]:
        """See `Stage.callbacks`."""
        if config.grpo.reference_sync_every is None:
            return []
        from vqr1.training.callbacks.reference_sync import ReferenceSync

        return [ReferenceSync(config.grpo.reference_sync_every, config.grpo.reference_mixup)]

    def described(self, config: TrainConfig) -> str:
        """See `Stage.described`."""
        return f" x {config.grpo.group_size} responses; reward {' + '.join(config.reward.terms)}"
