"""Evaluating a training's policy on the test images, with a progress bar."""

from __future__ import annotations

from functools import partial

from vqr1.data.datamodule import RankingDataModule
from vqr1.distributed.collectives import broadcast_from_rank0, get_rank, get_world_size
from vqr1.distributed.stop_requests import Looks, StopRequests
from vqr1.errors import DataError
from vqr1.evaluation.predictions import NOTHING, Predictions
from vqr1.evaluation.protocol import score_batch, score_batches
from vqr1.inference.policy_replies import ReplyEngine
from vqr1.inference.request import Request
from vqr1.progress import progress_bar
from vqr1.training.validation import in_table_order


def evaluate_test(
    engine: ReplyEngine,
    data: RankingDataModule,
    request: Request,
    batch_size: int,
    when: str,
    stops: StopRequests,
) -> Predictions | None:
    """Score every test image, with a progress bar, and stop after a batch if asked.

    Ranks share the images; None on all but rank 0.
    """
    ranks = get_world_size()
    loader = data.eval_dataloader("test", batch_size=batch_size, rank=get_rank(), world_size=ranks)
    total = sum(len(labelled.rows("test")) for labelled in data.sets.values())
    looks = Looks(stops, len(loader))
    with progress_bar(f"test images, {when}", total, shown=get_rank() == 0) as advance:

        def scored(images: int) -> None:
            # Rank 0's share stands for the others'.
            advance(images * ranks)
            if looks.after_batch():
                stops.check()

        parts = list(score_batches(lambda b: score_batch(engine, b, request), loader, scored))
    if looks.after_all():
        stops.check()
    found = in_table_order(parts)
    # Each rank may have skipped its own share.
    broadcast_from_rank0(partial(_check_any, found))
    return found


def _check_any(found: Predictions | None) -> None:
    if found is None:
        raise DataError(NOTHING)
