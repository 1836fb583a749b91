"""Token-by-token decoding of K responses per prompt over one copy of the prompt's keys.

The text model's own modules are called layer by layer (so adapters work), without the general
machinery of a generation loop: at small sizes Python decides the speed, at large ones reading the
keys does. Every step attends to two blocks, the prompt's keys, which exist once for all responses
of an image, and the response's own keys in a buffer of the length limit, allocated once; the blocks
are joined through their log-sum-exps (`vqr1.policy.flash.join`). Layers of linear attention have a
state of each live response, which begins as its prompt's.

Rows that finish are excluded from the linear layers at once; the key buffers are packed again when
they are mostly empty. `cuda_graph_decode.py` does the same with shapes that never change, for CUDA
graphs.

Shape legend: A images, S slots (responses) an image, n <= A*S live rows, P longest prompt, T length
limit, H query heads, G key-value heads, D head size.

Not here: sampling and stop rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vqr1.policy import flash
from vqr1.policy.linear_attention import DeltaRows, delta_step
from vqr1.policy.prompt_state import PromptState
from vqr1.policy.unwrap import family_of, parts_of


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [n, heads, D] by [n, 1, R]: of the first R numbers of each head."""
    size = cos.shape[-1]
    turned, rest = (x, None) if size == x.shape[-1] else (x[..., :size], x[..., size:])
    low, high = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-high, low), dim=-1) * sin
    return turned if rest is None else torch.cat([turned, rest], dim=-1)


class Decoder:
    """Decodes S responses of each of A images, one token a step."""

    def __init__(self, model: nn.Module, prompt: PromptState, slots: int, limit: int) -> None:
        """Allocates the responses' key buffers.

        Args:
            model: the policy, bare or wrapped, in eval mode.
            prompt: A prompts.
            slots: S, responses of each image.
            limit: most tokens that will be fed to a response.
        """
        parts = parts_of(model)
        self._family = family_of(model)
        self._parts = parts
        self._prompt = prompt
        config = parts.text.config
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads
        images = prompt.last_hidden.shape[0]
        device = prompt.last_hidden.device
        self._grid = (images, slots)
        self._images = torch.arange(images, device=device).repeat_interleave(slots)
        # Live rows' places in the grid of slots; None while all slots are live.
        self._live: Tensor | None = None
        self._own = {
            number: tuple(
                part[0].new_empty(images, slots, self._kv_heads, limit, part[0].shape[-1])
                for part in (keys, prompt.values[number])
            )
            for number, keys in prompt.keys.items()
        }
        # Of each live response, in the layers that have no keys.
        self._states = {
            number: state.select(self._images) for number, state in prompt.states.items()
        }
        self._cos, self._sin = self._tables(prompt, limit)
        self._fed = 0

    def _tables(self, prompt: PromptState, limit: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the positions of all steps after each prompt, [A, limit, R]."""
        steps = torch.arange(limit, device=prompt.last_hidden.device)
        positions = prompt.next_positions[:, None] + steps
        text = self._parts.text
        return self._family.response_rotation(text, prompt.last_hidden, positions)

    def first_logits(self) -> Tensor:
        """[A, V] float32 logits of the first response token of every image."""
        logits: Tensor = self._parts.head(self._prompt.last_hidden).float()
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        """Feeds one token to every live response.

        Args:
            tokens: [n] int64.

        Returns:
            [n, V] float32 logits of each response's next token.
        """
        logits = self._run_layers(tokens)
        self._fed += 1
        return logits

    def _run_layers(self, tokens: Tensor) -> Tensor:
        """One token of every row through the model: [n] -> [n, V] float32 logits."""
        hidden = self._parts.embeddings(tokens)
        cos, sin = (part.to(hidden.dtype) for part in self._rotation())
        for number, layer in enumerate(self._parts.text_layers):
            x, linear = layer.input_layernorm(hidden), self._family.linear_layer(layer)
            if linear is None:
                attended = self._attend(number, layer.self_attn, x, cos, sin)
            else:
                mixed = self._recur(number, linear.delta_rows(x))
                attended = linear.output(x, mixed)
            hidden = hidden + attended
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        logits: Tensor = self._parts.head(self._parts.text.norm(hidden)).float()
        return logits

    def _rotation(self) -> tuple[Tensor, Tensor]:
        """[n, 1, D] cosine and sine of every row's position."""
        place = (self._images, self._fed, None)
        return self._cos[place], self._sin[place]

    def _attend(self, number: int, module: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows = self._family.attention_inputs(module, x)
        # [A, S, heads, D]
        both = self._spread(_rotate(rows.both, cos, sin).to(rows.values.dtype))
        self._store(number, both[:, :, self._heads :], self._spread(rows.values))
        query = both[:, :, : self._heads]
        out = self._two_blocks(number, query, module.scaling).flatten(0, 1).flatten(1)
        if self._live is not None:
            out = out.index_select(0, self._live)
        attended: Tensor = module.o_proj(out if rows.gate is None else out * rows.gate)
        return attended

    def _recur(self, number: int, rows: DeltaRows) -> Tensor:
        """One step of a layer of linear attention: [n, H, E]; moves the rows' states on."""
        mixed, self._states[number] = delta_step(rows, self._states[number])
        return mixed

    def _store(self, number: int, key: Tensor, value: Tensor) -> None:
        """Writes the new token's key and value [A, S, G, D] into a layer's buffers."""
        keys, values = self._own[number]
        keys[:, :, :, self._fed] = key
        values[:, :, :, self._fed] = value

    def _own_block(self, number: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Attention of queries [A*S, G, H/G, D] to their response's tokens, and its log-sum-exp."""
        keys, values = self._own[number]
        fed = self._fed + 1
        return flash.forward(
            query,
            keys.flatten(0, 1)[:, :, :fed],
            values.flatten(0, 1)[:, :, :fed],
            causal=False,
            scale=scale,
        )

    def _two_blocks(self, number: int, query: Tensor, scale: float) -> Tensor:
        """Attention of [A, S, H, D] queries to their prompts and to their own tokens.

        All query heads that share a key-value head, and all responses of an image, are counted as
        queries of that head: every key is then read once.
        """
        query = query.unflatten(2, (self._kv_heads, -1))
        own, own_lse = self._own_block(number, query.flatten(0, 1), scale)
        own = own.unflatten(0, self._grid)
        own_lse = own_lse.unflatten(0, self._grid)
        parts = []
        prompt = self._prompt
        for run, (first, count, _) in enumerate(prompt.runs):
            block = slice(first, first + count)
            slots = query[block].transpose(1, 2)
            part, part_lse = flash.forward(
                slots.flatten(2, 3),
                prompt.keys[number][run],
                prompt.values[number][run],
                causal=False,
                scale=scale,
            )
            part = part.unflatten(2, slots.shape[2:4]).transpose(1, 2)
            part_lse = part_lse.unflatten(2, slots.shape[2:4]).transpose(1, 2)
            parts.append(flash.join(own[block], own_lse[block], part, part_lse))
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        return joined.flatten(2, 3)

    def _spread(self, rows: Tensor) -> Tensor:
        """Live rows [n, ...] in the grid of slots [A, S, ...]; dead slots are zero."""
        if self._live is not None:
            grid = rows.new_zeros((self._grid[0] * self._grid[1], *rows.shape[1:]))
            rows = grid.index_copy_(0, self._live, rows)
        return rows.view(*self._grid, *rows.shape[1:])

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all live responses but the given ones.

        Args:
            rows: numbers of the live rows to keep, ascending.
        """
        device = self._images.device
        chosen = torch.tensor(rows, device=device)
        self._images = self._images[chosen]
        self._states = {number: state.select(chosen) for number, state in self._states.items()}
        self._live = chosen if self._live is None else self._live[chosen]
        images, slots = self._grid
        owners = (self._live // slots).tolist()
        counts = [owners.count(image) for image in range(images)]
        kept = [image for image in range(images) if counts[image]]
        longest = max(counts)
        # Packing copies the buffers: worth it once a quarter of the slots is dead.
        if len(kept) * longest <= 0.75 * images * slots:
            self._pack(kept, counts, longest)

    def _pack(self, kept: list[int], counts: list[int], longest: int) -> None:
        """Moves live slots into a grid of `kept` images and `longest` slots each."""
        assert self._live is not None
        slots = self._grid[1]
        device = self._images.device
        live = (self._live % slots).split([counts[image] for image in kept])
        # Dead slots of the new grid repeat slot 0; what they compute is never read.
        table = torch.zeros(len(kept), longest, dtype=torch.long, device=device)
        for row, part in zip(table, live, strict=True):
            row[: len(part)] = part
        images = torch.tensor(kept, device=device)
        self._own = {
            number: tuple(part[images[:, None], table] for part in parts)
            for number, parts in self._own.items()
        }
        if len(kept) < self._grid[0]:
            self._prompt = self._prompt.select(kept)
            self._cos, self._sin = self._cos[images], self._sin[images]
        real = torch.arange(longest, device=device) < torch.tensor(
            [[counts[image]] for image in kept], device=device
        )
        self._live = real.flatten().nonzero()[:, 0]
        self._images = self._live // longest
        self._grid = (len(kept), longest)
        if len(self._live) == len(kept) * longest:
            self._live = None
