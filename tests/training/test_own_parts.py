"""A method made of parts from a folder of the user's: one class or entry and one YAML file each.

A reward, a loss, an advantage rule, an answer form, a data set, a metric and a method, without a
change to the package.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from tests.cli.conftest import Command, run, write_kadid  # noqa: F401 - a fixture
from tests.support.commands import REPOSITORY
from tests.support.pages import blocks_of, write_files
from vqr1.cli.train import main

pytestmark = pytest.mark.slow

CLASSES = '''
from collections.abc import Mapping

import torch

from vqr1.data.labels import LabelFormat, LabelRow
from vqr1.iqa.answers import Answer, AnswerForm
from vqr1.records import LossOutput
from vqr1.training.losses import PolicyLoss

SEEN = []


class Distance:
    """Reward: -|score - MOS| / 4 of a readable answer, and 1 / length so that groups differ."""

    ranks = False

    def __call__(self, inputs):
        distance = -(inputs.scores - inputs.mos[:, None]).abs() / 4
        return torch.where(inputs.valid, distance, torch.full_like(distance, -1.0))


class Entropic(PolicyLoss):
    """Loss: REINFORCE on the tokens of high entropy."""

    needs_entropies = True
    fields = ("score",)

    def __init__(self, least):
        self.least = least

    def __call__(self, inputs):
        SEEN.append(inputs)
        used = (inputs.weights > 0) & (inputs.entropies >= self.least)
        logprobs = torch.where(used, inputs.logprobs, torch.zeros_like(inputs.logprobs))
        loss = -(inputs.weights * inputs.advantages * logprobs).sum()
        return LossOutput(loss, loss.detach(), torch.zeros(()), torch.zeros(()))


class ByField:
    """Advantage rule: the score's tokens are credited with the reward, the rest with its half."""

    fields = ("before", "score")

    def __call__(self, inputs):
        centred = inputs.rewards - inputs.rewards.mean(dim=1, keepdim=True)
        return torch.stack([centred / 2, centred], dim=2)


class LastNumber(AnswerForm):
    """Answer form: the digit after the last tag, on a scale of 0 to 6."""

    score_range = (0.0, 6.0)
    fields = ("before", "score")

    def __init__(self, mark):
        self.opening = mark

    def parse(self, text):
        place = self.spans(text).get("score")
        return Answer(float(text[slice(*place)]) if place else None, None, place is not None)

    def spans(self, text):
        start = text.rfind(self.opening) + len(self.opening)
        found = {"before": (0, start)} if start >= len(self.opening) else {}
        digits = text[start:start + 1]
        return {**found, "score": (start, start + 1)} if found and digits in list("0123456") else {}


def parse(source):
    """Data set: one line `image mos reference` an image."""
    lines = source.main_file("labels.txt").read_text().splitlines()
    parts = [line.split() for line in lines]
    return [
        LabelRow(image=image, mos=float(mos), where=f"line {n}", std=float("nan"),
                 reference=reference, split=None)
        for n, (image, mos, reference) in enumerate(parts, 1)
    ]


FORMAT = LabelFormat("lab", "LAB", "higher", None, ("images",), parse)


def mean_error(inputs, power=1.0):
    """Metric: mean of |score - MOS| ** power."""
    return float((abs(inputs.scores - inputs.mos) ** power).mean())
'''

FILES = {
    "reward": "terms:\n  distance: {_target_: own_method.Distance, weight: 1.0}\n",
    "loss": "_target_: own_method.Entropic\nleast: 0.01\n",
    "advantage": "_target_: own_method.ByField\n",
    "answer": "_target_: own_method.LastNumber\nmark: <answer>\n",
    "dataset": (
        "defaults:\n  - common@_here_: keys\n  - _self_\n"
        "name: own_method\nroot: null\nsplit: {by: reference, fractions: [0.5, 0.25, 0.25]}\n"
    ),
    "metrics": (
        "mean_error:\n  _target_: own_method.mean_error\n  label: mean error\n"
        "  higher_is_better: false\n  averageable: false\n  power: 2.0\n"
    ),
    "method": (
        "# @package _global_\ndefaults:\n"
        + "".join(
            f"  - override /{group}: own\n"
            for group in ("answer", "reward", "loss", "advantage", "metrics")
        )
        + "grpo:\n  group_size: 3\n"
    ),
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The override by which Hydra finds the folder of the user's files."""
    folder = tmp_path / "mine"
    for group, text in FILES.items():
        (folder / group).mkdir(parents=True)
        (folder / group / "own.yaml").write_text(text)
    (folder / "own_method.py").write_text(CLASSES)
    monkeypatch.syspath_prepend(str(folder))
    return f"hydra.searchpath=[file://{folder}]"


def own_set(folder: Path) -> Path:
    root = write_kadid(folder)
    table = pd.read_csv(root / "dmos.csv")
    lines = [f"{row.dist_img} {row.dmos} {row.ref_img}" for row in table.itertuples()]
    (root / "labels.txt").write_text("\n".join(lines) + "\n")
    return root


def from_recipe(folder: Path) -> None:
    """The files that docs/extending.md prints under "A method", as they are printed."""
    text = (REPOSITORY / "docs" / "extending.md").read_text()
    part = text[text.index("## A method\n") : text.index("## Answer forms\n")]
    names = write_files(blocks_of(part), folder.parent)
    files = ("method/nearness.yaml", "reward/nearness.yaml", "nearness.py")
    assert names == {f"{folder.name}/{file}" for file in files}
    assert len((folder / "nearness.py").read_text().splitlines()) <= 30


def test_a_method_by_the_recipe_of_the_docs(
    run: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "mine"
    from_recipe(folder)
    monkeypatch.syspath_prepend(str(folder))
    outcome = run(
        main, f"hydra.searchpath=[file://{folder}]", "method=nearness", "dataset=kadid",
        f"dataset.root={write_kadid(tmp_path / 'set')}", "max_steps=2", "loader.batch_size=4",
        "loader.workers=0", "validation.test=false", "validation.every_steps=2",
        "validation.samples=1", "validation.bootstrap_draws=20", "hardware.threads=1",
        "logger=none", "run_dir=run", "rollout.sampling.max_new_tokens=24",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["method"]["name"] == "nearness"
    # By which `resume=run` and further processes find the choices again.
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["overrides"]
    assert kept[:2] == [f"hydra.searchpath=['file://{folder}']", "method=nearness"]
    assert list(config["reward"]["terms"]) == ["nearness"]
    assert config["grpo"]["group_size"] == 4


def test_three_steps_with_all_parts_of_ones_own(
    run: Command,  # noqa: F811
    own: str,
    tmp_path: Path,
) -> None:
    root = own_set(tmp_path / "set")
    outcome = run(
        main, own, "method=own", "dataset=own", f"dataset.root={root}", "max_steps=3",
        "loader.batch_size=4", "loader.workers=0", "validation.every_steps=1",
        "validation.samples=1", "validation.bootstrap_draws=20", "hardware.threads=1",
        "callbacks.checkpoint.monitor=val/mean_error", "run_dir=run", "logger.wait_seconds=600",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    from own_method import SEEN  # type: ignore[import-not-found]

    assert SEEN, "no group had rewards that differ"
    for seen in SEEN:
        # Advantages of tokens: those of the score's field are twice those of the field before it.
        assert seen.advantages.shape == seen.mask.shape == seen.fields["score"].shape
        score = seen.fields["score"] & seen.mask
        assert (seen.entropies[seen.mask] >= 0).all()
        for b, k in score.any(dim=2).nonzero().tolist():
            ours, first = seen.advantages[b, k][score[b, k]], seen.advantages[b, k, 0]
            assert ours.tolist() == pytest.approx([2 * first.item()] * len(ours), abs=1e-6)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert math.isfinite(summary["test_mean_error_after"])
    assert summary["test_mean_error_before"] >= 0
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    logged = client.get_run(summary["mlflow_run_id"]).data.metrics
    assert {"val/mean_error", "val/mean_error_greedy", "test/mean_error_after"} <= logged.keys()
    history = client.get_metric_history(summary["mlflow_run_id"], "val/mean_error")
    # The best checkpoint has the lowest error of the validations after each of the three steps.
    errors = [entry.value for entry in history if entry.step > 0]
    assert len(errors) == 3
    assert logged["val/mean_error_best"] == pytest.approx(min(errors), rel=1e-6)
    assert "mean error" in outcome.out
