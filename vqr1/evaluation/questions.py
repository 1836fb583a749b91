"""Asking a model the questions of a file: `python eval.py questions=FILE`.

One greedy answer a question, by any backend. Answers are committed batch by batch and resumed
(`vqr1.inference.resume`); at the end `answers.jsonl` holds every question with its answer and what
it states, beside the report, `metrics.json` and the metrics in the log.

Not here: the forms of files (`vqr1.data.questions`), metrics (`question_metrics.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from vqr1.config import EvalConfig
from vqr1.counted import counted
from vqr1.data.questions import Question, digest_of, image_root, read_questions
from vqr1.distributed.collectives import broadcast_from_rank0, raise_on_all_ranks
from vqr1.distributed.environment import RankInfo
from vqr1.durable import write_file
from vqr1.errors import ConfigError
from vqr1.evaluation.checks import answering_problems
from vqr1.evaluation.partial_predictions import check_settings
from vqr1.evaluation.question_asking import ask, plan_of
from vqr1.evaluation.question_metrics import (
    Graded,
    grade,
    headline,
    json_values,
    metric_values,
    rows_of,
    tables_of,
)
from vqr1.evaluation.report_writer import write_tables, write_values
from vqr1.evaluation.run import end_log, new_console, open_log
from vqr1.evaluation.score_model import (
    continued_with,
    lines_of_defaults,
    resolved_model,
    used_values,
)
from vqr1.evaluation.tables import to_rich
from vqr1.inference.parallel import Progress as Advance
from vqr1.inference.parallel import share_work
from vqr1.inference.request import build_request
from vqr1.inference.resume import GrowingFile, Partials, cut_to_committed
from vqr1.inference.settings import answer_settings
from vqr1.inference.setup import InferenceSetup
from vqr1.iqa.answers import FreeText
from vqr1.program import setting

ANSWERS = "answers.jsonl"
"""The finished answers in the run directory."""

_SETTINGS = (
    "model.",
    "backend.",
    "mode.sampling.",
    "prompt.system",
    "prompt.vision_id",
    "prompt.enable_thinking",
)
"""Beginnings of the keys that decide an answer to a question, among those that decide scores."""

Asked = Mapping[int, str | None]
"""Answers by the number of their question; None where an image could not be read."""


def evaluate_questions(config: EvalConfig, composed: DictConfig, info: RankInfo) -> float | None:
    """Ask every question that has not been asked yet, and report.

    Args:
        config: typed configuration; `questions` is set.
        composed: the same as Hydra composed it, for the log.
        info: rank information of this process, which is connected with the others.

    Returns:
        Accuracy of choices, or what the file's first kind of question has in its place; None on all
        but rank 0.

    Raises:
        UserError: the file, its images, the model, or an evaluation to continue are not as they
            should be.
    """
    started, console = time.monotonic(), new_console()
    source, config = resolved_model(config, composed)
    raise_on_all_ranks(lambda: _check_answering(config))
    questions = raise_on_all_ranks(lambda: questions_of(config))
    run_dir = Path(broadcast_from_rank0(lambda: config.run_dir))
    config = replace(config, run_dir=str(run_dir))
    broadcast_from_rank0(lambda: check_settings(run_dir, settings_of(config, questions)))
    if info.rank == 0:
        for line in lines_of_defaults(config, composed):
            console.print(line)
    left = broadcast_from_rank0(lambda: _left(questions, run_dir, console))
    plan = plan_of(questions, config.loader.batch_size, left)
    share_work(
        partial(_ask_share, config, questions, plan),
        partial(_ask_share, config, questions, plan),
        range(len(plan)),
        list(map(len, plan)),
        info,
        config.hardware.devices,
        label="questions",
        resume_with=continued_with(run_dir),
    )
    if info.rank:
        return None
    for key, value in used_values(config).items():
        OmegaConf.update(composed, key, value, force_add=True)
    found = _read(run_dir)
    graded = [grade(question, found.get(n)) for n, question in enumerate(questions)]
    write_file(run_dir / ANSWERS, "".join(map(_row, graded)))
    _partials(run_dir).remove()
    return _report(config, composed, graded, source.name, started, console)


def _check_answering(config: EvalConfig) -> None:
    """Of a model that a run has given, which no check of keys knows."""
    problems = answering_problems(config)
    if problems:
        raise ConfigError(problems)


def questions_of(config: EvalConfig) -> list[Question]:
    """The configured questions, their images found."""
    assert config.questions is not None
    return read_questions(Path(config.questions).expanduser(), root_of(config))


def root_of(config: EvalConfig) -> Path:
    """The folder of the questions' images."""
    assert config.questions is not None
    return image_root(Path(config.questions).expanduser(), config.questions_root)


def settings_of(config: EvalConfig, questions: Sequence[Question]) -> dict[str, Any]:
    """What decides the answers; everything else may change when they are resumed."""
    kept = {
        key: value for key, value in answer_settings(config).items() if key.startswith(_SETTINGS)
    }
    drawn = {"mode.sampling.temperature", "mode.sampling.top_k", "mode.sampling.top_p"}
    return {
        **{key: value for key, value in kept.items() if key not in drawn},
        "questions (SHA-256)": digest_of(questions),
    }


def _ask_share(
    config: EvalConfig, questions: Sequence[Question], plan: Sequence[Sequence[int]],
    info: RankInfo, numbers: list[int], advance: Advance,
) -> None:  # fmt: skip
    """Ask some batches and append the answers to this rank's partial file."""
    if not numbers:
        return
    root = root_of(config)
    most = max(len(question.images) for question in questions)
    # What is asked differs; how many images an engine has to take does not.
    widest = replace(config.prompt, name="question", images=most, text="question")
    setup = replace(InferenceSetup.of(config), prompt=widest)
    greedy = replace(config.mode, name="greedy")
    request = build_request(greedy, widest, FreeText(), config.seed)
    backend = setup.open(info.local_rank)
    file = GrowingFile(_partials(Path(config.run_dir)).of(info.rank))
    try:
        for number in numbers:
            batch = plan[number]
            texts = ask(backend, [questions[n] for n in batch], root, config.prompt, request)
            rows = [{"item": n, "text": text} for n, text in zip(batch, texts, strict=True)]
            file.append("".join(json.dumps(row) + "\n" for row in rows))
            advance(len(batch))
    finally:
        file.close()


def _partials(run_dir: Path) -> Partials:
    return Partials(run_dir, "answers.partial-", ".jsonl")


def _left(questions: Sequence[Question], run_dir: Path, console: Console) -> list[int]:
    """Numbers of the questions without an answer."""
    done = _read(run_dir)
    left = [number for number in range(len(questions)) if number not in done]
    if done:
        console.print(f"continuing: {len(done)} of {len(questions)} questions are answered")
    else:
        console.print(
            f"{counted(len(questions), 'question')}; if this stops, continue it with "
            f"{setting('run_dir', run_dir)}"
        )
    return left


def _read(run_dir: Path) -> Asked:
    """The answers that are there: finished, or of partial files, which nobody may be writing."""
    finished = run_dir / ANSWERS
    paths = [finished] if finished.is_file() else _partials(run_dir).all()
    found: dict[int, str | None] = {}
    for path in paths:
        if path != finished:
            cut_to_committed(path)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            row = json.loads(line)
            found[row.get("item", number)] = row["text"]
    return found


def _row(graded: Graded) -> str:
    question = graded.question
    values = {
        "kind": question.kind,
        **question.groups,
        "images": list(question.images),
        "question": question.text,
        "options": list(question.options),
        "expected": question.answer,
        "text": graded.text,
        "stated": graded.stated,
        **{name: value for name, value in graded.values.items() if name != "chance"},
    }
    return json.dumps(values) + "\n"


def _report(
    config: EvalConfig, composed: DictConfig, graded: Sequence[Graded], name: str, started: float,
    console: Console,
) -> float:  # fmt: skip
    """Compute, write and print everything; returns the first metric."""
    statistics = config.statistics
    rows = rows_of(
        graded,
        level=statistics.level,
        draws=statistics.bootstrap_draws,
        seed=statistics.seed,
    )
    assert config.questions is not None
    caption = f"{name}, greedy answers, {Path(config.questions).name}"
    tables = tables_of(rows, caption, statistics.level)
    for table in tables:
        console.print(to_rich(table))
    values = json_values(rows)
    with open_log(config, composed, "questions") as run_log:
        write_tables(tables, "Questions", run_log)
        write_values({"questions": values}, run_log)
        run_log.metrics(metric_values(rows))
        run_log.keep(ANSWERS)
        end_log(run_log, {"questions": values, "caption": caption}, started, console)
    return headline(rows)
