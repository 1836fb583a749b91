"""Parsers and format rules of published methods as `method_vectors.json` calls them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from vqr1.iqa.answers import score_token
from vqr1.iqa.answers.published_rules import (
    RULES,
    comparison_format,
    first_answer,
    requests_crop,
)

Case = Mapping[str, Any]


def read(rule: str, text: str) -> float | None:
    """The number that a rule reads."""
    found = RULES[rule].score(text)
    return None if found is None else found.value


def stated(rule: str, text: str) -> float:
    """The same, NaN without one."""
    found = read(rule, text)
    return math.nan if found is None else found


def form(rule: str, key: str, value: float = 1.0) -> Callable[[Case], float]:
    return lambda case: value * RULES[rule].compliant(case[key])


def or_error(found: Any) -> Any:
    """What the public code of Zoom-IQA raises where ours gives None."""
    return {"error": "AnswerParseError"} if found is None else found


def token_of(case: Case) -> Any:
    try:
        return score_token(case["n"])
    except ValueError:
        return {"error": "ValueError"}


FUNCTIONS: dict[str, Callable[[Case], Any]] = {
    "unipercept_score_token": token_of,
    "q_insight_format_reward": form("q_insight", "completion"),
    "q_insight_comparison_reward": lambda case: float(
        first_answer(case["completion"]) == case["solution"]
    ),
    "q_insight_comparison_format_reward": lambda case: float(comparison_format(case["completion"])),
    "mr_iqa_extract_answer": lambda case: read("mr_iqa", case["text"]),
    "mr_iqa_format_reward_non_thinking": form("mr_iqa", "text"),
    "mr_iqa_format_reward_thinking": form("mr_iqa_thinking", "text"),
    "q_hawkeye_format_reward": form("q_hawkeye", "completion", 0.8),
    "preresq_r1_format_reward": form("preresq", "completion"),
    "refine_iqa_format_reward": form("refine_iqa", "completion"),
    "tatar_parse_rating": lambda case: read("tatar", case["text"]),
    "zoom_iqa_extract_rating": lambda case: or_error(read("zoom_iqa", case["text"])),
    "zoom_iqa_requests_crop": lambda case: or_error(requests_crop(case["text"])),
}
"""Our function by the key of the vectors."""
