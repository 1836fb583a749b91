"""From answers to scores to metrics, with answers written by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.evaluation.builders import THINKING, ListEngine, batch, predictions
from vqr1.config import SamplingConfig
from vqr1.evaluation.predictions import concatenate
from vqr1.evaluation.protocol import predictions_of, score_images
from vqr1.evaluation.summary import paired_gain, summarise
from vqr1.inference.request import Reply, Request
from vqr1.iqa.answers import PUBLISHED
from vqr1.records import BatchLabels

REQUEST = Request(THINKING, PUBLISHED, SamplingConfig(max_new_tokens=8), samples=2, seed=5)


def answer(score: str) -> str:
    return f"<think>x</think><answer>{score}</answer>"


def test_answers_become_scores() -> None:
    engine = ListEngine(
        [
            [answer("3.0"), answer("4.0")],
            [answer("good"), answer("2.0")],
            [answer("?"), "no tags"],
            ["5", answer("1")],
        ]
    )
    seen: list[int] = []
    found = score_images(
        engine,
        [batch(["a", "b", "c"], [1.0, 2.0, 3.0]), batch(["d"], [4.0])],
        request=REQUEST,
        on_progress=seen.append,
    )
    assert found.images == ("a", "b", "c", "d")
    np.testing.assert_array_equal(found.scores, [[3, 4], [np.nan, 2], [np.nan, np.nan], [5, 1]])
    np.testing.assert_array_equal(found.valid, [[1, 1], [0, 1], [0, 0], [1, 1]])
    np.testing.assert_array_equal(found.format_compliant, [[1, 1], [1, 1], [1, 0], [0, 1]])
    np.testing.assert_array_equal(found.mos, [1, 2, 3, 4])
    assert seen == [3, 1]
    assert engine.calls == [(2, REQUEST.sampling, 5)] * 2
    np.testing.assert_array_equal(found.image_scores(), [3.5, 2.0, np.nan, 3.0])
    np.testing.assert_array_equal(found.image_scores("all_valid"), [3.5, np.nan, np.nan, 3.0])
    # Standard deviations of (3, 4) and (5, 1): sqrt(.5) and sqrt(8); one valid answer has none.
    np.testing.assert_allclose(found.score_std(), [math.sqrt(0.5), np.nan, np.nan, math.sqrt(8)])


def test_images_without_a_score_are_excluded_and_counted() -> None:
    # Without image 2 the ranks agree: 1. Any number in its place would change that.
    found = summarise(
        predictions([[1, 1], [2, 2], [np.nan, np.nan], [3, np.nan]], [1, 2, 0, 4]), draws=0
    )
    assert found.srcc == pytest.approx(1.0)
    assert (found.n, found.n_scored) == (4, 3)
    assert found.invalid_rate == pytest.approx(3 / 8)
    strict = summarise(
        predictions([[1, 1], [2, 2], [3, 3], [0, np.nan]], [1, 2, 3, 4]),
        draws=0,
        rule="all_valid",
    )
    assert (strict.srcc, strict.n_scored) == (pytest.approx(1.0), 3)


def test_a_set_without_metrics_states_why() -> None:
    found = summarise(predictions([2.0, 2, 2, 2], [1, 2, 3, 4]), draws=100)
    assert math.isnan(found.srcc)
    assert found.reasons["srcc"] == "all predictions are equal"
    assert math.isnan(found.metrics["srcc"].interval.low)


def test_several_sets_are_averaged_and_never_pooled() -> None:
    # Within each set the order is right; pooled, the second set's scale would spoil it.
    first = predictions([1, 2, 3, 4, 5], [10, 20, 30, 40, 50], dataset="a")
    second = predictions([3, 1, 2, 4, 5], [0.1, 0.2, 0.3, 0.4, 0.5], dataset="b")
    found = summarise(concatenate([first, second]), draws=200)
    # Ranks 3 1 2 4 5 against 1..5: squares 4 1 1, 1 - 6 * 6 / 120 = .7.
    assert found.parts["a"].srcc == pytest.approx(1.0)
    assert found.parts["b"].srcc == pytest.approx(0.7)
    assert found.srcc == pytest.approx(0.85)
    assert found.n == 10
    alone = summarise(second, draws=200)
    one = found.parts["b"].metrics["srcc"].interval
    assert alone.metrics["srcc"].interval == one


def test_references_are_resampled_where_images_share_them() -> None:
    rng = np.random.default_rng(0)
    effect = rng.normal(size=12)
    mos = np.repeat(effect, 8) + 0.3 * rng.normal(size=96)
    scores = mos + np.repeat(rng.normal(size=12), 8)
    labels = [f"I{i // 8}" for i in range(96)]
    grouped = summarise(predictions(scores, mos, references=labels))
    with_references = grouped.metrics["srcc"].interval
    images = summarise(predictions(scores, mos)).metrics["srcc"].interval
    width = with_references.high - with_references.low
    assert width > 1.5 * (images.high - images.low)


def test_paired_gain_on_common_images() -> None:
    mos = np.arange(20.0)
    before = predictions(np.r_[mos[::-1][:10], mos[10:]], mos)
    after = predictions(np.r_[mos[:19], np.nan], mos)
    gain = paired_gain(before, after, draws=200)
    assert gain.n == 19
    assert gain.after == pytest.approx(1.0)
    assert gain.gain == pytest.approx(gain.after - gain.before)
    assert gain.gain in gain.interval
    with pytest.raises(ValueError, match="same data set"):
        paired_gain(before, predictions(mos, mos, dataset="other"))


def test_what_the_labels_state_is_taken_over() -> None:
    request = Request(THINKING, PUBLISHED, SamplingConfig(max_new_tokens=8))
    labels = BatchLabels(
        std=torch.tensor([0.25, math.nan]), references=("I1", None), distortions=("blur", None)
    )
    replies = [Reply((answer("3.0"),)), Reply((answer("4.0"),))]
    rows = batch(["a", "b"], [1.0, 2.0])
    found = predictions_of(replace(rows, labels=labels), replies, request)
    np.testing.assert_array_equal(found.std, [0.25, np.nan])
    assert (found.references, found.distortions) == (("I1", None), ("blur", None))
    unknown = predictions_of(rows, replies, request)
    assert np.isnan(unknown.std).all()
    assert (unknown.references, unknown.distortions) == ((None, None), (None, None))


def test_replies_without_a_text_and_with_an_error() -> None:
    request = Request(THINKING, PUBLISHED, SamplingConfig(max_new_tokens=8), expected=True)
    replies = [
        Reply((answer("3.0"),), 2.5, 0.5, 0.125),
        Reply((), 4.0, 0.5, 0.25),
        Reply(("never begins",)),
        Reply(error="<answer>5</answer> is refused"),
    ]
    found = predictions_of(batch(["a", "b", "c", "d"], [1.0, 2.0, 3.0, 4.0]), replies, request)
    np.testing.assert_array_equal(found.scores[:, 0], [2.5, 4.0, np.nan, np.nan])
    np.testing.assert_array_equal(found.valid[:, 0], [True, True, False, False])
    # The form of an answer that was not generated was given; an error has none.
    np.testing.assert_array_equal(found.format_compliant[:, 0], [True, True, False, False])
    np.testing.assert_array_equal(found.lost, [0.125, 0.25, np.nan, np.nan])
    assert found.texts[1:] == (("",), ("never begins",), ("<answer>5</answer> is refused",))
