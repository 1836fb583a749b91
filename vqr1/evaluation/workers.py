"""Scoring in one process or several.

What it does: runs the planned batches of an evaluation, in this process, in processes that are
started here (`hardware.devices`), or in those that torchrun or srun has started
(`vqr1.distributed`). Every process appends to its own partial file; rank 0 merges.

What it leaves out: planning and merging (`vqr1.evaluation.work`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from transformers.utils.logging import disable_progress_bar

from vqr1.config import EvalConfig, ServerConfig
from vqr1.data.datamodule import RankingDataModule, open_sets
from vqr1.data.labels import Part
from vqr1.data.prompts import PictureSource, PromptBuilder
from vqr1.data.ranking_images import RankingImages, RankingLoader
from vqr1.distributed.environment import RankInfo
from vqr1.errors import UserError
from vqr1.evaluation.labels import whole_sets, with_labels
from vqr1.evaluation.prediction_stream import PredictionStream
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.protocol import BatchScorer, score_batches
from vqr1.evaluation.scorers import build_scorer, evaluation_mode
from vqr1.evaluation.server import PictureReader, ServerScorer
from vqr1.evaluation.work import PlannedBatch, partial_file
from vqr1.policy.loading import load_policy, load_processor
from vqr1.policy.training_prompt import vision_id_of
from vqr1.rollout.server import ChatServer
from vqr1.standard_streams import guard_output

Progress = Callable[[int], None]


class Images:
    """The images of an evaluation: sets, plan and batches.

    Args:
        config: the evaluation, its model resolved.
    """

    def __init__(self, config: EvalConfig) -> None:
        self._part: Part = "test" if config.part == "all" else config.part
        dataset = whole_sets(config.dataset) if config.part == "all" else config.dataset
        # Before the model's own files, which a hub name may have to fetch.
        sets = open_sets(dataset)
        sizes = config.model.min_pixels, config.model.max_pixels
        prompts: PictureSource
        if isinstance(config.backend, ServerConfig):
            prompts = PictureReader(*sizes)
        else:
            prompts = PromptBuilder(
                load_processor(config.model),
                config.prompt.text,
                *sizes,
                vision_id=vision_id_of(config.prompt, config.model),
            )
        self.data = RankingDataModule(dataset, config.loader, prompts, seed=config.seed, sets=sets)
        self._workers = config.loader.workers
        loader = self.data.eval_dataloader(self._part)
        assert isinstance(loader.dataset, RankingImages)
        self._images = loader.dataset
        self._plans = list(loader.sampler)
        self.plan = [
            PlannedBatch(
                plan.dataset,
                tuple(self._images.sets[plan.dataset].images[i] for i in plan.positions),
            )
            for plan in self._plans
        ]
        self.tables = {name: labelled.table for name, labelled in self.data.sets.items()}

    def skipped(self, scored: Predictions) -> dict[str, int]:
        """By set, the images that were left out: missing or empty, or not decodable.

        The first are counted over the whole set, as `RankingDataModule.skipped_images` does, whose
        count of the others knows nothing of other processes and earlier starts: those are the
        planned images without a row.

        Args:
            scored: the finished predictions.
        """
        planned = Counter(batch.dataset for batch in self.plan for _ in batch.images)
        rows = Counter(scored.datasets)
        return {
            name: labelled.skipped + planned[name] - rows[name]
            for name, labelled in self.data.sets.items()
        }

    def batches(self, numbers: Sequence[int]) -> RankingLoader:
        """The batches of the plan with the given numbers, in that order."""
        return RankingLoader(self._images, [self._plans[i] for i in numbers], self._workers)


def score_share(
    config: EvalConfig,
    images: Images,
    numbers: Sequence[int],
    run_dir: Path,
    info: RankInfo,
    on_progress: Progress | None = None,
) -> None:
    """Score some batches and append them to this process's partial file.

    Args:
        config: the evaluation, its model resolved.
        images: its images.
        numbers: batches to score.
        run_dir: where the partial file lies.
        info: rank information of this process.
        on_progress: gets the number of images of each finished batch.
    """
    if not numbers:
        return
    if config.hardware.threads is not None:
        torch.set_num_threads(config.hardware.threads)
    scorer = _scorer(config, info)
    stream = PredictionStream(partial_file(run_dir, info.rank))
    try:
        for scored in score_batches(scorer, images.batches(numbers), on_progress):
            stream.append(with_labels(scored, images.tables))
    finally:
        stream.close()


def _scorer(config: EvalConfig, info: RankInfo) -> BatchScorer:
    """The model, loaded, or the client of a server."""
    if isinstance(config.backend, ServerConfig):
        return ServerScorer(
            ChatServer(config.backend),
            config.prompt.text,
            vision_id_of(config.prompt, config.model, hub=False),
            evaluation_mode(config.mode, config.prompt, config.seed),
            config.mode.name == "expected",
        )
    gpu = config.hardware.accelerator == "gpu"
    if config.model.path is None:
        disable_progress_bar()  # the tiny policy loads in a blink
    policy = load_policy(
        config.model,
        attention=config.hardware.attention,
        device=f"cuda:{info.local_rank}" if gpu else "cpu",
    )
    policy.model.requires_grad_(False)
    return build_scorer(policy, config.mode, config.prompt, config.seed)


def score_in_processes(
    config: EvalConfig, dealt: Sequence[Sequence[int]], run_dir: Path, on_progress: Progress
) -> None:
    """Start one process a share and wait for all of them.

    Args:
        config: the evaluation, its model resolved.
        dealt: batch numbers of each process.
        run_dir: where the partial files lie.
        on_progress: gets numbers of finished images.

    Raises:
        UserError: what a process reported as the user's mistake.
        RuntimeError: a process ended early; what it committed is kept.
    """
    context = mp.get_context("spawn")
    messages: Any = context.Queue()
    processes = [
        context.Process(target=_child, args=(config, list(share), run_dir, rank, messages))
        for rank, share in enumerate(dealt)
        if share
    ]
    for process in processes:
        process.start()
    running = len(processes)
    try:
        while running:
            kind, value = _next_message(messages, processes)
            if kind == "images":
                on_progress(value)
            elif kind == "done":
                running -= 1
            elif kind == "error":
                raise UserError(value)
    finally:
        for process in processes:
            if running:
                process.terminate()
            process.join()


def _next_message(messages: Any, processes: Sequence[Any]) -> tuple[str, Any]:
    import queue

    while True:
        try:
            message: tuple[str, Any] = messages.get(timeout=1.0)
            return message
        except queue.Empty:
            dead = [process for process in processes if process.exitcode not in (None, 0)]
            if dead:
                raise RuntimeError(
                    f"a scoring process ended with code {dead[0].exitcode}; start the evaluation "
                    "again with the same run_dir to continue it"
                ) from None


def _child(config: EvalConfig, numbers: list[int], run_dir: Path, rank: int, messages: Any) -> None:
    def advance(count: int) -> None:
        messages.put(("images", count))

    guard_output()
    try:
        devices = config.hardware.devices
        info = RankInfo(rank, devices, rank, devices)
        score_share(config, Images(config), numbers, run_dir, info, advance)
    except UserError as error:
        messages.put(("error", str(error)))
        return
    messages.put(("done", rank))
