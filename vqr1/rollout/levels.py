"""Answers of level words by one pass over prompt and stem; nothing is generated.

Not here: what is computed of the logits (`vqr1.policy.level_score`), sampled answers (`local.py`).
"""

from __future__ import annotations

import torch

from vqr1.iqa.answers import AnswerForm
from vqr1.policy.finite import check_answer_logprobs
from vqr1.policy.level_score import LevelScores, level_logits, level_scores, level_tokens
from vqr1.policy.unwrap import eval_mode, parts_of
from vqr1.policy.vision import VisionFeatures
from vqr1.records import PromptBatch
from vqr1.rollout.local import LocalEngine


def level_answers(
    engine: LocalEngine,
    prompts: PromptBatch,
    form: AnswerForm,
    vision: VisionFeatures | None = None,
) -> LevelScores:
    """Scores of B images.

    Args:
        engine: reads the prompts.
        prompts: B prompts.
        form: one with `levels`, without reasoning.
        vision: features of the B images, if already computed.

    Raises:
        ModelError: two words share their first token.
        NonFiniteError: logits hold NaN or infinity.
    """
    tokens = level_tokens(engine.tokenizer, form)
    found = []
    with eval_mode(engine.model):
        for _, state in engine.read_turns(tokens.after(prompts), 0, vision):
            found.append(level_logits(parts_of(engine.model).head, state.last_hidden, tokens.words))
    logits, total = (torch.cat(part) for part in zip(*found, strict=True))
    check_answer_logprobs(logits)
    return level_scores(logits, total, tokens.values)
