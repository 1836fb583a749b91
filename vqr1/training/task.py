"""What responses to a batch are drawn, read and rewarded by: the ranked score, or a further task.

Not here: prompts and right answers, which come with the batch (`vqr1.records.RankingBatch`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vqr1.config import TaskConfig, TrainConfig
from vqr1.data.task_sets import TaskSets, TaskSource
from vqr1.iqa.answers import AnswerForm, form_after
from vqr1.policy.prompts import load_prompts
from vqr1.rewards import WeightedRewards
from vqr1.rewards.build import build_rewards

RANKING = ""
"""Name of the task that asks for the ranked score (`RankingBatch.task`)."""


def task_metric(task: str, name: str) -> str:
    """Name of a metric of a task's responses, below `train/`."""
    return f"{task}/{name}" if task else name


@dataclass(frozen=True)
class Task:
    """One task of a training.

    Attributes:
        rewards: what a response earns.
        answer: how a response has to be written, and how it is read.
    """

    rewards: WeightedRewards
    answer: AnswerForm


def task_sources(tasks: Mapping[str, TaskConfig], config: TrainConfig) -> dict[str, TaskSource]:
    """What the data of auxiliary tasks are opened from.

    Args:
        tasks: those that the stage trains.
        config: of the training.
    """
    return {
        name: TaskSource(task, load_prompts(config.model, task.prompt))
        for name, task in tasks.items()
    }


def built_tasks(ranking: Task, opened: Mapping[str, TaskSets]) -> dict[str, Task]:
    """All tasks of a training by name.

    Args:
        ranking: the one that asks for the ranked score.
        opened: the others.
    """
    return {RANKING: ranking} | {
        name: Task(
            build_rewards(task.source.config.reward, f"{task.key}.reward"),
            # What the template writes of a response counts as part of it.
            form_after(task.source.config.answer.form, task.source.prompts.text),
        )
        for name, task in opened.items()
    }
