"""Answers by expectation: greedy reasoning where the prompt asks for it, then the expected score.

Image and prompt are computed once: the reasoning and the tree of spellings after it
(`vqr1.policy.expected_score`) continue the same keys. An answer is invalid where no `<answer>` (or
whatever stands before the score in the answer form) is, or where the numbers of the grammar have
less than half of the probability there.

Not here: sampled and greedy answers (`local.py`), the mean over several answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vqr1.config import SamplingConfig
from vqr1.iqa.answers import PUBLISHED, AnswerForm
from vqr1.policy.expected_score import MIN_MASS, expected_scores, until_answer
from vqr1.policy.prompt_state import PromptState
from vqr1.policy.spelling_tree import TOP_NODES
from vqr1.policy.unwrap import eval_mode
from vqr1.records import PromptBatch
from vqr1.rollout.local import LocalEngine


@dataclass(frozen=True)
class ExpectedAnswers:
    """Scores of B images.

    Attributes:
        texts: B greedy answers; the form's beginning alone where no reasoning was asked for.
        score: [B] float64 expected score, NaN where the answer is invalid.
        std: [B] float64 standard deviation of the number, NaN where the answer is invalid.
        lost: [B] float64 probability, in [0, 1], of answers that are no number of the grammar, over
            which the expectation is not taken; NaN where no answer begins.
    """

    texts: list[str]
    score: Tensor
    std: Tensor
    lost: Tensor


def expected_answers(
    engine: LocalEngine,
    prompts: PromptBatch,
    *,
    reasoning: SamplingConfig | None,
    form: AnswerForm = PUBLISHED,
) -> ExpectedAnswers:
    """Expected scores of B images.

    Args:
        engine: reads the prompts and writes the reasoning.
        prompts: B prompts.
        reasoning: how long the greedy reasoning before the answer may be, when it ends, and its
            repetition penalty (the digits' probabilities are the model's own); None where the
            prompt asks for none.
        form: how scores are written; it has an opening.

    Raises:
        ModelError: the tokenizer does not spell numbers by their characters.
        NonFiniteError: logits hold NaN or infinity.
    """
    entries = TOP_NODES + (0 if reasoning is None else reasoning.max_new_tokens)
    texts: list[str] = []
    numbers = []
    with eval_mode(engine.model):
        for part, state in engine.read_turns(prompts, entries):
            written = [form.beginning or ""] * len(state.last_hidden)
            if reasoning is not None:
                greedy = replace(reasoning, temperature=0.0)
                responses = engine.decode_turn(part, state, 1, greedy, None)
                written = [text for (text,) in engine.rollout([responses]).texts]
            texts += written
            numbers.append(_after(engine, state, written, form))
    return ExpectedAnswers(texts, *torch.cat(numbers, dim=1))


def _after(engine: LocalEngine, state: PromptState, written: list[str], form: AnswerForm) -> Tensor:
    """[3, A] expected scores, deviations and lost probabilities of A answers so far."""
    opening = form.opening or ""
    beginnings = [until_answer(text, opening) for text in written]
    # An answer that never begins is still computed, as an empty one, and thrown away: such answers
    # are rare, and the batch stays whole.
    found = expected_scores(
        engine.model,
        engine.tokenizer,
        state,
        [text or opening for text in beginnings],
        form,
    )
    begun = torch.tensor([text is not None for text in beginnings])
    enough = found.mass > 0 if form.levels else found.mass >= MIN_MASS
    invalid = ~(begun & enough)
    numbers = torch.stack([found.score, found.std]).masked_fill(invalid, torch.nan)
    # Rounding may take the mass beyond 1.
    lost = (1 - found.mass).clamp(min=0.0).masked_fill(~begun, torch.nan)
    return torch.cat([numbers, lost[None]])
