"""Predictions and answers that a run keeps, and what they are answers to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.cli.test_configs import train_config
from tests.evaluation.builders import predictions
from vqr1.training.prediction_cache import AVERAGE, read_predictions, write_predictions
from vqr1.training.questions import QuestionSet, _asked


def test_predictions_of_another_request_are_made_again(tmp_path: Path) -> None:
    mos = np.array([1.0, 2.0, 3.0])
    kept = predictions(mos, mos, references=["I1", "I1", None])
    write_predictions(tmp_path, 2, kept, asked="six samples")
    for asked in ("six samples", None):
        found = read_predictions(tmp_path, 2, asked=asked)
        assert found is not None
        assert (found.images, found.references) == (kept.images, kept.references)
    assert read_predictions(tmp_path, 2, asked="greedy") is None
    assert read_predictions(tmp_path, 2, AVERAGE, asked="six samples") is None


def test_answers_to_questions_are_of_one_prompt_image_size_and_precision() -> None:
    config = train_config()
    one = QuestionSet((), Path("images"), config.prompt, config.rollout.sampling)
    asked = _asked(config, [one])
    assert _asked(train_config("validation.samples=3"), [one]) == asked
    other = [
        _asked(config, [replace(one, short_edge=512)]),
        _asked(config, [replace(one, prompt=replace(config.prompt, system="Look."))]),
        _asked(train_config("model.max_pixels=6272"), [one]),
        _asked(train_config("hardware.precision=bf16-mixed"), [one]),
    ]
    assert asked not in other
    assert len(set(other)) == 4
