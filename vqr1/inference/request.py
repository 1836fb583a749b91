"""What a model is asked of each image, and what it replies: the records of every way of asking.

Not here: who replies (`vqr1.inference.backends`, `policy_replies.py`), and what a reply states
(`answers.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vqr1.config import EvalModeConfig, PromptConfig, SamplingConfig
from vqr1.config.model import ANSWER_END
from vqr1.iqa.answers import AnswerForm, already_written


@dataclass(frozen=True)
class Request:
    """What each image of a batch is asked.

    Attributes:
        prompt: the question.
        answer: how the answer to it is written, and how it is read.
        sampling: how one answer is drawn; temperature 0 is greedy.
        samples: S, answers to each image, at least 1.
        seed: of the draws.
        expected: the distribution over the answer's numbers is wanted too; the sampling is greedy
            then, and `samples` is 1.
        levels: with `expected`: that over the first tokens of the answer's words, in one pass
            without an answer (`vqr1.policy.level_score`).
        micro_batch_tokens: most tokens that a backend in this process computes together.
    """

    prompt: PromptConfig
    answer: AnswerForm
    sampling: SamplingConfig
    samples: int = 1
    seed: int = 0
    expected: bool = False
    levels: bool = False
    micro_batch_tokens: int = 16384


@dataclass(frozen=True)
class Reply:
    """What a model states of one image.

    Attributes:
        texts: the answers, with what the template wrote of them; empty where none was generated
            (`expected` without reasoning, `levels`).
        score: expected score; None where not asked for, or where the answer never begins or gives
            the numbers of the grammar too little probability.
        std: its standard deviation, likewise.
        lost: probability of answers that are no such number; None where not asked for, or where the
            answer never begins.
        error: why this image cannot be scored, other images could; None where it was.
    """

    texts: tuple[str, ...] = ()
    score: float | None = None
    std: float | None = None
    lost: float | None = None
    error: str | None = None


def with_beginning(reply: Reply, form: AnswerForm, prompt: str) -> Reply:
    """The reply with what the template had written of it already in front of its texts.

    Args:
        reply: what the model wrote.
        form: how an answer begins.
        prompt: the whole prompt as the template writes it.
    """
    written = already_written(form, prompt)
    return replace(reply, texts=tuple(written + text for text in reply.texts)) if written else reply


def build_request(
    mode: EvalModeConfig, prompt: PromptConfig, answer: AnswerForm, seed: int
) -> Request:
    """What a mode asks; all but `sampled` take one greedy answer, or none (`levels`).

    Args:
        mode: how an answer becomes a score.
        prompt: what is asked.
        answer: how answers are written; a description takes one answer and no expected score.
        seed: seed of sampled answers.
    """
    sampled = mode.name == "sampled"
    closing = answer.closing if answer.scored else ANSWER_END
    sampling = mode.sampling.ending_with(closing)
    return Request(
        prompt=prompt,
        answer=answer,
        sampling=sampling if sampled else replace(sampling, temperature=0.0),
        samples=mode.samples if sampled and answer.scored else 1,
        seed=seed,
        expected=mode.name in ("expected", "levels") and answer.scored,
        levels=mode.name == "levels" and answer.scored,
        micro_batch_tokens=mode.micro_batch_tokens,
    )
