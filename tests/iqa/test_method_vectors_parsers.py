"""Parsers and format rules of published methods, against what their public code gave.

The rewards' own arithmetic is tested beside the rewards; here it is written out, so that what is
compared is which number of a response is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from vqr1.iqa.answers.published_rules import RULES, comparison_format, first_answer

Case = Mapping[str, Any]


def read(rule: str, text: str) -> float | None:
    found = RULES[rule].score(text)
    return None if found is None else found.value


def form(rule: str, key: str, value: float = 1.0) -> Callable[[Case], float]:
    return lambda case: value * RULES[rule].compliant(case[key])


def q_insight(case: Case) -> float:
    score = read("q_insight", case["completion"])
    return float(score is not None and abs(score - case["solution"]) < 0.35)


def q_hawkeye(case: Case) -> float:
    score = read("q_hawkeye", case["completion"])
    target = read("q_hawkeye", case["solution"])
    return 0.0 if score is None or target is None else math.exp(-abs(score - target) / 0.30)


def refine_iqa(case: Case) -> float:
    score = read("refine_iqa", case["completion"])
    return float(score is not None and abs(score - case["answer"]) <= 0.5)


def zoom_iqa(case: Case) -> object:
    score = read("zoom_iqa", case["text"])
    return {"error": "AnswerParseError"} if score is None else score


def comparison(case: Case) -> float:
    return float(first_answer(case["completion"]) == case["solution"])


FUNCTIONS: dict[str, Callable[[Case], object]] = {
    "q_insight_score_reward": q_insight,
    "q_insight_format_reward": form("q_insight", "completion"),
    "q_insight_comparison_reward": comparison,
    "q_insight_comparison_format_reward": lambda case: float(comparison_format(case["completion"])),
    "mr_iqa_extract_answer": lambda case: read("mr_iqa", case["text"]),
    "mr_iqa_format_reward_non_thinking": form("mr_iqa", "text"),
    "mr_iqa_format_reward_thinking": form("mr_iqa_thinking", "text"),
    "q_hawkeye_score_reward": q_hawkeye,
    "q_hawkeye_format_reward": form("q_hawkeye", "completion", 0.8),
    "preresq_r1_format_reward": form("preresq", "completion"),
    "refine_iqa_answer_reward": refine_iqa,
    "refine_iqa_format_reward": form("refine_iqa", "completion"),
    "tatar_parse_rating": lambda case: read("tatar", case["text"]),
    "zoom_iqa_extract_rating": zoom_iqa,
}


@pytest.mark.parametrize("key", FUNCTIONS)
def test_a_rule_agrees_with_the_public_code(key: str, shared: Path) -> None:
    vectors = json.loads((shared / "reference" / "method_vectors.json").read_text())[key]
    found = [FUNCTIONS[key](case) for case in vectors["inputs"]]
    for case, ours, theirs in zip(vectors["inputs"], found, vectors["outputs"], strict=True):
        if isinstance(theirs, float | int) and ours is not None:
            assert ours == pytest.approx(theirs, abs=vectors["tolerance"]), case
        else:
            assert ours == theirs, case
