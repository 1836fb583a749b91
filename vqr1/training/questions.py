"""Questions about images, asked of a policy before and after its training (`validation.questions`).

So it is seen whether training for scores spoils what a model describes. Ranks share the
questions; answers are kept beside the checkpoints, so that a resumed run asks each policy once.

Not here: the forms of questions and what their answers earn (`vqr1.data.questions`,
`vqr1.evaluation.question_metrics`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from vqr1.config import ModelConfig, PromptConfig, TrainConfig
from vqr1.data.questions import Question, digest_of, image_root, read_questions
from vqr1.distributed.collectives import (
    broadcast_from_rank0,
    gather_objects_to_rank0,
    get_rank,
    get_world_size,
)
from vqr1.evaluation.question_asking import ask, plan_of
from vqr1.evaluation.question_metrics import Row, grade, metric_values, rows_of, tables_of
from vqr1.evaluation.tables import to_markdown
from vqr1.inference.policy_replies import SamplingEngine, sampled_replies
from vqr1.inference.request import Reply, Request
from vqr1.iqa.answers import FreeText
from vqr1.policy.loading import Policy
from vqr1.policy.prompts import PromptBuilders
from vqr1.progress import progress_bar
from vqr1.records import joined_prompts
from vqr1.tracking import RunLog
from vqr1.training.checkpoint_files import step_name
from vqr1.training.prediction_cache import read_kept, write_kept

KEPT = "question_answers"
"""Beginning of the files that hold a policy's answers."""


def training_questions(config: TrainConfig) -> list[Question]:
    """The questions of a training, their images found; none where no file is configured.

    Raises:
        DataError: as `vqr1.data.questions.read_questions`.
    """
    validation = config.validation
    if validation.questions is None:
        return []
    path = Path(validation.questions).expanduser()
    return read_questions(path, image_root(path, validation.questions_root))


class AskedPolicy:
    """A policy in training as what `vqr1.evaluation.question_asking.ask` asks.

    Args:
        policy: with full weights.
        engine: samples from it, and takes prompts as they are built here.
        model: the sizes that images are resized to.
    """

    def __init__(self, policy: Policy, engine: SamplingEngine, model: ModelConfig) -> None:
        self._device = next(policy.model.parameters()).device
        self._engine = engine
        self._builders = PromptBuilders(policy.family, policy.processor, model)

    def resize(self, image: Image.Image) -> Tensor:
        """[H, W, 3] uint8 pixels that the model will see."""
        return self._builders.rule.pixels(image)

    def reply(
        self, images: Sequence[Sequence[Tensor]], request: Request, prompts: Sequence[PromptConfig]
    ) -> list[Reply]:
        """One reply for each of B prompts about as many images each."""
        built = [
            self._builders.new(prompt).from_resized([shown])
            for prompt, shown in zip(prompts, images, strict=True)
        ]
        return sampled_replies(self._engine, joined_prompts(built).to(self._device), request)


def ask_policy(
    config: TrainConfig, policy: Policy, engine: SamplingEngine, questions: Sequence[Question],
    folder: Path, step: int, when: str,
) -> list[Row]:  # fmt: skip
    """What a policy answers, as metrics; empty without questions and on all but rank 0.

    Args:
        config: of the training.
        policy: with full weights in every process.
        engine: samples from it.
        questions: all of them.
        folder: of the checkpoints, where answers are kept.
        step: optimiser steps of the policy.
        when: beside the progress bar.
    """
    if not questions:
        return []
    path = folder / step_name(KEPT, step)
    kept = _read(path, questions) if get_rank() == 0 else None
    if not broadcast_from_rank0(lambda: kept is not None):
        kept = _ask_all(config, policy, engine, questions, when)
        if kept is not None:
            _write(path, questions, kept)
    if kept is None:
        return []
    graded = [grade(question, text) for question, text in zip(questions, kept, strict=True)]
    return rows_of(graded, draws=config.validation.bootstrap_draws)


def _ask_all(
    config: TrainConfig, policy: Policy, engine: SamplingEngine, questions: Sequence[Question],
    when: str,
) -> list[str | None] | None:  # fmt: skip
    """All answers in the questions' order on rank 0, None on the others."""
    assert config.validation.questions is not None
    path = Path(config.validation.questions).expanduser()
    root = image_root(path, config.validation.questions_root)
    sampling = replace(config.rollout.sampling, temperature=0.0, stop="eos")
    request = Request(config.prompt, FreeText(), sampling, seed=config.seed)
    asked = AskedPolicy(policy, engine, config.model)
    own = plan_of(questions, config.validation.batch_size)[get_rank() :: get_world_size()]
    found: dict[int, str | None] = {}
    total = sum(map(len, own))
    with progress_bar(f"questions, {when}", total, shown=get_rank() == 0) as advance:
        for batch in own:
            texts = ask(asked, [questions[n] for n in batch], root, config.prompt, request)
            found |= dict(zip(batch, texts, strict=True))
            advance(len(batch))
    shares = gather_objects_to_rank0(found)
    if shares is None:
        return None
    whole = {number: text for share in shares for number, text in share.items()}
    return [whole[number] for number in range(len(questions))]


def _read(path: Path, questions: Sequence[Question]) -> list[str | None] | None:
    """The answers that are kept, where they are to the same questions."""
    content = read_kept(path, "answers to questions")
    if content is None or content["questions"] != digest_of(questions):
        return None
    return list(content["texts"])


def _write(path: Path, questions: Sequence[Question], texts: Sequence[str | None]) -> None:
    content = {"questions": digest_of(questions), "texts": list(texts)}
    write_kept(content, path, "answers to questions")


def log_questions(run_log: RunLog, rows: Mapping[str, Sequence[Row]], step: int) -> None:
    """Log the metrics of before and after, and `questions.md` with a table of each kind of each.

    Args:
        run_log: of the run.
        rows: by when the policy was asked; empty without questions.
        step: the last one.
    """
    asked = {when: found for when, found in rows.items() if found}
    if not asked:
        return
    run_log.metrics(
        {
            f"{name}_{when}": value
            for when, found in asked.items()
            for name, value in metric_values(found).items()
        },
        step,
    )
    tables = [
        to_markdown(table)
        for when, found in asked.items()
        for table in tables_of(found, f"greedy answers, {when} training", 0.95)
    ]
    run_log.text("questions.md", "# Questions\n\n" + "\n".join(tables))
