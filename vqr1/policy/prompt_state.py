"""Prompts that were read once: what they left, and text that continues them at one go.

`read_prompts` runs the text model over A prompts. What it leaves can be continued token by token
(`vqr1.rollout.decode`) or, here, by T given tokens an image in one pass. The tokens need not follow
each other in a line: a table states which of them every one sees beside the whole prompt, so that a
tree of spellings is computed once a node and not once a spelling. Further passes may continue what
earlier ones left.

Shape legend: A images; P tokens of a prompt; T most tokens that continue a prompt in one pass;
E places of tokens of earlier passes; H query heads, G key-value heads, D head size.

Not here: gradients (`shared_prompt.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from torch import Tensor, nn

from vqr1.device import to_device
from vqr1.policy import flash
from vqr1.policy.linear_attention import Branches, DeltaRows, Grid, LinearState, branch_delta
from vqr1.policy.shared_prompt import PackedPrompts, run_packed
from vqr1.policy.tree_attention import KeyValueStore, TreeLayout, row_block
from vqr1.policy.unwrap import family_of, parts_of
from vqr1.policy.vision import runs_within

_CPU_TOKENS = 2048
"""Tokens of prompts that are read together on a CPU: what lies between two layers then stays in the
processor's cache."""


@dataclass(frozen=True)
class PromptState:
    """What is left of A prompts after they were read.

    Attributes:
        runs: (first image, images, prompt length) of each run of equally long prompts.
        keys: by layer number and run, [images, G, P, D] rotated keys: views, nothing is copied or
            padded.
        values: by layer number and run, [images, G, P, D].
        states: by layer number, of the layers of linear attention, which have no keys.
        last_hidden: [A, hidden] final hidden state of each prompt's last token.
        next_positions: [A] rotary position of the first response token.
    """

    runs: tuple[tuple[int, int, int], ...]
    keys: dict[int, list[Tensor]]
    values: dict[int, list[Tensor]]
    states: dict[int, LinearState]
    last_hidden: Tensor
    next_positions: Tensor

    def select(self, images: Sequence[int]) -> PromptState:
        """The state of some images, given in ascending order."""
        runs, chosen = [], []
        first = 0
        for number, (start, count, length) in enumerate(self.runs):
            inside = [image - start for image in images if start <= image < start + count]
            if inside:
                runs.append((first, len(inside), length))
                chosen.append((number, torch.tensor(inside, device=self.last_hidden.device)))
                first += len(inside)
        kept = torch.tensor(images, device=self.last_hidden.device)
        return PromptState(
            tuple(runs),
            {n: [layer[run][rows] for run, rows in chosen] for n, layer in self.keys.items()},
            {n: [layer[run][rows] for run, rows in chosen] for n, layer in self.values.items()},
            {n: state.select(kept) for n, state in self.states.items()},
            self.last_hidden[kept],
            self.next_positions[kept],
        )


def read_prompts(model: nn.Module, packed: PackedPrompts) -> PromptState:
    """Runs the text model once over all prompts and keeps what they leave in its layers."""
    device = packed.embeds.device
    if device.type != "cpu":
        return _read(model, packed)
    return _together(
        [
            _read(model, packed.select(first, last))
            for first, last in runs_within(packed.lengths, _CPU_TOKENS)
        ]
    )


def _together(states: Sequence[PromptState]) -> PromptState:
    """The states of several batches as one; no key is copied."""
    if len(states) == 1:
        return states[0]
    runs, image = [], 0
    for state in states:
        runs += [(image + first, count, length) for first, count, length in state.runs]
        image += len(state.last_hidden)
    return PromptState(
        tuple(runs),
        {n: list(chain(*(state.keys[n] for state in states))) for n in states[0].keys},
        {n: list(chain(*(state.values[n] for state in states))) for n in states[0].values},
        {n: LinearState.joined([state.states[n] for state in states]) for n in states[0].states},
        torch.cat([state.last_hidden for state in states]),
        torch.cat([state.next_positions for state in states]),
    )


def _read(model: nn.Module, packed: PackedPrompts) -> PromptState:
    device = packed.embeds.device
    layout = TreeLayout.build(packed.lengths, [()] * len(packed.lengths), device)
    store = KeyValueStore()
    hidden = run_packed(model, packed.embeds, packed.positions, layout, store)
    runs, image = [], 0
    for _, count, length in layout.buckets:
        runs.append((image, count, length))
        image += count

    def views(part: int) -> dict[int, list[Tensor]]:
        return {
            number: [row_block(pair[part], *bucket) for bucket in layout.buckets]
            for number, pair in store.layers.items()
        }

    return PromptState(
        tuple(runs),
        views(0),
        views(1),
        store.states,
        hidden[to_device(torch.tensor(layout.last_prompt_rows), device)],
        to_device(torch.tensor(packed.next_positions), device),
    )


@dataclass(frozen=True)
class Continuation:
    """How tokens attend that continue prompts which were read before; without gradients.

    The row holds each image's tokens one after the other, without padding.

    Attributes:
        prompt: the A prompts.
        seen: [A or 1, 1, T, E + T] bool, which of an image's tokens, of earlier passes and of this
            one (columns), each of this one's (rows) sees beside the prompt; every token, a place
            without one too, sees some. With `alone` [A or 1, 1, T, E]: those of this pass see
            themselves, and none of the others.
        places: [rows] place of each row among A * T, None where every image has T tokens.
        earlier: by layer, keys and values [A, G, E, D] of earlier passes; empty before the first.
        branches: by layer of linear attention, what earlier passes left.
        keep: add what this pass leaves to `earlier` and `branches`, T further places; not with
            `alone`.
        alone: the tokens of this pass do not see each other.
    """

    prompt: PromptState
    seen: Tensor
    places: Tensor | None
    earlier: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    branches: dict[int, Branches] = field(default_factory=dict)
    keep: bool = False
    alone: bool = False

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Attention of a layer: q [rows, H, D], k and v [rows, G, D] -> [rows, H, D]."""
        grid = self._grid
        q, k, v = (grid.padded(x).transpose(1, 2) for x in (q, k, v))
        own, own_lse = self._among(layer, q, k, v, scale)
        out = torch.empty_like(own)
        for run, (first, count, _) in enumerate(self.prompt.runs):
            block = slice(first, first + count)
            part, part_lse = flash.forward(
                q[block],
                self.prompt.keys[layer][run],
                self.prompt.values[layer][run],
                causal=False,
                scale=scale,
            )
            out[block] = flash.join(own[block], own_lse[block], part, part_lse)
        return grid.collect(out.transpose(1, 2))

    def recur(self, layer: int, rows: DeltaRows) -> tuple[Tensor, None]:
        """The recurrence of a layer of linear attention; see `AttentionPlan.recur`."""
        grid, seen, earlier = self._grid, self.seen[:, 0], self.branches.get(layer)
        if self.alone:
            own = torch.eye(grid.longest, dtype=torch.bool, device=seen.device)
            seen = torch.cat([seen, own.expand(len(seen), -1, -1)], dim=2)
        inputs, decay, beta = map(grid.padded, (rows.inputs, rows.decay, rows.beta))
        placed = replace(rows, inputs=inputs, decay=decay, beta=beta)
        out, left = branch_delta(placed, self.prompt.states[layer], seen, earlier)
        if self.keep:
            self.branches[layer] = left if earlier is None else earlier.with_more(left)
        return grid.collect(out), None

    def _among(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Attention to what continues the prompts: q [A, H, T, D], k and v [A, G, T, D]."""
        if self.alone:
            before = flash.masked_forward(q, *self.earlier[layer], seen=self.seen, scale=scale)
            groups = q.shape[1] // k.shape[1]
            k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
            self_lse = torch.linalg.vecdot(q.to(before[1].dtype), k.to(before[1].dtype)) * scale
            lse = torch.logaddexp(before[1], self_lse)
            return flash.join(*before, v, self_lse), lse
        if layer in self.earlier:
            earlier = self.earlier[layer]
            k, v = (torch.cat(pair, dim=2) for pair in zip(earlier, (k, v), strict=True))
        if self.keep:
            self.earlier[layer] = k, v
        return flash.masked_forward(q, k, v, seen=self.seen, scale=scale)

    @property
    def _grid(self) -> Grid:
        """Where the rows lie among A * T places; zero where there is no token."""
        return Grid(self.prompt.last_hidden.shape[0], self.seen.shape[-2], None, self.places)


@torch.no_grad()
def continue_prompts(
    model: nn.Module, tokens: Tensor, positions: Tensor, plan: Continuation
) -> Tensor:
    """Hidden states of tokens that continue prompts.

    Args:
        model: the policy, bare or wrapped, in eval mode.
        tokens: [rows] int64, image by image.
        positions: [rows] their rotary positions, equal on all axes after a prompt.
        plan: what they continue, and which of them see which.

    Returns:
        [rows, hidden] after the final norm.
    """
    family = family_of(model)
    embeds = family.embed(parts_of(model), tokens)
    return run_packed(model, embeds, positions.expand(family.position_axes, -1), plan)
