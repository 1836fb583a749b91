"""New responses for the groups of a step whose rewards do not differ.

DAPO (arXiv 2503.14476) leaves such a group out and takes another prompt, until the step is full. A
ranking step is a pool of images that are compared with each other, so here the same images are
answered again, from another seed, up to a number of times; the step's other groups keep their
responses, and all are rewarded again. What still does not differ then is excluded, as ever.

All ranks sample again while any of them has such a group: an engine may work on all of them
together. Seeds follow from the run's seed, the step and the try, so that a resumed run draws the
same.

Shapes: see `vqr1.records`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vqr1.distributed.collectives import all_reduce_max, all_reduce_sum
from vqr1.records import Rollout, ScoredRollout

Scored = tuple[ScoredRollout, dict[str, float]]


def resample_zero_variance(
    first: Scored,
    tries: int,
    sample: Callable[[Sequence[int], int], Rollout],
    score: Callable[[Rollout], Scored],
) -> Scored:
    """The step's responses and metrics after resampling.

    Args:
        first: responses as they were sampled at first, and their metrics.
        tries: rounds of resampling at most.
        sample: K new responses to each of some images of this rank, in the round of that number
            (from 1).
        score: rewards all of a rank's responses.

    Returns:
        The metrics have `resampled_rate` too: groups sampled again / groups, over all rounds and
        ranks; above 1 where groups were sampled several times.
    """
    scored, metrics = first
    again = 0
    for attempt in range(1, tries + 1):
        rows = (~scored.has_variance).nonzero().flatten().tolist()
        if not all_reduce_max(bool(rows)):
            break
        # A rank whose groups all differ takes part, and throws its response away.
        fresh = sample(rows or [0], attempt)
        again += len(rows)
        scored, metrics = score(replace_groups(scored.rollout, rows, fresh))
    counts = torch.tensor([float(again), float(len(scored.has_variance))])
    total, groups = all_reduce_sum(counts.to(scored.rewards.device)).tolist()
    return scored, {**metrics, "resampled_rate": total / groups}


def replace_groups(rollout: Rollout, rows: Sequence[int], fresh: Rollout) -> Rollout:
    """A rollout with some groups' responses replaced by others.

    Args:
        rollout: K responses to each of B images.
        rows: the images b whose responses are replaced, in the order of `fresh`; none keeps all.
        fresh: K responses to each of these images.
    """
    if not rows:
        return rollout
    width = max(rollout.mask.shape[2], fresh.mask.shape[2])
    index = torch.tensor(list(rows), device=rollout.tokens.device)

    def joined(old: Tensor, new: Tensor) -> Tensor:
        whole = _padded(old, width).clone()
        whole[index] = _padded(new[: len(rows)], width)
        return whole

    texts = [list(row) for row in rollout.texts]
    for row, new in zip(rows, fresh.texts, strict=False):
        texts[row] = list(new)
    finished = rollout.finished.clone()
    finished[index] = fresh.finished[: len(rows)]
    logprobs = None
    if rollout.logprobs is not None and fresh.logprobs is not None:
        logprobs = joined(rollout.logprobs, fresh.logprobs)
    return Rollout(
        tokens=joined(rollout.tokens, fresh.tokens),
        mask=joined(rollout.mask, fresh.mask),
        texts=texts,
        finished=finished,
        logprobs=logprobs,
    )


def _padded(values: Tensor, width: int) -> Tensor:
    """[B, K, width]: zeros (False) after the last token."""
    return torch.nn.functional.pad(values, (0, width - values.shape[2]))
