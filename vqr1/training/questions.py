"""Questions about images, asked of a policy before and after its training.

They are those of `validation.questions`, and held-out items of the auxiliary tasks (`tasks`): of
the test split, or without a test of the validation split, `validation.max_images` of each set. So
it is seen whether training for scores spoils what a model describes. Ranks share the
questions; answers are kept beside the checkpoints, so that a resumed run asks each policy once.

Not here: the forms of questions and what their answers earn (`vqr1.data.questions`,
`vqr1.evaluation.question_metrics`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from vqr1.config import ModelConfig, PromptConfig, SamplingConfig, TrainConfig
from vqr1.data.labels import Split
from vqr1.data.location import set_folder
from vqr1.data.questions import Question, as_item, digest_of, image_root, read_questions
from vqr1.data.task_sets import TaskSets
from vqr1.distributed.collectives import (
    broadcast_from_rank0,
    gather_objects_to_rank0,
    get_rank,
    get_world_size,
)
from vqr1.durable import make_folder, write_file
from vqr1.evaluation.question_asking import ask, plan_of
from vqr1.evaluation.question_metrics import (
    LABELS,
    Graded,
    Row,
    changes_of,
    grade,
    metric_values,
    rows_of,
    tables_of,
)
from vqr1.evaluation.tables import to_markdown
from vqr1.inference.policy_replies import SamplingEngine, sampled_replies
from vqr1.inference.request import Reply, Request
from vqr1.iqa.answers import FreeText
from vqr1.policy.loading import Policy
from vqr1.policy.prompts import PromptBuilders
from vqr1.progress import progress_bar
from vqr1.records import joined_prompts
from vqr1.tracking import RunLog
from vqr1.training.asked import digest
from vqr1.training.checkpoint_files import step_name
from vqr1.training.prediction_cache import read_kept, write_kept

KEPT = "question_answers"
"""Beginning of the files that hold a policy's answers."""
TASKS = "tasks"
"""Folder of the run with the held-out items of its tasks."""


@dataclass(frozen=True)
class QuestionSet:
    """Questions that are asked in one way.

    Attributes:
        questions: their images are found.
        root: folder of the images.
        prompt: its system message and numbering of images.
        sampling: greedy, and how an answer ends.
        short_edge: that images are reduced to before the model's own size; None leaves them.
        file: name of the file that is left of them in the run's folder; None: they are the user's.
        folder: of the set, below which that file names its images.
    """

    questions: Sequence[Question]
    root: Path
    prompt: PromptConfig
    sampling: SamplingConfig
    short_edge: int | None = None
    file: str | None = None
    folder: Path | None = None

    def placed(self, question: Question) -> Question:
        """A question whose images are named as they lie below `folder`."""
        assert self.folder is not None, "a set that leaves a file has a folder"
        folder, root = self.folder.resolve(), self.root.resolve()
        names = tuple(
            Path(os.path.relpath(root / name, folder)).as_posix() for name in question.images
        )
        return replace(question, images=names)


def question_sets(config: TrainConfig, tasks: Mapping[str, TaskSets]) -> list[QuestionSet]:
    """What a training asks before and after: a file's questions, and held-out items of its tasks.

    Raises:
        DataError: as `vqr1.data.questions.read_questions`, or labels of a task's items.
    """
    greedy = replace(config.rollout.sampling, temperature=0.0)
    found = []
    if config.validation.questions is not None:
        path = Path(config.validation.questions).expanduser()
        root = image_root(path, config.validation.questions_root)
        free = replace(greedy, stop="eos")
        found.append(QuestionSet(read_questions(path, root), root, config.prompt, free))
    for task in tasks.values():
        form, prompt = task.source.config.answer.form, task.source.config.prompt
        split: Split = "test" if config.validation.test else "val"
        for name, questions in task.questions(split, config.validation.max_images).items():
            labelled = task.sets[name]
            found.append(
                QuestionSet(
                    questions,
                    labelled.image_root,
                    prompt,
                    greedy.ending_with(form.closing),
                    labelled.config.short_edge,
                    f"{task.name}.{name}.jsonl",
                    set_folder(labelled.config, labelled.key),
                )
            )
    return found


def write_task_questions(sets: Sequence[QuestionSet], run_dir: Path) -> None:
    """Leave the held-out items of tasks as files that `eval.py questions=FILE` asks (`tasks/`)."""
    for one in sets:
        if one.file is not None:
            lines = [
                json.dumps({**as_item(question), "system": one.prompt.system or ""})
                for question in map(one.placed, one.questions)
            ]
            make_folder(run_dir / TASKS)
            write_file(run_dir / TASKS / one.file, "\n".join(lines) + "\n")


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
    config: TrainConfig, policy: Policy, engine: SamplingEngine, sets: Sequence[QuestionSet],
    folder: Path, step: int, when: str,
) -> list[Graded]:  # fmt: skip
    """What a policy answers, and what that earns; empty without questions and on all but rank 0.

    Args:
        config: of the training.
        policy: with full weights in every process.
        engine: samples from it.
        sets: all questions.
        folder: of the checkpoints, where answers are kept.
        step: optimiser steps of the policy.
        when: beside the progress bar.
    """
    questions = [question for one in sets for question in one.questions]
    if not questions:
        return []
    path = folder / step_name(KEPT, step)
    asked = _asked(config, sets)
    kept = _read(path, asked) if get_rank() == 0 else None
    if not broadcast_from_rank0(lambda: kept is not None):
        kept = _ask_all(config, policy, engine, sets, when)
        if kept is not None:
            _write(path, asked, kept)
    if kept is None:
        return []
    return [grade(question, text) for question, text in zip(questions, kept, strict=True)]


def _ask_all(
    config: TrainConfig, policy: Policy, engine: SamplingEngine, sets: Sequence[QuestionSet],
    when: str,
) -> list[str | None] | None:  # fmt: skip
    """All answers in the order of the sets and their questions on rank 0, None on the others."""
    asked = AskedPolicy(policy, engine, config.model)
    batches = [
        (number, batch)
        for number, one in enumerate(sets)
        for batch in plan_of(one.questions, config.validation.batch_size)
    ]
    own = batches[get_rank() :: get_world_size()]
    found: dict[tuple[int, int], str | None] = {}
    total = sum(len(batch) for _, batch in own)
    with progress_bar(f"questions, {when}", total, shown=get_rank() == 0) as advance:
        for number, batch in own:
            one = sets[number]
            request = Request(one.prompt, FreeText(), one.sampling, seed=config.seed)
            chosen = [one.questions[n] for n in batch]
            texts = ask(asked, chosen, one.root, one.prompt, request, one.short_edge)
            found |= {(number, n): text for n, text in zip(batch, texts, strict=True)}
            advance(len(batch))
    shares = gather_objects_to_rank0(found)
    if shares is None:
        return None
    whole = {place: text for share in shares for place, text in share.items()}
    return [whole[number, n] for number, one in enumerate(sets) for n in range(len(one.questions))]


def _asked(config: TrainConfig, sets: Sequence[QuestionSet]) -> str:
    """Digest of the questions, and of how they are asked."""
    model = config.model
    return digest(
        [
            *((digest_of(s.questions), s.prompt, s.sampling, s.short_edge) for s in sets),
            (model.min_pixels, model.max_pixels, config.hardware.precision),
        ]
    )


def _read(path: Path, asked: str) -> list[str | None] | None:
    """The answers that are kept, where they are to the same questions."""
    content = read_kept(path, "answers to questions")
    if content is None or content["questions"] != asked:
        return None
    return list(content["texts"])


def _write(path: Path, asked: str, texts: Sequence[str | None]) -> None:
    write_kept({"questions": asked, "texts": list(texts)}, path, "answers to questions")


def log_questions(
    run_log: RunLog, before: Sequence[Graded], after: Sequence[Graded], step: int, draws: int
) -> None:
    """Log the metrics of before, after and the change, and tables of each kind (`questions.md`).

    A line for each kind of question is printed.

    Args:
        run_log: of the run.
        before: the policy's answers before training; none without questions, and on all but rank 0.
        after: those of the exported policy to the same questions.
        step: the last one.
        draws: of the bootstrap.
    """
    if not before:
        return
    asked = {
        "before": rows_of(before, draws=draws),
        "after": rows_of(after, draws=draws),
        "change": rows_of(changes_of(before, after), draws=draws, counted=()),
    }
    captions = {
        "before": "greedy answers, before training",
        "after": "greedy answers, after training",
        "change": "change with training, of the same questions",
    }
    run_log.metrics(
        {
            f"{name}_{when}": value
            for when, rows in asked.items()
            for name, value in metric_values(rows).items()
        },
        step,
    )
    tables = [
        to_markdown(table)
        for when, rows in asked.items()
        for table in tables_of(rows, captions[when], 0.95)
    ]
    run_log.text("questions.md", "# Questions\n\n" + "\n".join(tables))
    for first, second, change in zip(*asked.values(), strict=True):
        if not change.grouping:
            print(_line(first, second, change), flush=True)


def _line(before: Row, after: Row, change: Row) -> str:
    """One kind of question, by its first metric."""
    name, (gain, interval) = next(iter(change.metrics.items()), ("", (math.nan, None)))
    if not name:
        return f"{change.kind} questions: no image could be read"
    bounds = ""
    if interval is not None and not interval.reason:
        bounds = f" (95 %: {interval.low:+.3f} to {interval.high:+.3f})"
    return (
        f"{change.kind} questions, {LABELS[name]}: {before.metrics[name][0]:.3f} before, "
        f"{after.metrics[name][0]:.3f} after; change {gain:+.3f}{bounds}, {change.count} questions"
    )
