"""Auxiliary tasks in a training: steps, metrics, questions before and after, mistakes."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import Command, run, write_kadid  # noqa: F401
from tests.cli.test_configs import train_config
from tests.evaluation.builders import THINKING
from tests.support.commands import run as run_command
from tests.support.commands import whole_and_begun
from tests.support.images import noise_image
from tests.support.tiny_models import tiny_model
from tests.training.test_grpo import SAMPLING, PatternReward, fit, make_module, ranking_batch
from tests.training.test_methods import SMALL
from vqr1.cli.train import main
from vqr1.config import WatchConfig
from vqr1.data.degraded import Damage
from vqr1.data.questions import read_questions
from vqr1.errors import ConfigError, DataError
from vqr1.evaluation.question_asking import ask
from vqr1.evaluation.question_metrics import changes_of, grade, rows_of
from vqr1.inference.request import Reply, Request
from vqr1.iqa.answers import FreeText, PublishedAnswer
from vqr1.planning.shape import kinds_of_steps, read_shape
from vqr1.records import BatchLabels
from vqr1.rewards import DegradationReward, StatedWordReward, WeightedRewards
from vqr1.rewards.build import build_rewards
from vqr1.rewards.text import written
from vqr1.training.checks import check_training
from vqr1.training.task import RANKING, Task
from vqr1.training.watchdogs import Watchdog
from vqr1.training.zero_variance import FirstSteps


class NoReward(PatternReward):
    def __call__(self, inputs: object) -> torch.Tensor:
        raise AssertionError("a batch of another task")


def test_a_step_of_a_task_is_that_of_its_rewards() -> None:
    """Rewards of a task and the same rewards of the ranked images give the same weights."""
    expected, _ = make_module(tiny_model(seed=1), PatternReward())
    fit(expected, ranking_batch(), 2)
    module, _ = make_module(tiny_model(seed=1), NoReward())
    module.tasks = {
        **module.tasks,
        "x": Task(WeightedRewards({"length": (1.0, PatternReward())}), FreeText()),
    }
    module._sampling["x"] = module._sampling[RANKING]
    fit(module, replace(ranking_batch(), task="x", mos=torch.full((3,), torch.nan)), 2)
    for ours, theirs in zip(module.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert module.last_step is not None
    assert expected.last_step is not None
    metrics, plain = module.last_step.metrics, expected.last_step.metrics
    assert metrics["x/reward/total"] == plain["reward/total"]
    assert metrics["x/zero_variance_rate"] == plain["zero_variance_rate"]
    assert metrics["loss"] == plain["loss"]
    # What a task without scores has no value of, and what is not of the ranked images.
    assert not {"reward/total", "x/invalid_rate", "x/zero_variance/no_score"} & set(metrics)


def answer(text: str) -> str:
    return f"<think>\nwhy\n</think>\n<answer>\n{text}\n</answer>"


def test_rewards_of_a_batch_of_a_task() -> None:
    from tests.training.test_scored_rollout import rollout
    from vqr1.training.scored_rollout import score_rollout

    texts = [
        [answer('{"distortion_class": "blur", "severity": "slight"}'), "blur, slight"],
        [answer('{"distortion_class": "blur", "severity": "slight"}'), answer("{}")],
    ]
    labels = BatchLabels(
        std=torch.full((2,), torch.nan),
        references=(None, None),
        distortions=("blur", "blur"),
        columns={"severity": ("slight", "serious"), "better": ("Image A", "Image B")},
    )
    keys = {"dataset": "x:demo", "labels": labels, "images": torch.tensor([4, 9])}
    none = torch.full((2,), torch.nan)
    sampled = rollout(texts, [[1, 1]] * 2, 2)
    form = PublishedAnswer(rules="q_insight_degradation")
    rewards = WeightedRewards({"d": (1.0, DegradationReward())})
    scored, metrics = score_rollout(sampled, none, rewards, answer=form, **keys)
    assert scored.rewards.tolist() == [[1.0, 0.0], [0.25, 0.0]]
    assert scored.has_variance.tolist() == [True, True]
    assert metrics["format_compliance_rate"] == 0.75
    texts = [[answer("Image A"), answer("Image A.")], [answer("Image A"), answer("Image B")]]
    rewards = WeightedRewards({"c": (1.0, StatedWordReward("better"))})
    scored, metrics = score_rollout(
        rollout(texts, [[1, 1]] * 2, 2), none, rewards,
        answer=PublishedAnswer(rules="q_insight_comparison"), **keys,
    )  # fmt: skip
    assert scored.rewards.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert metrics["reward/c"] == 0.5


def test_whole_numbers_of_a_column_are_written_in_digits() -> None:
    assert [written(label) for label in (3.0, 2.5, "slight", None)] == ["3", "2.5", "slight", None]
    right = [[answer('{"distortion_class": "blur", "severity": "3"}')]]
    details = SimpleNamespace(texts=right, columns={"severity": (3.0,)}, distortions=("blur",))
    inputs: Any = SimpleNamespace(details=details, scores=torch.zeros(1, 1))
    assert DegradationReward()(inputs).tolist() == [[1.0]]
    details.texts = [[answer("3"), answer("3.0")]]
    assert StatedWordReward("severity")(inputs).tolist() == [[1.0, 0.0]]


BOTH = "tasks=degradation+comparison"
WRONG = {
    (BOTH, "tasks.comparison.share=0.6"): (
        "tasks.degradation.share=0.5, tasks.comparison.share=0.6: together 1.1; shares of the"
    ),
    ("tasks=degradation", "rollout=vllm_colocated"): (
        "tasks=degradation, rollout.engine=vllm_colocated: this engine is given one prompt"
    ),
    ("tasks=comparison", "tasks.comparison.data.reference=true"): (
        "tasks.comparison.prompt.images=2: its data have 3 images an item; set it to 3"
    ),
    ("tasks=comparison", "tasks.comparison.data.per_image=0"): (
        "tasks.comparison.data.per_image=0: input should be greater than 0"
    ),
    ("tasks=comparison", "tasks.comparison.reward.terms.comparison.column=best"): (
        "tasks.comparison.reward.terms.comparison: it needs best, and the task's items state bet"
    ),
    (
        "tasks=comparison",
        "tasks.comparison.reward.terms.comparison._target_=vqr1.rewards.FidelityReward",
        "~tasks.comparison.reward.terms.comparison.column",
    ): "tasks.comparison.reward.terms.comparison: it compares the scores of images, and a",
    ("tasks=degradation", "tasks.degradation.data.labels=applied",
     "tasks.degradation.data.classes.blur=[rain]"): (
        "tasks.degradation.data.classes.blur=['rain']: none of these is a distortion that can be"
    ),
    ("tasks=degradation", "tasks.degradation.data._target_=vqr1.rewards.FormatReward"): (
        "tasks.degradation.data: vqr1.rewards.FormatReward: got an unexpected keyword argument"
    ),
    ("tasks=degradation", "advantage=by_component"): (
        "tasks.degradation: advantage and loss look at "
    ),
}  # fmt: skip


@pytest.mark.medium
def test_mistakes_are_one_line_each() -> None:
    for overrides, printed in WRONG.items():
        config = train_config(*overrides)
        with pytest.raises(ConfigError) as refused:
            check_training(config, build_rewards(config.reward))
        of_tasks = [line for line in refused.value.problems if "task" in line]
        assert len(of_tasks) == 1, refused.value.problems
        assert of_tasks[0].startswith(printed), of_tasks
    with pytest.raises(ConfigError, match=r"^tasks\.degradation\.share=1\.5: input should be less"):
        train_config("tasks=degradation", "tasks.degradation.share=1.5")
    with pytest.raises(ConfigError, match=r"^tasks\.degradation\.answer\.rules='x': input should"):
        train_config("tasks=degradation", "tasks.degradation.answer.rules=x")
    # Each by itself is right, and the plan counts the longest prompt.
    for name in ("degradation", "comparison", "comparison_reference"):
        config = train_config(f"tasks={name}")
        assert list(config.tasks) == [name]
        check_training(config, build_rewards(config.reward))
    kinds = kinds_of_steps(config, read_shape(config.model))
    assert [(kind.name, kind.share) for kind in kinds] == [
        ("", 0.75), ("comparison_reference", 0.25)
    ]  # fmt: skip
    assert kinds[1].work.tower.tokens == 3 * kinds[0].work.tower.tokens
    # Other stages train none of them.
    config = train_config("stage=sft", "prompt=non_thinking", BOTH, "tasks.degradation.share=1")
    check_training(config, build_rewards(config.reward))


class Echo:
    """Keeps what it is asked."""

    def resize(self, image: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(image))

    def reply(self, images: Any, request: Any, prompts: Any) -> list[Reply]:
        self.images, self.prompts = images, prompts
        return [Reply(("yes",)) for _ in prompts]


def test_questions_are_asked_with_their_damage_and_system_message(tmp_path: Path) -> None:
    noise_image(1).save(tmp_path / "a.png")
    item = {
        "img_path": "a.png", "question": "q", "distortion_class": "noise", "severity": "slight",
        "damage": {"kind": "white_noise", "level": 2, "seed": 5},
    }  # fmt: skip
    file = tmp_path / "q.json"
    file.write_text(json.dumps([item, {**item, "damage": None, "system": ""}]))
    questions = read_questions(file, tmp_path)
    echo, prompt = Echo(), replace(THINKING, system="S")
    request = Request(prompt, FreeText(), SAMPLING)
    assert ask(echo, questions, tmp_path, prompt, request) == ["yes", "yes"]
    plain = echo.resize(noise_image(1))
    assert torch.equal(echo.images[1][0], plain)
    assert torch.equal(echo.images[0][0], Damage("white_noise", 2.0, 5).apply(plain))
    assert not torch.equal(echo.images[0][0], plain)
    assert [asked.system for asked in echo.prompts] == ["S", None]
    wrong = {"kind": "rain", "level": 2, "seed": 5}
    for damage in (wrong, {**wrong, "kind": "jpeg", "level": 9}, 3):
        file.write_text(json.dumps([{**item, "damage": damage}]))
        with pytest.raises(DataError, match=r"item 1: damage must be an object with kind \(of gau"):
            read_questions(file, tmp_path)


def test_a_task_that_teaches_nothing_is_reported() -> None:
    first = FirstSteps(2, "x")
    assert first.observe({"x/zero_variance_rate": 1.0}) is None
    message = first.observe({"x/zero_variance_rate": 1.0})
    assert message is not None
    assert message.startswith("task x: in none of its first 2 steps did the rewards of any group")
    taught = FirstSteps(2, "x")
    assert taught.observe({"x/zero_variance_rate": 0.5}) is None
    assert taught.finish() is None


def test_steps_of_other_tasks_do_not_count_for_a_watchdog() -> None:
    dog = Watchdog("zero_variance", WatchConfig(limit=1.0, steps=2))
    seen: list[dict[str, float]] = [
        {"zero_variance_rate": 1.0}, {"x/zero_variance_rate": 0.0}, {"zero_variance_rate": 1.0}
    ]  # fmt: skip
    assert [dog.observe(metrics) is not None for metrics in seen] == [False, False, True]


def tasks_of(metrics: Path) -> list[str]:
    """The task of each step, by whose rewards it has logged."""
    names = {"": "train/reward/total"}
    names |= {task: f"train/{task}/reward/total" for task in ("degradation", "comparison")}
    with metrics.open(newline="") as lines:
        rows = {row["step"]: row for row in csv.DictReader(lines) if row["train/loss"]}
    found = [[task for task, name in names.items() if row[name]] for row in rows.values()]
    assert all(len(tasks) == 1 for tasks in found)
    return [task for (task,) in found]


@pytest.mark.medium
def test_a_training_with_tasks(run: Command, tmp_path: Path) -> None:  # noqa: F811
    root = write_kadid(tmp_path / "set")
    found = run(
        main, "tasks=degradation+comparison", "tasks.comparison.data.per_image=4",
        "dataset=kadid", f"dataset.root={root}", *SMALL, "loader.batch_size=2", "max_steps=4",
        "validation.every_steps=4", "validation.max_images=4", "rollout.sampling.max_new_tokens=12",
        "validation.test=false", "logger=csv", "run_dir=run",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert "task degradation: share 0.5, items: 20 of kadid" in found.out
    taken = tasks_of(tmp_path / "run/metrics.csv")
    assert sorted(taken) == ["", "comparison", "degradation", "degradation"]
    page = (tmp_path / "run/questions.md").read_text()
    header = (tmp_path / "run/metrics.csv").read_text().splitlines()[0]
    assert "Degradation questions: greedy answers, after training" in page
    for name in ("degradation/class", "degradation/severity", "comparison/accuracy"):
        assert f"questions/{name}_before" in header
        assert f"questions/{name}_after" in header
    for task in ("degradation", "comparison"):
        # As it was asked: eval.py questions=FILE questions_root=SET.
        left = read_questions(tmp_path / f"run/tasks/{task}.kadid.jsonl", root)
        assert len(left) == 4
        assert left[0].system is not None
        assert left[0].system.startswith("A conversation between User")


def test_answers_to_degradations_by_hand(tmp_path: Path) -> None:
    noise_image(1).save(tmp_path / "a.png")
    item = {"img_path": "a.png", "question": "q", "distortion_class": "blur", "severity": "slight"}
    file = tmp_path / "q.json"
    file.write_text(json.dumps([item]))
    (question,) = read_questions(file, tmp_path)
    both, one, none = (
        grade(question, text).values
        for text in (
            answer('{"distortion_class": "blur", "severity": "slight"}'),
            answer('{"distortion_class": "noise", "severity": "slight"}'),
            "blur and slight",
        )
    )
    assert both == {"accuracy": 1.0, "class": 1.0, "severity": 1.0}
    assert one == {"accuracy": 0.0, "class": 0.0, "severity": 1.0}
    assert none == dict.fromkeys(both, 0.0)
    # Paired: nine of ten questions are answered as before, one is right now.
    wrong, right = grade(question, "?"), grade(question, answer(question.answer))
    changes = changes_of([wrong] * 10, [wrong] * 9 + [right])
    (row, *groups) = rows_of(changes, draws=200, counted=())
    assert (row.count, row.metrics["class"][0], row.invalid) == (10, pytest.approx(0.1), 9)
    interval = row.metrics["class"][1]
    assert interval is not None
    assert 0 <= interval.low < 0.1 < interval.high < 0.5
    assert [group.name for group in groups][1:] == [
        "degradation/class/blur", "degradation/severity/slight"
    ]  # fmt: skip


@pytest.mark.slow
def test_two_processes_killed_and_resumed_to_the_same_bits(tmp_path: Path) -> None:
    """All processes take one task at a step, and a resumed run continues with the next one."""
    arguments = (
        "tasks=degradation+comparison", "hardware=cpu_2procs", *SMALL, "loader.batch_size=2",
        "dataset.max_images=40", "max_steps=8", "validation.every_steps=8",
        "callbacks.checkpoint.every_steps=2", "validation.test=false", "logger=csv",
        "optimizer.ema_decay=0.9", "rollout.sampling.max_new_tokens=16", "run_dir=run",
    )  # fmt: skip
    whole, killed, training = whole_and_begun(tmp_path, "step_00000004*", *arguments)
    training.rank(1).kill()
    assert training.wait() == 74, training.output
    run_command(killed, "resume=run")
    for folder in ("export", "export_average"):
        ended, expected = (
            load_file(place / "run" / folder / "model.safetensors") for place in (killed, whole)
        )
        assert ended.keys() == expected.keys()
        assert all(torch.equal(ended[name], weight) for name, weight in expected.items())
    taken = [tasks_of(place / "run/metrics.csv") for place in (killed, whole)]
    assert taken[0] == taken[1]
    assert sorted(taken[1]) == [""] * 2 + ["comparison"] * 2 + ["degradation"] * 4
