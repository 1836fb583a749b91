"""The order in which ranking batches come: a pure plan, and a sampler that walks it.

Rules, for sets of n_s images, B images per process and W processes (global batch G = B W):

1. A batch holds images of one set only, and in one step every process draws from the same set:
   the step's G images are one slice of that set's order, dealt to the processes without overlap.
   The slices depend on G alone, so W = 4 with B = 2 ranks the same images as W = 1 with B = 8.
2. A pass over a set is a permutation of it. `last_batch=drop` excludes the n_s mod G last images
   of a pass, `fill` adds a batch of them, filled up with the pass's first images. A set of n_s < G
   images gives one smaller batch a pass, dealt as evenly as can be: no image stands in a step
   twice, to be compared with its own copy. Only where n_s < W some processes get an image that
   another has too; the pair mathematics knows it by its row (`RankingBatch.index`).
3. Without weights an epoch is one pass over every set. With weights an epoch has as many batches
   as without; set s supplies a share w_s / sum(w) of them (largest remainders, at least one), and
   continues in the next epoch where it stopped, so that each set is still used evenly.
4. Where pairs are learnt from (`graphs`), a pass is made of steps of images that have pairs among
   them (`pair_batches.py`), in place of a permutation.
5. Sets alternate evenly: batch j of the c_s batches of set s comes at time (j + 1/2) / c_s of the
   epoch; ties are broken by a draw for each epoch.

All draws are SHA-256 of seed and position: the same on every machine and library version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch.utils.data import Sampler

from vqr1.data.pair_batches import PairGraph, linked_steps
from vqr1.data.splits import split_counts
from vqr1.errors import ConfigError

LastBatch = Literal["drop", "fill"]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """One process's share of one ranking step.

    Attributes:
        dataset: the one set.
        positions: B positions among the set's images (0 to n_s - 1); fewer in a set of n_s < G.
        step: positions of the whole step, those of the other processes included.
    """

    dataset: str
    positions: tuple[int, ...]
    step: tuple[int, ...] = ()


@dataclass(frozen=True)
class RankingPlan:
    """Everything that the order of batches depends on.

    Attributes:
        seed: of all draws.
        sizes: n_s, the number of images of each set.
        batch_size: B, images on one process in one step.
        world_size: W, number of processes.
        weights: w_s, relative shares of the batches; None: in proportion to the sets' own numbers
            of batches.
        last_batch: what happens to the last, smaller batch of a pass.
        graphs: by set, the stated pairs of its images, where pairs are learnt from.
        pool: images that are compared with each other, where pairs are; None: all of a step.
    """

    seed: int
    sizes: Mapping[str, int]
    batch_size: int
    world_size: int = 1
    weights: Mapping[str, float] | None = None
    last_batch: LastBatch = "drop"
    graphs: Mapping[str, PairGraph] = field(default_factory=dict)
    pool: int | None = None

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes.values()) < 1:
            raise ValueError(f"every set needs at least one image: {dict(self.sizes)}")
        if self.batch_size < 1 or self.world_size < 1:
            raise ValueError("batch size and number of processes must be at least 1")
        if self.weights is not None and set(self.weights) != set(self.sizes):
            raise ConfigError(
                [
                    f"dataset.weights={dict(self.weights)}: the keys must be the mixture's sets, "
                    f"{', '.join(self.sizes)}"
                ]
            )

    @property
    def global_batch(self) -> int:
        """G: images ranked in one step on all processes."""
        return self.batch_size * self.world_size

    def pass_batches(self, dataset: str) -> int:
        """Steps in one pass over a set."""
        full, rest = divmod(self.sizes[dataset], self.global_batch)
        return max(1, full + (1 if rest and self.last_batch == "fill" else 0))

    def epoch_batches(self) -> dict[str, int]:
        """c_s: steps that each set supplies to an epoch."""
        natural = {name: self.pass_batches(name) for name in self.sizes}
        if self.weights is None:
            return natural
        names = list(self.sizes)
        total_weight = sum(self.weights.values())
        shares = [self.weights[name] / total_weight for name in names]
        counts = split_counts(sum(natural.values()), shares)
        return dict(zip(names, counts, strict=True))

    def epoch_length(self) -> int:
        """Steps in an epoch."""
        return sum(self.epoch_batches().values())

    def epoch_order(self, epoch: int) -> list[tuple[str, int]]:
        """Sets of an epoch's steps, each with the step's number j in that set's share."""
        turns = [
            ((j + 0.5) / count, _digest(self.seed, "turn", epoch, name), name, j)
            for name, count in self.epoch_batches().items()
            for j in range(count)
        ]
        return [(name, j) for _, _, name, j in sorted(turns)]

    def global_positions(self, dataset: str, pass_number: int) -> list[list[int]]:
        """The steps of one pass over a set: lists of G distinct positions, or of all n_s < G."""
        order = permutation(self.sizes[dataset], self.seed, dataset, pass_number)
        size = min(self.global_batch, len(order))
        steps = self.pass_batches(dataset)
        if dataset in self.graphs:
            return linked_steps(self.graphs[dataset], order, steps, size, self.pool or size)
        return [
            [order[i % len(order)] for i in range(step * size, (step + 1) * size)]
            for step in range(steps)
        ]

    def fewest_images(self, dataset: str, within_process: bool) -> int:
        """Distinct images of a set that a step holds at least: in all processes, or in each one."""
        images = min(self.global_batch, self.sizes[dataset])
        return max(1, images // self.world_size) if within_process else images


def permutation(size: int, seed: int, dataset: str, pass_number: int) -> list[int]:
    """Positions 0 to size - 1 in an order drawn for one pass over one set."""
    begun = hashlib.sha256(f"{seed}:pass:{pass_number}:{dataset}:".encode())

    def digest(position: int) -> bytes:
        found = begun.copy()
        found.update(b"%d" % position)
        return found.digest()

    return sorted(range(size), key=digest)


def _share(step: list[int], rank: int, world_size: int) -> tuple[int, ...]:
    """One process's split of a step, at least one image; equal splits where G images are dealt."""
    first, last = (len(step) * number // world_size for number in (rank, rank + 1))
    return tuple(step[first:last]) or (step[rank % len(step)],)


def plan_epoch(plan: RankingPlan, epoch: int, rank: int = 0) -> list[BatchPlan]:
    """All of one process's batches of one epoch.

    Args:
        plan: what the order depends on.
        epoch: number of the epoch, from 0.
        rank: number of the process, 0 to W - 1.

    Raises:
        ValueError: there is no such process.
    """
    if not 0 <= rank < plan.world_size:
        raise ValueError(f"rank {rank} of {plan.world_size} processes")
    counts = plan.epoch_batches()
    passes: dict[tuple[str, int], list[list[int]]] = {}
    batches = []
    for dataset, j in plan.epoch_order(epoch):
        pass_number, step = divmod(epoch * counts[dataset] + j, plan.pass_batches(dataset))
        if (dataset, pass_number) not in passes:
            passes[dataset, pass_number] = plan.global_positions(dataset, pass_number)
        whole = passes[dataset, pass_number][step]
        batches.append(BatchPlan(dataset, _share(whole, rank, plan.world_size), tuple(whole)))
    return batches


class RankingBatchSampler(Sampler[BatchPlan]):
    """Walks a `RankingPlan`; remembers where it is.

    Iterating yields the rest of the current epoch, or the next epoch where that is used up. It does
    not move the saved position, because loader workers run ahead of training: whoever hands a batch
    to training calls `consumed`.
    Lightning must not wrap or replace it: `Trainer(use_distributed_sampler=False)`. There is no
    `set_epoch`: Lightning would call it with its own count, which takes an epoch cut short by
    `max_steps` for a whole one and so spoils a resumed order.

    Args:
        plan: what the order depends on.
        rank: number of this process.
    """

    def __init__(self, plan: RankingPlan, rank: int = 0) -> None:
        self.plan = plan
        self.rank = rank
        self.epoch = 0
        self.position = 0
        self._batches: tuple[int, list[BatchPlan]] | None = None

    def __len__(self) -> int:
        """Steps in an epoch, those already consumed included."""
        return self.plan.epoch_length()

    def __iter__(self) -> Iterator[BatchPlan]:
        self._enter_next_epoch_if_done()
        if self._batches is None or self._batches[0] != self.epoch:
            self._batches = (self.epoch, plan_epoch(self.plan, self.epoch, self.rank))
        return iter(self._batches[1][self.position :])

    def consumed(self, batches: int = 1) -> None:
        """Record that training received the next batches."""
        self.position += batches

    def state_dict(self) -> dict[str, Any]:
        """Position and everything that the order depends on, in plain containers."""
        return {"epoch": self.epoch, "position": self.position, "plan": self._fingerprint()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was saved.

        Raises:
            ConfigError: sets, batch size, weights or seed differ from the saved ones, so that the
                same sequence cannot be continued.
        """
        saved, current = state["plan"], self._fingerprint()
        changed = [name for name in current if saved.get(name) != current[name]]
        if changed:
            raise ConfigError(
                [
                    f"resume: {name} was {saved.get(name)!r} when the checkpoint was saved and is "
                    f"{current[name]!r} now; the batches cannot continue. Restore it, or start a "
                    "new run from the exported weights"
                    for name in changed
                ]
            )
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def _enter_next_epoch_if_done(self) -> None:
        if self.position >= len(self):
            self.epoch, self.position = self.epoch + 1, 0

    def _fingerprint(self) -> dict[str, Any]:
        plan = self.plan
        weights = plan.weights
        return {
            "seed": plan.seed,
            "sizes": dict(plan.sizes),
            "global batch": plan.global_batch,
            "weights": None if weights is None else {k: float(v) for k, v in weights.items()},
            "last_batch": plan.last_batch,
            # Earlier versions filled such sets up with copies. Other runs stay as they were.
            **{
                f"steps of {name}, a set smaller than a step": "without copies"
                for name, size in plan.sizes.items()
                if size < plan.global_batch
            },
            **{f"pairs of {name}": graph.digest() for name, graph in plan.graphs.items()},
            **({"images compared": plan.pool} if plan.graphs and plan.pool else {}),
        }


def _digest(*key: object) -> bytes:
    return hashlib.sha256(":".join(map(str, key)).encode()).digest()
