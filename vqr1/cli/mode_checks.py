"""Rules that tie the mode of answering to the prompt: of evaluation, scoring and the service."""

from __future__ import annotations

from vqr1.config import EvalModeConfig, PromptConfig
from vqr1.iqa.answers import ASKED_RANGE


def mode_problems(mode: EvalModeConfig, prompt: PromptConfig) -> list[str]:
    """Every rule that is broken, one line each."""
    problems = []
    if mode.name == "expected" and tuple(prompt.score_range) != ASKED_RANGE:
        problems.append(
            f"mode=expected, prompt.score_range={list(prompt.score_range)}: the expectation is "
            "taken over the digits 1 to 5; use mode=greedy or mode=sampled"
        )
    if mode.name != "sampled" and mode.samples != 1:
        problems.append(
            f"mode.samples={mode.samples}: mode={mode.name} gives one answer an image; choose "
            "mode=sampled"
        )
    if mode.name == "sampled" and mode.samples > 1 and mode.sampling.temperature == 0:
        problems.append(
            f"mode.samples={mode.samples}: greedy answers (mode.sampling.temperature=0) are all "
            "alike; raise the temperature, or choose mode=greedy"
        )
    return problems
