"""One run: trained, or resumed, and scored; and the starts, taught an answer form.

Everything happens in this process, so that a sweep pays for the imports once. A run is an ordinary
run of `train.py` in a folder of its own, and `resume=FOLDER` would continue it as well.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from arms import FORMS, Arm, Form
from plan import config_of

from vqr1.cli.compose import compose_config, plain_values
from vqr1.cli.train import check
from vqr1.config import TrainConfig, validate
from vqr1.data.datamodule import RankingDataModule
from vqr1.data.labels import Split
from vqr1.distributed.environment import RankInfo
from vqr1.evaluation.predictions import Predictions, concatenate
from vqr1.evaluation.protocol import score_batch
from vqr1.inference.policy_replies import ReplyEngine
from vqr1.inference.request import Request
from vqr1.iqa.answers import AnswerForm, form_after
from vqr1.rewards.build import build_rewards
from vqr1.student.folder import load_student
from vqr1.student.model import StudentEngine
from vqr1.training.build import build_engine, load_trained_policy
from vqr1.training.command import RunCommand
from vqr1.training.initial_run import take_initial_run
from vqr1.training.opening import open_data
from vqr1.training.run import run_training
from vqr1.training.run_record import read_record
from vqr1.training.stages import build_stage
from vqr1.training.validation import level_mode, validation_modes

COMMON = (
    "hardware.threads=1", "loader.workers=0", "logger=csv", "callbacks.progress=false",
    "validation.test=false", "validation.samples=1",
    "validation.max_images=16", "dataset.split.near_duplicates=ignore",
    "validation.every_steps=100000",
    "callbacks.checkpoint.every_steps=20", "callbacks.checkpoint.keep=1", "optimizer.lr=4e-4",
)  # fmt: skip
"""No checkpoint is chosen: the policy after the last step is scored."""
SCORED = (
    "rollout.sampling.temperature=1", "rollout.sampling.top_k=50", "validation.test=true",
    "dataset.max_images=null",
)  # fmt: skip
"""How answers are sampled for the test, and of what, whatever the training's settings are."""
TEST_IMAGES, ANSWERS = 300, 4
"""Random test images, the same for all, and answers to each."""
LESSONS = 800
"""Training images whose answers a start is taught to write in its form."""
LESSON_STEPS = (50, 100, 200, 400)
"""Steps of the lessons in a form: the first number after which enough answers are valid."""
LEAST_VALID = 0.75
_OWN = re.compile(r"<think>([^<]*)</think><answer>([0-9.]+)</answer>")


def train(overrides: Sequence[str], folder: Path) -> None:
    """Train, continue, or pass over what has finished."""
    record = read_record(folder)
    if record is not None and record.finished:
        return
    given = [*COMMON, *overrides, f"run_dir={folder}"]
    composed = compose_config("train", given)
    take_initial_run(composed, given)
    if record is not None:
        composed.resume = str(folder)
    elif folder.exists():
        shutil.rmtree(folder)
    config = validate(TrainConfig, plain_values(composed))
    check(config)
    choices = dict(o.split("=") for o in given if "." not in o.partition("=")[0])
    command = RunCommand(
        tuple(given),
        {"reward": config.stage.target, **choices},
        lambda _: {},
        lambda _, name: [],
        lambda _: False,
    )
    run_training(config, composed, RankInfo(), command)


@dataclass(frozen=True)
class Scorer:
    """Something that scores images, with what it is asked.

    Attributes:
        config: its configuration.
        data: its images.
        engine: what answers.
        request: what is asked.
        tokenizer: of the policy.
    """

    config: TrainConfig
    data: RankingDataModule
    engine: ReplyEngine
    request: Request
    tokenizer: Any

    def score(self, split: Split, most: int) -> Predictions:
        """Scores of so many random images of a split."""
        batches = self.data.eval_dataloader(split, most, 64)
        return concatenate([score_batch(self.engine, batch, self.request) for batch in batches])

    def tokens(self, found: Predictions) -> float:
        """Mean tokens of the responses, with the end of the turn; NaN where none was written."""
        written = [text for texts in found.texts for text in texts if text]
        ids = self.tokenizer(written, add_special_tokens=False)["input_ids"] if written else []
        return float(np.mean([len(i) + 1 for i in ids])) if written else math.nan


@contextmanager
def scorer(arm: Arm, weights: Path | None, data: Sequence[str], answers: int) -> Iterator[Scorer]:
    """A policy or student with its data, asked as an arm asks.

    Args:
        arm: the arm.
        weights: an export; None: the packaged policy.
        data: overrides that choose the data set.
        answers: sampled for each image.
    """
    model = [] if weights is None or _fast(weights) else [f"model.path={weights}"]
    config = config_of(arm, *COMMON, arm.limit, *data, *model, *SCORED)
    opened = open_data(config, build_stage(config.stage), build_rewards(config.reward))
    with closing(opened):
        policy = load_trained_policy(config)
        policy.model.eval()
        form = form_after(config.answer.form, opened.prompt_text)
        request, engine = _request(config, form, answers), build_engine(config, policy, Path())
        if weights is not None and _fast(weights):
            student, _ = load_student(str(weights), "cpu")
            engine = StudentEngine(student)  # type: ignore[assignment]
            request = Request(config.prompt, form, config.rollout.sampling, expected=True)
        yield Scorer(config, opened, engine, request, policy.processor.tokenizer)


def _fast(weights: Path) -> bool:
    record = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    return bool(record.get("model_type") == "vqr1_student")


def _request(config: TrainConfig, form: AnswerForm, answers: int) -> Request:
    sampling = config.rollout.sampling.ending_with(form.closing)
    if config.validation.mode == "levels":
        return level_mode(config.prompt, form, sampling).primary
    return validation_modes(sampling, answers, 1, config.prompt, form).primary


def lessons(predictions: Predictions, form: Form, parsed: AnswerForm, file: Path) -> None:
    """Write the packaged policy's own answers in another form, as responses of `stage=sft`."""
    rng = np.random.default_rng(0)
    lines: list[dict[str, str]] = []
    own: list[re.Match[str]] = []
    for image, texts in zip(predictions.images, predictions.texts, strict=True):
        # An image whose answers are all out of form has the words of the one before.
        own = [m for text in texts if (m := _OWN.fullmatch(text.strip()))] or own
        for found in own:
            score = min(max(float(found[2]), 1.0), 5.0)
            text = form.write(found[1], score, rng)
            assert parsed.parse(text).score is not None, text
            assert parsed.parse(text).format_compliant, text
            lines.append({"image": image, "response": text})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def cpu_seconds() -> float:
    """Processor seconds of this process."""
    return time.process_time()


__all__ = ["ANSWERS", "FORMS", "LESSONS", "TEST_IMAGES", "cpu_seconds", "scorer", "train"]
