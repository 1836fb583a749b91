"""Decoding steps whose shapes never change, captured as CUDA graphs.

At small batches a decoding step on a GPU is a few hundred short kernels, and starting them from
Python takes longer than running them. Here every tensor of a step keeps its shape and its place in
memory, so that the step is recorded once as a CUDA graph and then replayed with one call. For that

- the number of the step is a tensor: the flash kernel reads as many of the response's own keys.
  Where it cannot, they are read up to the next multiple of `WIDTH` with those that do not exist yet
  masked out (one graph for each such width);
- the next prompts of the same lengths are written over the last ones (`StaticDecoders`), so that a
  shape is recorded once as long as the weights stay where they are in memory;
- responses that have ended stay in the batch and their rows are not read: at the batch sizes of
  training a step costs what reading the weights costs, with or without them. The flash kernel
  reads none of their own keys but the first. Of many rows the products cost what they compute: as
  soon as half of them have ended, and again at every further half down to `FEWEST`, the linear
  layers get half as many, with a graph for each such number. Keys stay where they are.

Values are those of `decode.Decoder` up to rounding. On other devices the same code runs without a
graph; that serves the tests only.

Shape legend: see `decode.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from vqr1.device import to_device
from vqr1.errors import ModelError
from vqr1.policy import flash
from vqr1.policy.linear_attention import DeltaRows, delta_step
from vqr1.policy.prompt_state import PromptState
from vqr1.policy.unwrap import parts_of
from vqr1.rollout.decode import Decoder

WIDTH = 128
"""Own keys are read in multiples of this: at 128, 48 responses of a 7B model read 0.35 GB of them
beside 15 GB of weights."""
FEWEST = 128
"""Rows that the linear layers always get, if there are as many. A product of fewer bfloat16 rows
takes as long as reading its weights: an H200 computes some 200 operations in the time of a byte."""
WARM_UPS = 2
"""Runs before a capture, in which libraries allocate their workspaces (PyTorch asks for some)."""


class StaticDecoder(Decoder):
    """`Decoder` with fixed shapes; on CUDA every step is the replay of a graph."""

    def __init__(self, model: nn.Module, prompt: PromptState, slots: int, limit: int) -> None:
        """See `Decoder`."""
        super().__init__(model, prompt, slots, limit)
        device, images = prompt.last_hidden.device, len(prompt.last_hidden)
        # In the order that the flash kernel reads, which has one stride for all rows. Rows beyond
        # the last step are read (masked) elsewhere, and must be finite.
        for number, (keys, values) in self._own.items():
            # One layer after the other: there may be no room for all of them twice.
            self._own[number] = _zeros_by_place(keys), _zeros_by_place(values)
        self._flash = flash.reads_used(next(iter(self._own.values()))[0])
        self._most = images * slots
        self._rows_of = flash.UsedRows.of(self._most, self._heads // self._kv_heads, limit, device)
        self._used = torch.zeros(self._most, dtype=torch.int32, device=device)
        # By place in the grid of slots, whether the response continues.
        self._alive = torch.ones(self._most, dtype=torch.long, device=device)
        self._limit = limit
        # The first `_count` belong to the rows that are computed. Once these are fewer than the
        # grid has places, `_live` has their places.
        self._count = self._most
        self._tokens = torch.zeros(self._most, dtype=torch.long, device=device)
        self._places = torch.arange(self._most, device=device)
        self._step = torch.zeros(1, dtype=torch.long, device=device)
        self._steps = torch.arange(limit, device=device)
        # Of the computed rows those that are read; None while all are.
        self._rows: Tensor | None = None
        self._width = 0
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def begin(self, prompt: PromptState) -> None:
        """Decode responses to other prompts of the same shape, in the same memory."""
        own = self._prompt
        for number, keys in own.keys.items():
            pairs = (keys, prompt.keys[number]), (own.values[number], prompt.values[number])
            for parts, others in pairs:
                torch._foreach_copy_(parts, others)
        for number, state in prompt.states.items():
            self._states[number].fill(state.select(self._images))
        own.last_hidden.copy_(prompt.last_hidden)
        for table, other in zip(
            (self._cos, self._sin), self._tables(prompt, self._limit), strict=True
        ):
            table.copy_(other)
        self._alive.fill_(1)
        self._rows = self._live = None
        self._count = self._most
        self._fed = 0

    def step(self, tokens: Tensor) -> Tensor:
        """Feeds one token to every live response; see `Decoder.step`."""
        if self._rows is None:
            self._fed_tokens.copy_(tokens)
        else:
            self._fed_tokens.index_copy_(0, self._rows, tokens)
        self._step.fill_(self._fed)
        # The kernel reads the keys that exist; other ways have a width, and a graph for each.
        width = self._limit if self._flash else -(-(self._fed + 1) // WIDTH) * WIDTH
        self._width = min(width, self._limit)
        logits = self._replay()
        self._fed += 1
        # A copy: the next replay writes into the same memory.
        return logits.clone() if self._rows is None else logits.index_select(0, self._rows)

    @property
    def bytes(self) -> int:
        """Of keys and values, prompts' and responses'."""
        prompt = self._prompt
        parts = chain(*self._own.values(), *prompt.keys.values(), *prompt.values.values())
        return sum(part.nbytes for part in parts)

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all live responses but the given ones; their slots stay, unread."""
        chosen = to_device(torch.tensor(rows), self._tokens.device)
        self._rows = chosen if self._rows is None else self._rows[chosen]
        places = self._rows if self._live is None else self._live[self._rows]
        self._alive.zero_().index_fill_(0, places, 1)
        count = self._count
        while count // 2 >= max(len(rows), FEWEST):
            count //= 2
        if count < self._count:
            self._compute_only(count, len(rows))

    def _compute_only(self, count: int, live: int) -> None:
        """Gives the linear layers `count` rows: the live ones, and ended ones to fill up."""
        # Live ones first, each kind in ascending order: nothing is asked of the device.
        order = self._alive.argsort(stable=True, descending=True)
        self._live = self._places[:count].copy_(order[:count])
        self._count = count
        self._rows = None if live == count else torch.arange(live, device=order.device)

    @property
    def _fed_tokens(self) -> Tensor:
        """[n] of the rows that are computed, always in the same memory."""
        return self._tokens[: self._count]

    @property
    def _shape(self) -> tuple[int, int]:
        """What a recorded step has fixed: the width of the own keys, the rows that are computed."""
        return self._width, self._count

    def _replay(self) -> Tensor:
        if self._tokens.device.type == "cpu":
            return self._run_layers(self._fed_tokens)
        if self._shape not in self._graphs:
            self._graphs[self._shape] = self._capture()
        graph, logits = self._graphs[self._shape]
        graph.replay()
        return logits

    def _capture(self) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Records one step of the current shape.

        Running it beforehand writes the current token's keys, which the replay writes again, and
        moves the states of linear attention on: they are put back.

        Raises:
            ModelError: a layer of this model cannot be captured.
        """
        graph = torch.cuda.CUDAGraph()
        current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        before = {number: state.copy() for number, state in self._states.items()}
        aside.wait_stream(current)
        try:
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    self._run_layers(self._fed_tokens)
            current.wait_stream(aside)
            for number, state in before.items():
                self._states[number].fill(state)
            with torch.cuda.graph(graph):
                logits = self._run_layers(self._fed_tokens)
        except torch.AcceleratorError as error:
            raise ModelError(
                "rollout.cuda_graph=true: a decoding step of this model cannot be captured as a "
                f"CUDA graph ({str(error).splitlines()[0]}); set rollout.cuda_graph=false"
            ) from error
        return graph, logits

    def _recur(self, number: int, rows: DeltaRows) -> Tensor:
        state = self._states[number]
        before = state if self._live is None else state.select(self._live)
        mixed, after = delta_step(rows, before)
        state.fill(after, self._live)
        return mixed

    def _rotation(self) -> tuple[Tensor, Tensor]:
        if self._flash:
            # Once for all layers; a row that has ended reads its first key.
            self._used.copy_(self._step * self._alive + 1)
        cos, sin = (table.index_select(1, self._step) for table in (self._cos, self._sin))
        slots = self._grid[1]
        if self._live is not None:
            owners = self._live // slots
            return cos.index_select(0, owners), sin.index_select(0, owners)
        return cos.repeat_interleave(slots, dim=0), sin.repeat_interleave(slots, dim=0)

    def _store(self, number: int, key: Tensor, value: Tensor) -> None:
        for buffer, new in zip(self._own[number], (key, value), strict=True):
            buffer.index_copy_(3, self._step, new[:, :, :, None])

    def _own_block(self, number: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        keys, values = (x.flatten(0, 1)[:, :, : self._width] for x in self._own[number])
        if self._flash and query.dtype == keys.dtype:
            return flash.used_forward(query, keys, values, self._used, self._rows_of, scale=scale)
        future = self._steps[: self._width] > self._step
        return flash.math_forward(query, keys, values, causal=False, scale=scale, hidden=future)


class StaticDecoders:
    """The last static decoder, for the next prompts that it fits.

    One is kept: another shape's keys take the memory of the last one's.
    """

    def __init__(self) -> None:
        self._kept: tuple[Any, StaticDecoder] | None = None

    def of(self, model: nn.Module, prompt: PromptState, slots: int, limit: int) -> StaticDecoder:
        """A decoder at its beginning; see `Decoder`. The one that was given before has ended."""
        shape = (prompt.runs, slots, limit, _computed_with(model))
        if self._kept is not None and self._kept[0] == shape:
            self._kept[1].begin(prompt)
        else:
            self.forget()
            self._kept = shape, StaticDecoder(model, prompt, slots, limit)
        return self._kept[1]

    def forget(self) -> None:
        """Free its memory."""
        self._kept = None

    @property
    def bytes(self) -> int:
        """Of its keys and values."""
        return 0 if self._kept is None else self._kept[1].bytes


def _computed_with(model: nn.Module) -> tuple[Any, ...]:
    """What a recorded step depends on besides its shapes: where weights are, and autocast."""
    parts = parts_of(model)
    modules = (parts.embeddings, parts.text, parts.head)
    weights = chain(*(chain(m.parameters(), m.buffers()) for m in modules))
    kind = parts.embeddings.weight.device.type
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
    return half, tuple((weight.data_ptr(), weight.dtype) for weight in weights)


def _zeros_by_place(buffer: Tensor) -> Tensor:
    """[A, S, G, limit, D] zeros that lie in memory as [A, S, limit, G, D]."""
    images, slots, heads, limit, size = buffer.shape
    return buffer.new_zeros(images, slots, limit, heads, size).transpose(2, 3)
