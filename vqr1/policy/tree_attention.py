"""Attention over packed prompts and responses, in which a prompt's keys are read, never copied.

One row holds the prompts of A images one after the other and then all their responses:

    [prompt 0 | prompt 1 | ... | responses of image 0 | responses of image 1 | ...]

A prompt token attends to the earlier tokens of its own prompt. A response token attends to its
whole prompt and to the earlier tokens of its own response. No mask of the row's size is made: the
attention is computed in dense pieces by flash kernels, and the two pieces of a response token are
joined through their log-sum-exps (`flash.join`). Backwards, every piece is given the JOINED output
o and log-sum-exp l: its probabilities exp(s - l) are then those of the whole softmax, and the
pieces' gradients add up exactly (the rule of ring attention, arXiv 2310.01889).

Shape legend: L tokens of the row, R of them in responses, H query heads, G key-value heads,
D head size.

Not here: which tokens the row holds and at which positions (`shared_prompt.py`); layers of linear
attention, whose states are continued (`linear_attention.py`); attention of the vision tower;
decoding token by token (`vqr1.rollout`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate, groupby
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface

from vqr1.device import to_device
from vqr1.policy import flash
from vqr1.policy.linear_attention import DeltaRows, Grid, LinearState, packed_delta
from vqr1.policy.unwrap import checkpointing_in_eval_mode

ATTENTION_NAME = "vqr1_tree"


class AttentionPlan(Protocol):
    """How the tokens of one row attend, layer by layer."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Attention of a layer: q [L, H, D], k and v [L, G, D], rotated -> [L, H, D]."""
        ...

    def recur(self, layer: int, rows: DeltaRows) -> tuple[Tensor, LinearState | None]:
        """The recurrence of a layer of linear attention over the row: [L, H, E].

        Beside it what the prompts leave, where the row has prompts.
        """
        ...


@dataclass(frozen=True)
class TreeLayout:
    """Where the prompts and responses lie in a packed row.

    Attributes:
        prompt_lengths: tokens of each of A prompts, as they follow each other.
        response_lengths: tokens that the row holds of each response, for each of A images.
        buckets: (first row, prompts, length) of each run of equally long prompts.
        spans: (first prompt row, prompt length, first response row, response rows) of each image
            that has response rows; response rows are counted from the first response.
        responses: the padded grid in which responses attend to themselves, without empty ones;
            None without any.
        device: of index tensors.
    """

    prompt_lengths: tuple[int, ...]
    response_lengths: tuple[tuple[int, ...], ...]
    buckets: tuple[tuple[int, int, int], ...]
    spans: tuple[tuple[int, int, int, int], ...]
    responses: Grid | None
    device: torch.device

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """See `AttentionPlan.attend`; the same in every layer."""
        del layer
        return tree_attention(q, k, v, self, scale)

    def recur(self, layer: int, rows: DeltaRows) -> tuple[Tensor, LinearState]:
        """See `AttentionPlan.recur`; the same in every layer."""
        del layer
        prompts, owners = self._continued
        return packed_delta(rows, prompts, self.responses, owners)

    @cached_property
    def _continued(self) -> tuple[Grid, Tensor]:
        """The padded grid of prompts, and the prompt of each response that is not empty."""
        owners = [
            image
            for image, lengths in enumerate(self.response_lengths)
            for length in lengths
            if length
        ]
        numbers = torch.tensor(owners, dtype=torch.int64)
        return Grid.of(self.prompt_lengths, self.device), to_device(numbers, self.device)

    @property
    def prompt_rows(self) -> int:
        """Tokens of all prompts."""
        return sum(self.prompt_lengths)

    @property
    def last_prompt_rows(self) -> list[int]:
        """Row of each prompt's last token."""
        return [end - 1 for end in accumulate(self.prompt_lengths)]

    @staticmethod
    def build(
        prompt_lengths: Sequence[int],
        response_lengths: Sequence[Sequence[int]],
        device: torch.device,
    ) -> TreeLayout:
        """The layout of A prompts and the responses of each.

        Args:
            prompt_lengths: A lengths, each at least 1.
            response_lengths: A sequences of lengths; 0 leaves a response out.
            device: where index tensors go.
        """
        starts = list(accumulate(prompt_lengths, initial=0))
        buckets = []
        image = 0
        for length, run in groupby(prompt_lengths):
            count = len(list(run))
            buckets.append((starts[image], count, length))
            image += count
        rows = [sum(lengths) for lengths in response_lengths]
        first = list(accumulate(rows, initial=0))
        spans = tuple(
            (starts[a], prompt_lengths[a], first[a], rows[a]) for a in range(len(rows)) if rows[a]
        )
        present = [length for lengths in response_lengths for length in lengths if length]
        return TreeLayout(
            tuple(prompt_lengths),
            tuple(tuple(lengths) for lengths in response_lengths),
            tuple(buckets),
            spans,
            Grid.of(present, device) if present else None,
            device,
        )


def row_block(rows: Tensor, start: int, count: int, length: int) -> Tensor:
    """`count` runs of `length` rows [rows, heads, ...] as a view [count, heads, length, ...]."""
    part = rows[start : start + count * length]
    return part.view(count, length, *rows.shape[1:]).transpose(1, 2)


class _TreeAttention(torch.autograd.Function):
    """Packed attention on rows: q [L, H, D], k and v [L, G, D] -> [L, H, D]."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float
    ) -> Tensor:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        lse = torch.empty(q.shape[:2], dtype=flash.lse_dtype(q), device=q.device)
        for bucket in layout.buckets:
            part, part_lse = flash.forward(
                row_block(q, *bucket),
                row_block(k, *bucket),
                row_block(v, *bucket),
                causal=True,
                scale=scale,
            )
            row_block(out, *bucket).copy_(part)
            row_block(lse, *bucket).copy_(part_lse)
        if layout.spans:
            _responses_forward(q, k, v, out, lse, layout, scale)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        layout, scale = ctx.layout, ctx.scale
        grads = tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
        for bucket in layout.buckets:
            blocks = [row_block(x, *bucket) for x in (grad, q, k, v, out, lse)]
            parts = flash.backward(*blocks, causal=True, scale=scale)
            for target, part in zip(grads, parts, strict=True):
                row_block(target, *bucket).copy_(part)
        if layout.spans:
            _responses_backward(grad, (q, k, v, out, lse), grads, layout, scale)
        return *grads, None, None


def _responses_forward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, layout: TreeLayout, scale: float
) -> None:
    """Fills the response rows of `out` and `lse`."""
    first, grid = layout.prompt_rows, layout.responses
    assert grid is not None
    # Padding is zeros: its probabilities are finite then, and its gradient is zero.
    blocks = [grid.padded(x[first:]).transpose(1, 2) for x in (q, k, v)]
    own, own_lse = flash.forward(*blocks, causal=True, scale=scale)
    own, own_lse = (grid.collect(x.transpose(1, 2)) for x in (own, own_lse))
    for start, length, row, count in layout.spans:
        rows = (first + row, 1, count)
        prompt = (start, 1, length)
        part, part_lse = flash.forward(
            row_block(q, *rows),
            row_block(k, *prompt),
            row_block(v, *prompt),
            causal=False,
            scale=scale,
        )
        part, part_lse = part[0].transpose(0, 1), part_lse[0].transpose(0, 1)
        own_part, own_part_lse = own[row : row + count], own_lse[row : row + count]
        out[first + row : first + row + count] = flash.join(own_part, own_part_lse, part, part_lse)
        torch.logaddexp(part_lse, own_part_lse, out=lse[first + row : first + row + count])


def _responses_backward(
    grad: Tensor,
    saved: tuple[Tensor, ...],
    grads: tuple[Tensor, ...],
    layout: TreeLayout,
    scale: float,
) -> None:
    """Fills the response rows of `grads` (q, k, v) and adds to their prompts' k and v."""
    q, k, v, out, lse = saved
    first, grid = layout.prompt_rows, layout.responses
    assert grid is not None
    blocks = [grid.padded(x[first:]).transpose(1, 2) for x in (grad, q, k, v, out, lse)]
    own = flash.backward(*blocks, causal=True, scale=scale)
    for target, part in zip(grads, own, strict=True):
        target[first:] = grid.collect(part.transpose(1, 2))
    for start, length, row, count in layout.spans:
        rows = (first + row, 1, count)
        prompt = (start, 1, length)
        parts = flash.backward(
            row_block(grad, *rows),
            row_block(q, *rows),
            row_block(k, *prompt),
            row_block(v, *prompt),
            row_block(out, *rows),
            row_block(lse, *rows),
            causal=False,
            scale=scale,
        )
        for target, part, place in zip(grads, parts, (rows, prompt, prompt), strict=True):
            row_block(target, *place).add_(part)


def tree_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float | None = None
) -> Tensor:
    """Attention of a packed row.

    Args:
        q: [L, H, D] queries after rotary embedding.
        k: [L, G, D] keys after rotary embedding; H is a multiple of G.
        v: [L, G, D] values.
        layout: what the L rows are.
        scale: factor of the scores; None is 1 / sqrt(D).

    Returns:
        [L, H, D] attention output; differentiable once in q, k and v.
    """
    if scale is None:
        scale = q.shape[-1] ** -0.5
    return _TreeAttention.apply(q, k, v, layout, scale)


class KeyValueStore:
    """Collects what every layer of a forward pass leaves of prompts.

    Attributes:
        layers: by number of a layer of attention, the pair of [L, G, D] rotated keys and values.
        states: by number of a layer of linear attention, what the prompts leave in it.
    """

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.states: dict[int, LinearState] = {}


def _attention_function(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    plan: AttentionPlan,
    scaling: float,
    store: KeyValueStore | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """A plan's attention in the form that transformers calls: [1, heads, L, D] -> [1, L, H, D]."""
    del attention_mask
    # Under autocast the rotary embedding leaves q and k in float32 and v in the lower precision.
    q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    layer = int(module.layer_idx)
    if store is not None:
        store.layers[layer] = (k, v)
    return plan.attend(layer, q, k, v, scaling)[None], None


AttentionInterface.register(ATTENTION_NAME, _attention_function)


@contextmanager
def _switched(config: Any) -> Iterator[None]:
    previous = config._attn_implementation
    config._attn_implementation = ATTENTION_NAME
    try:
        yield
    finally:
        config._attn_implementation = previous


def _run_switched(config: Any, function: Any, *args: Any) -> Any:
    with _switched(config):
        return function(*args)


@contextmanager
def attention_switched(config: Any, layers: Any) -> Iterator[None]:
    """Lets the text model attend by an `AttentionPlan` inside the block, and only there.

    Layers under gradient checkpointing run again during the backward pass, after the block: their
    checkpoint function is wrapped so that the second run attends the same way.

    Args:
        config: the text model's.
        layers: its blocks.
    """
    wrapped = []
    for layer in layers:
        checkpoint = getattr(layer, "_gradient_checkpointing_func", None)
        if checkpoint is not None:
            wrapped.append((layer, checkpoint))
            layer._gradient_checkpointing_func = partial(_checkpointed, config, checkpoint)
    try:
        with _switched(config), checkpointing_in_eval_mode(layers):
            yield
    finally:
        for layer, checkpoint in wrapped:
            layer._gradient_checkpointing_func = checkpoint


def _checkpointed(config: Any, checkpoint: Any, function: Any, *args: Any) -> Any:
    return checkpoint(partial(_run_switched, config, function), *args)
