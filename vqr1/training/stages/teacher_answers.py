"""What a teacher states of the training and validation images: sampled answers, scores, states.

Two files in the run's folder grow batch by batch, so that a killed run resumes where it was:
`teacher.jsonl`, whose first line holds what decides the answers and each other line one image, and
`teacher_states.bin`, the mean last hidden states of the answers (float32). No MOS is in them.
Another run may begin with copies of them (`answers_from`).

Not here: what a student learns of them (`distill.py`).

Shape legend: B images of a batch, K answers each, H hidden size of the teacher's language model.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqr1.data.datamodule import RankingDataModule
from vqr1.data.labels import Split
from vqr1.device import passes_in
from vqr1.distributed.stop_requests import StopRequests
from vqr1.durable import CommittedFile, committed_mark, committed_size, remove_committed
from vqr1.errors import ConfigError
from vqr1.iqa.answers import AnswerForm
from vqr1.policy.shared_prompt import plan_micro_batches, response_states
from vqr1.policy.unwrap import unwrap
from vqr1.policy.vision import configuration_text, encode_images, weights_digest
from vqr1.progress import progress_bar
from vqr1.records import RankingBatch
from vqr1.training.asked import differing, what_decides
from vqr1.training.stages.base import StageParts

logger = logging.getLogger(__name__)

FILE = "teacher.jsonl"
STATES = "teacher_states.bin"
LEAST_SCORED = 0.5
"""Share of the training images that a teacher has to score."""

FIRST = 64
"""Images after which a teacher that has scored none is asked no more."""

Row = tuple[str, int]
"""Data set and row of its label table."""


@dataclass(frozen=True)
class TeacherAnswers:
    """What a teacher states, by image.

    Attributes:
        scores: mean of the valid scores; images without one are not in it.
        states: [K, H] float32 mean hidden states of the answers.
    """

    scores: Mapping[Row, float]
    states: Mapping[Row, Tensor]

    def known(self, batch: RankingBatch) -> list[int]:
        """Places in a batch of the images that have a score."""
        return [b for b, row in enumerate(rows_of(batch)) if row in self.scores]

    def targets(self, rows: Sequence[Row]) -> Tensor:
        """[B] float32 scores of images that have one."""
        return torch.tensor([self.scores[row] for row in rows], dtype=torch.float32)


def rows_of(batch: RankingBatch) -> list[Row]:
    """By what the images of a batch are known here."""
    return [(batch.dataset, int(row)) for row in batch.index.tolist()]


def teacher_answers(
    parts: StageParts, samples: int, answers_from: str | None = None
) -> TeacherAnswers:
    """Ask the policy that a run begins with of all training and validation images, once.

    Args:
        parts: of the run.
        samples: K.
        answers_from: folder of another run whose answers are taken; None asks for all.

    Raises:
        ConfigError: fewer than half of the training images got a score, or no validation image, or
            all got the same; or the other run has no answers, or those of another teacher, other
            images or other draws.
        Interrupted: a stop was asked for; what has been answered is kept.
    """
    writer = _Writer(parts, samples, answers_from)
    device = next(parts.policy.model.parameters()).device
    with closing(writer), passes_in(parts.config.hardware.precision, device):
        writer.ask()
    found = _read(parts.run_dir)
    _check(found, parts)
    return found


def _check(found: TeacherAnswers, parts: StageParts) -> None:
    train = split_rows(parts.data, "train")
    scored = sum(row in found.scores for row in train)
    if scored < LEAST_SCORED * len(train):
        raise _other_form(scored, len(train))
    validation = split_rows(parts.data, "val", parts.config.validation.max_images)
    if not any(row in found.scores for row in validation):
        raise ConfigError(
            [
                f"stage=distill: the teacher's answers state a score of none of the "
                f"{len(validation)} validation images; raise stage.samples, or take another teacher"
            ]
        )
    if len({found.scores[row] for row in train if row in found.scores}) < 3:
        raise ConfigError(
            ["stage=distill: the teacher's scores of all training images are one or two numbers, "
             "from which nothing is learned; take a teacher whose scores differ between images"]
        )  # fmt: skip


def split_rows(data: RankingDataModule, split: Split, most: int | None = None) -> list[Row]:
    """The images of a split, at most so many of each set."""
    return [
        (name, int(row)) for name, own in data.sets.items() for row in own.rows(split, most).index
    ]


def _other_form(scored: int, asked: int) -> ConfigError:
    return ConfigError(
        [
            f"stage=distill, answer: the teacher's answers state a score of {scored} of {asked} "
            "training images in this answer form; take a teacher that was trained with it, or "
            "choose its prompt= and answer="
        ]
    )


class _Writer:
    """Asks for what the files lack."""

    def __init__(self, parts: StageParts, samples: int, answers_from: str | None) -> None:
        self._parts, self._samples = parts, samples
        self._stops: StopRequests = parts.stops
        settings = _settings(parts, samples)
        kept = _first_line(parts.run_dir / FILE)
        other = [] if kept is None else differing(kept, settings)
        if other:
            logger.warning("%s: answers of another %s, asked for again", FILE, ", ".join(other))
        if kept is None or other:
            for name in (FILE, STATES):
                remove_committed(parts.run_dir / name)
            if answers_from is not None:
                _copy(Path(answers_from).expanduser(), parts.run_dir, settings)
        self._lines = CommittedFile(parts.run_dir / FILE)
        self._states = CommittedFile(parts.run_dir / STATES)
        if not self._lines.size:
            self._lines.append((json.dumps(settings) + "\n").encode())
        self._done: set[Row] = set()
        self._scored = 0
        for line in _image_lines(parts.run_dir):
            self._add(line)

    def close(self) -> None:
        """Close the files."""
        self._lines.close()
        self._states.close()

    def _add(self, line: Mapping[str, Any]) -> None:
        self._done.add((line["dataset"], line["row"]))
        self._scored += any(score is not None for score in line["scores"])

    def ask(self) -> None:
        """Answer batch after batch; a batch is written as a whole.

        Raises:
            ConfigError: none of the first images got a score.
        """
        validation = self._parts.config.validation
        data = self._parts.data
        splits: tuple[tuple[Split, int | None], ...] = (
            ("train", None),
            ("val", validation.max_images),
        )
        asked = {split: split_rows(data, split, most) for split, most in splits}
        total = sum(map(len, asked.values()))
        with progress_bar("images, the teacher's answers", total, shown=True) as advance:
            for split, most in splits:
                if self._done.issuperset(asked[split]):
                    advance(len(asked[split]))
                    continue
                loader = data.eval_dataloader(split, most, validation.batch_size)
                for batch in loader:
                    if not set(rows_of(batch)) <= self._done:
                        self._stops.check()
                        self._answer(batch)
                        if not self._scored and len(self._done) >= FIRST:
                            raise _other_form(0, len(self._done))
                    advance(len(batch))

    def _answer(self, batch: RankingBatch) -> None:
        parts, model = self._parts, self._parts.policy.model
        prompts = batch.prompts.to(next(model.parameters()).device)
        sampling = parts.config.rollout.sampling.ending_with(parts.answer.closing)
        with torch.no_grad():
            vision = encode_images(model, prompts)
        rollout = parts.engine.sample(
            prompts,
            group_size=self._samples,
            sampling=sampling,
            seed=parts.config.seed,
            vision=vision,
        )
        mask = rollout.mask
        states = torch.zeros(*mask.shape[:2], unwrap(model).get_input_embeddings().embedding_dim)
        for part in plan_micro_batches(prompts, mask, parts.config.hardware.micro_batch_tokens):
            chosen = prompts.select(part.start, part.stop)
            states[part] = response_states(
                model, chosen, rollout.tokens[part], mask[part],
                vision.select(part.start, part.stop),
            ).cpu()  # fmt: skip
        first = self._states.size
        self._states.append(states.numpy().tobytes())
        step = states[0].numel() * 4
        lines = [
            {
                "dataset": name,
                "row": row,
                "image": batch.names[b],
                "texts": rollout.texts[b],
                "scores": _scores(rollout.texts[b], parts.answer),
                "states": [first + b * step, *states[b].shape],
            }
            for b, (name, row) in enumerate(rows_of(batch))
        ]
        self._lines.append("".join(json.dumps(line) + "\n" for line in lines).encode())
        for line in lines:
            self._add(line)


def _copy(source: Path, run_dir: Path, settings: Mapping[str, Any]) -> None:
    """Begin with another run's answers; a first line makes them valid, and so comes last."""
    found = _first_line(source / FILE)
    who = f"stage.answers_from={source}"
    if found is None:
        raise ConfigError([f"{who}: no {FILE} is there; give the folder of a run of this stage"])
    other = differing(found, settings)
    if other:
        raise ConfigError(
            [f"{who}: its answers are of another {', '.join(other)}; set null to ask for them"]
        )
    # The lines are read first: what grows meanwhile has more states than lines.
    contents = {name: _committed(source / name) for name in (FILE, STATES)}
    for name in (STATES, FILE):
        with closing(CommittedFile(run_dir / name)) as file:
            file.append(contents[name])


def _committed(file: Path) -> bytes:
    size = committed_size(file)
    with file.open("rb") as content:
        return content.read(size)


def _settings(parts: StageParts, samples: int) -> dict[str, Any]:
    """What decides a teacher's answers, as plain values."""
    return what_decides(
        parts.config,
        parts.data,
        teacher=parts.policy.source,
        revision=parts.policy.revision,
        # A run's export may have been written anew under its name.
        weights=weights_digest(
            parts.policy.model, configuration_text(parts.policy.model, text_model=True)
        ),
        samples=samples,
        sampling=parts.config.rollout.sampling,
        form=parts.answer,
    )


def _scores(texts: Sequence[str], form: AnswerForm) -> list[float | None]:
    return [form.parse(text).score for text in texts]


def _first_line(file: Path) -> Any:
    if not file.is_file() or not committed_mark(file).is_file():
        return None
    with file.open(encoding="utf-8") as lines:
        first = lines.readline()
    return json.loads(first) if first.endswith("\n") else None


def _image_lines(run_dir: Path) -> list[dict[str, Any]]:
    lines = (run_dir / FILE).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[1:]]


def _read(run_dir: Path) -> TeacherAnswers:
    scores: dict[Row, float] = {}
    states: dict[Row, Tensor] = {}
    raw = np.fromfile(run_dir / STATES, dtype=np.float32)
    for line in _image_lines(run_dir):
        row = (str(line["dataset"]), int(line["row"]))
        valid = [score for score in line["scores"] if score is not None]
        if valid:
            scores[row] = math.fsum(valid) / len(valid)
        place, count, width = line["states"]
        values = raw[place // 4 : place // 4 + count * width]
        states[row] = torch.from_numpy(values.reshape(count, width).copy())
    return TeacherAnswers(scores, states)
