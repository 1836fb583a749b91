"""Rules that tie the mode of answering to the prompt: of evaluation, scoring and the service."""

from __future__ import annotations

from dataclasses import replace

from vqr1.config import (
    AnyBackend,
    EvalModeConfig,
    LocalBackendConfig,
    ModelConfig,
    PromptConfig,
    SamplingConfig,
    ServerConfig,
    VllmBackendConfig,
)
from vqr1.iqa.answers import AnswerForm
from vqr1.iqa.number_grammar import grammar_of
from vqr1.rollout.chat_request import held_instead, unsupported_problems


def mode_problems(mode: EvalModeConfig, answer: AnswerForm) -> list[str]:
    """Every rule that is broken, one line each."""
    problems = []
    problems += level_problems(answer) if mode.name == "levels" and answer.scored else []
    expected = mode.name == "expected" and answer.scored
    if expected and answer.opening is None:
        problems.append(
            "mode=expected, answer: no fixed text stands before the score of this form, after "
            "which probabilities of scores could be read; use mode=greedy or mode=sampled"
        )
    elif expected and not grammar_of(answer).continues(""):
        problems.append(
            f"mode=expected, answer.score_range={list(answer.score_range)}: no number of "
            "at most two decimals is accepted there; choose another scale"
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


def level_problems(
    answer: AnswerForm, mode: str = "mode=levels", other: str = "mode=expected"
) -> list[str]:
    """Why the words of levels of a form cannot be compared in one pass (`mode=levels`)."""
    if not answer.levels:
        return [
            f"{mode}, answer: this form has no words of levels; choose prompt=levels (or "
            f"answer=levels), or {other}"
        ]
    if answer.reasons:
        return [
            f"{mode}, answer.reasoning: one pass writes no reasoning; set answer.reasoning=null, "
            f"or choose {other}"
        ]
    return []


def served_image_problems(prompt: PromptConfig, key: str = "prompt") -> list[str]:
    """Why a prompt cannot be asked where images come alone or with a reference; one line, or none.

    Args:
        prompt: what is asked.
        key: of the prompt.
    """
    if prompt.images <= 2:
        return []
    return [
        f"{key}.images={prompt.images}: the service asks about one image, or one and its reference;"
        " use a prompt for two at most, or give tuples of images to vqr1.inference.scorer.Scorer"
    ]


def backend_problems(backend: AnyBackend, mode: EvalModeConfig, model: ModelConfig) -> list[str]:
    """Why a backend cannot draw answers as the mode asks, or of the model, one line each."""
    if mode.name == "levels" and not isinstance(backend, LocalBackendConfig):
        return [
            f"mode=levels, backend={backend.name}: the words' logits are read from a model in this "
            "process; use backend=local, or mode=expected"
        ]
    if isinstance(backend, VllmBackendConfig) and model.quantization is not None:
        return [
            f"model.quantization={model.quantization}, backend={backend.name}: vLLM loads the "
            "checkpoint's own weights; use backend=local, or model.quantization=null"
        ]
    if not isinstance(backend, ServerConfig):
        return []
    return unsupported_problems(backend, _drawn(mode))


def held_values(backend: AnyBackend, mode: EvalModeConfig) -> str | None:
    """What holds on a server in place of our own values, in words; None where nothing does."""
    if not isinstance(backend, ServerConfig):
        return None
    held = held_instead(backend, _drawn(mode))
    return f"the server's own {', '.join(held)}" if held else None


def _drawn(mode: EvalModeConfig) -> SamplingConfig:
    """How an answer is drawn: only `sampled` has a temperature."""
    return mode.sampling if mode.name == "sampled" else replace(mode.sampling, temperature=0.0)
