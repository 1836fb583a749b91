"""How the steps of a training are shared among the parts of its plan: sets, references, tasks.

Not here: the plan (`ranking_batches.py`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from vqr1.data.ranking_batches import RankingPlan
from vqr1.data.ranking_images import SetImages
from vqr1.data.task_sets import TaskSets, is_task

logger = logging.getLogger(__name__)


def with_shares(
    plan: RankingPlan,
    parts: Mapping[str, SetImages],
    weights: Mapping[str, float] | None,
    tasks: Mapping[str, TaskSets],
) -> RankingPlan:
    """The plan with the weights of its parts.

    Args:
        plan: without weights.
        parts: of the plan, by name.
        weights: of the sets that are ranked; None: in proportion to their numbers of batches.
        tasks: those that take part, by name.
    """
    if not tasks:
        return replace(plan, weights=_of_parts(weights, parts))
    natural = plan.epoch_batches()
    shares = {"": 1 - sum(task.share for task in tasks.values())}
    shares |= {name: task.share for name, task in tasks.items()}
    found: dict[str, float] = {}
    for name, share in shares.items():
        own = {part: images for part, images in parts.items() if images.task == name}
        chosen = weights if not name or tasks[name].source.config.dataset is None else None
        chosen = tasks[name].weights if name and chosen is None else chosen
        relative = _of_parts(chosen, own) or {part: float(natural[part]) for part in own}
        total = sum(relative.values())
        found |= {part: share * weight / total for part, weight in relative.items()}
    return replace(plan, weights=found)


def report_small_parts(plan: RankingPlan, parts: Mapping[str, SetImages]) -> None:
    """Warn of sets with fewer images than a step, whose steps are smaller."""
    small = Counter(
        part if is_task(part) else images.name
        for part, images in parts.items()
        if len(images) < plan.global_batch
    )
    for name, count in small.items():
        if name in plan.sizes:
            what = "items" if is_task(name) else "training images"
            logger.warning(
                "%s: %d %s are fewer than the %d of a step; each step holds all of them once",
                name, plan.sizes[name], what, plan.global_batch,
            )  # fmt: skip
        else:
            logger.warning(
                "%s: %d references have fewer training images than the %d of a step; a step "
                "of one holds all of them once",
                name, count, plan.global_batch,
            )  # fmt: skip


def _of_parts(
    weights: Mapping[str, float] | None, parts: Mapping[str, SetImages]
) -> dict[str, float] | None:
    """A set's weight divided among its parts in proportion to their images."""
    if weights is None:
        return None
    images = Counter[str]()
    for part in parts.values():
        images[part.name] += len(part)
    shared = {
        name: weights[part.name] * (len(part) / images[part.name])
        for name, part in parts.items()
        if part.name in weights
    }
    # Names of no set, or of sets that are not here, are for the plan to refuse.
    return {**shared, **{name: w for name, w in weights.items() if name not in images}}
