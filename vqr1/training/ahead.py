"""Responses to the next step's images, sampled while this step is updated (`rollout.ahead`).

    step t:  wait for the responses to batch t  ->  send the weights w_t  ->  ask for the responses
             to batch t+1  ->  update w_t to w_t+1

Batch t+1 is answered by w_t and learnt from at w_t+1: one step off policy. The importance weights
of `importance_sampling.py` correct that as they correct another arithmetic: q is what the engine
reported under w_t, p the trainer's pass under w_t+1. Responses are sampled on policy in a run's
first step, and where the engine lost those under way.

A checkpoint waits for the responses and holds them: the weights that sampled them are gone by then.
A resumed run thus ends in the same bits. Whoever sends weights waits for them too, so that no
response begins under one policy and ends under another.

Not here: asking (`vqr1.rollout`), which batch is next (`vqr1.data.ranking_images`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L

from vqr1.config import SamplingConfig
from vqr1.distributed.collectives import (
    all_gather_objects,
    all_reduce_max,
    get_rank,
    get_world_size,
    raise_on_all_ranks,
)
from vqr1.errors import RolloutLostError
from vqr1.records import RankingBatch, Rollout
from vqr1.rollout.engine import OverlappingEngine, RolloutEngine, UnderWay

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Answered:
    """Responses, and to which rows they are."""

    dataset: str
    task: str
    rows: list[int]
    rollout: Rollout

    def answers(self, batch: RankingBatch, group_size: int) -> bool:
        """Whether they are K responses to the images of a batch."""
        asked = (batch.dataset, batch.task, batch.index.tolist())
        width = self.rollout.mask.shape[1]
        return (self.dataset, self.task, self.rows) == asked and width == group_size


class RolloutAhead(L.Callback):
    """The responses of one step ahead, on this rank; those under way are let go with the training.

    All ranks call `finish`, `take` and `state` at the same points.

    Args:
        upcoming: the batch that is trained on next, on the host.
        group_size: K.
    """

    def __init__(self, upcoming: Callable[[], RankingBatch], group_size: int) -> None:
        self._upcoming = upcoming
        self._group_size = group_size
        self._under_way: tuple[RankingBatch, UnderWay] | None = None
        self._answered: _Answered | None = None

    def ask(self, engine: RolloutEngine, sampling: Mapping[str, SamplingConfig], seed: int) -> None:
        """Ask for responses to the upcoming batch, by the weights that the engine has.

        Args:
            engine: one that samples elsewhere, as `ranking_checks.py` has checked.
            sampling: how responses are drawn, by task.
            seed: of the step that will learn from them.
        """
        assert isinstance(engine, OverlappingEngine)
        batch = self._upcoming()
        self._under_way = batch, engine.begin(
            batch.prompts, group_size=self._group_size, sampling=sampling[batch.task], seed=seed
        )  # fmt: skip

    def finish(self) -> None:
        """Wait for the responses under way, of all ranks; nothing where there are none.

        Raises:
            ModelError: the engine gives other responses than were asked for.
        """
        if self._under_way is None:
            return
        (batch, asked), self._under_way = self._under_way, None
        rollout = raise_on_all_ranks(lambda: _unless_lost(asked.wait))
        lost = bool(all_reduce_max(rollout is None))
        if rollout is not None and not lost:
            rows = batch.index.tolist()
            self._answered = _Answered(batch.dataset, batch.task, rows, rollout)

    def take(self, batch: RankingBatch) -> Rollout | None:
        """The responses to a batch, after waiting for them; None: sample them now.

        They are kept until `forget`: a step whose weights do not reach the engine is begun again.
        """
        self.finish()
        found = self._answered
        if found is None or all_reduce_max(not found.answers(batch, self._group_size)):
            return None
        return found.rollout.to(batch.prompts.device)

    def forget(self) -> None:
        """Let the responses of a step go that has them."""
        self._answered = None

    def on_exception(self, *unused: Any) -> None:
        """Cancel what is under way: the training has failed or was stopped."""
        if self._under_way is not None:
            (_, asked), self._under_way = self._under_way, None
            asked.cancel()

    def state(self) -> list[dict[str, Any]]:
        """The responses to the next batch by rank, in plain containers; empty where none are."""
        self.finish()
        if self._answered is None:
            return []
        return all_gather_objects(_plain(self._answered))

    def load_state(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Take this rank's responses of a `state`; none of a run of another number of ranks."""
        fits = len(saved) == get_world_size()
        self._answered = _from_plain(saved[get_rank()]) if fits else None


def _unless_lost(wait: Callable[[], Rollout]) -> Rollout | None:
    """The responses; None where the engine does not have the weights that sampled any more."""
    try:
        return wait()
    except RolloutLostError as error:
        logger.warning("%s; the responses under way are lost: sampling them by new weights", error)
        return None


def _plain(answered: _Answered) -> dict[str, Any]:
    rollout = answered.rollout.to("cpu")
    return {**vars(answered), "rollout": dict(vars(rollout))}


def _from_plain(saved: Mapping[str, Any]) -> _Answered:
    return _Answered(**{**saved, "rollout": Rollout(**saved["rollout"])})
