r"""Gated delta rule over packed prompts and responses: states are continued, nothing is repeated.

A layer of linear attention (Gated DeltaNet, arXiv 2412.06464) has no keys and values that later
tokens look back at. Each of its heads carries a matrix S, which every token t decays and corrects:

    d_t = beta_t (v_t - exp(g_t) S_{t-1}^T k_t)
    S_t = exp(g_t) S_{t-1} + k_t d_t^T
    o_t = S_t^T q_t

with queries, keys and values from a causal convolution of width W over the rows. What a prompt
leaves is S after its last token and the last W - 1 inputs of the convolution (`LinearState`); K
responses continue from copies of them. Three forms of the same recurrence:

- `packed_delta`: the prompts of a packed row in chunks, then all responses, each from its prompt's
  state; differentiable, the prompt's gradient being the sum over its responses;
- `delta_step`: one token of each of n responses, each with a state of its own (decoding);
- `branch_delta`: tokens of a tree that continues a prompt. With G_i the sum of g from the prompt to
  token i, token i sees of its ancestor j the part exp(G_i - G_j) k_j d_j^T, so that

      d_i + beta_i sum_{j < i} exp(G_i - G_j) (k_i . k_j) d_j = beta_i (v_i - exp(G_i) S^T k_i)

  is one triangular system for all tokens, and (k, d, G) serve further passes as keys and values do.

Shape legend: L tokens of a row; A prompts, R responses, N sequences of a grid with T places; C
inputs of the convolution (2 G D + H E); G key heads of size D, H value heads of size E; W kernel.

Not here: softmax attention (`tree_attention.py`), the layers' projections and gates (`families/`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from vqr1.device import to_device
from vqr1.policy.delta_chunks import normalised, uncast

ChunkRule = Callable[..., tuple[Tensor, Tensor]]
"""q, k [N, T, G, D] as they are, v [N, T, H, E], g and beta [N, T, H], S [N, H, D, E] or None ->
o [N, T, H, E] and S after the last token; normalises and scales q and k."""


@dataclass(frozen=True)
class LinearState:
    """What N sequences leave in one layer.

    Attributes:
        inputs: [N, W - 1, C] last inputs of the convolution, zero before a sequence's first.
        state: [N, H, D, E] S, in float32 at least.
    """

    inputs: Tensor
    state: Tensor

    def select(self, rows: Tensor) -> LinearState:
        """Copies of the states of some sequences, by number, in that order."""
        return LinearState(self.inputs.index_select(0, rows), self.state.index_select(0, rows))

    def copy(self) -> LinearState:
        """In memory of its own."""
        return LinearState(self.inputs.clone(), self.state.clone())

    def fill(self, other: LinearState, rows: Tensor | None = None) -> None:
        """Takes over another's numbers, in place: of all sequences, or as those of the given."""
        for own, new in ((self.inputs, other.inputs), (self.state, other.state)):
            own.copy_(new) if rows is None else own.index_copy_(0, rows, new)

    @staticmethod
    def joined(states: Sequence[LinearState]) -> LinearState:
        """The sequences of several, one after the other."""
        return LinearState(
            torch.cat([part.inputs for part in states]), torch.cat([part.state for part in states])
        )


@dataclass(frozen=True)
class DeltaRows:
    """What one layer makes of L rows.

    Attributes:
        inputs: [L, C] queries, keys and values before the convolution.
        decay: [L, H] g, at most 0.
        beta: [L, H] in (0, 1).
        weight: [C, W] of the convolution.
        key_heads: G.
        key_size: D.
        rule: how chunks are computed.
        step: how one token is, by a kernel; None: by `delta_step` itself.
    """

    inputs: Tensor
    decay: Tensor
    beta: Tensor
    weight: Tensor
    key_heads: int
    key_size: int
    rule: ChunkRule
    step: ChunkRule | None = None

    def heads(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Convolved inputs [..., C] as q and k [..., G, D] and v [..., H, E]."""
        keys, values = self.key_heads * self.key_size, self.decay.shape[-1]
        query, key, value = mixed.split([keys, keys, mixed.shape[-1] - 2 * keys], dim=-1)
        q, k = (x.unflatten(-1, (self.key_heads, self.key_size)) for x in (query, key))
        return q, k, value.unflatten(-1, (values, -1))


class LinearLayer(Protocol):
    """A layer of linear attention, in two halves around its recurrence."""

    def delta_rows(self, hidden: Tensor) -> DeltaRows:
        """What it makes of normalised rows [L, H]."""
        ...

    def output(self, hidden: Tensor, mixed: Tensor) -> Tensor:
        """[L, H] of the same rows and of what the recurrence gave, [L, H, E]."""
        ...


@dataclass(frozen=True)
class Grid:
    """Sequences that follow each other in rows, as a padded grid.

    Attributes:
        count: N sequences.
        longest: T.
        lengths: [N] tokens of each; None where all have T.
        places: [rows] place of each row in the flattened grid; None where all have T.
    """

    count: int
    longest: int
    lengths: Tensor | None
    places: Tensor | None

    @property
    def rows(self) -> int:
        """Tokens of all sequences."""
        return self.count * self.longest if self.places is None else len(self.places)

    @staticmethod
    def of(lengths: Sequence[int], device: torch.device) -> Grid:
        """The grid of N >= 1 sequences."""
        longest = max(lengths)
        if min(lengths) == longest:
            return Grid(len(lengths), longest, None, None)
        sizes = torch.tensor(lengths)
        places = (torch.arange(longest) < sizes[:, None]).flatten().nonzero()[:, 0]
        return Grid(len(lengths), longest, to_device(sizes, device), to_device(places, device))

    def padded(self, rows: Tensor) -> Tensor:
        """[rows, ...] -> [N, T, ...]; zeros where no sequence has a token."""
        if self.places is not None:
            grid = rows.new_zeros((self.count * self.longest, *rows.shape[1:]))
            rows = grid.index_copy(0, self.places, rows)
        return rows.view(self.count, self.longest, *rows.shape[1:])

    def collect(self, grid: Tensor) -> Tensor:
        """[N, T, ...] -> [rows, ...]."""
        rows = grid.flatten(0, 1)
        return rows if self.places is None else rows.index_select(0, self.places)

    def tails(self, padded: Tensor, count: int) -> Tensor:
        """[N, count, C] last inputs of each sequence, of [N, count + T, C] with zeros before it."""
        if self.lengths is None:
            return padded[:, padded.shape[1] - count :].clone()  # a view would keep all of them
        steps = torch.arange(count, device=padded.device)
        first = torch.arange(self.count, device=padded.device) * padded.shape[1] + self.lengths
        rows = padded.flatten(0, 1).index_select(0, (first[:, None] + steps).flatten())
        return rows.view(self.count, count, -1)


def causal_convolution(padded: Tensor, weight: Tensor) -> Tensor:
    """A depthwise causal convolution and silu.

    Args:
        padded: [N, W - 1 + T, C] inputs, with those before the first one.
        weight: [C, W].

    Returns:
        [N, T, C] of the inputs' type.
    """
    width = weight.shape[1]
    steps = padded.shape[1] - width + 1
    total = padded[:, :steps] * weight[:, 0]
    for tap in range(1, width):
        total = torch.addcmul(total, padded[:, tap : tap + steps], weight[:, tap])
    return nn.functional.silu(total).to(padded.dtype)


def packed_delta(
    rows: DeltaRows, prompts: Grid, responses: Grid | None, owners: Tensor
) -> tuple[Tensor, LinearState]:
    """The recurrence over a packed row: prompts, then responses.

    Padding has g = 0 and beta = 0, which leave a state as it is.

    Args:
        rows: what the layer made of the L rows.
        prompts: where the A prompts lie, from row 0 on.
        responses: where the R responses lie, after the prompts; None without any.
        owners: [R] the prompt of each response.

    Returns:
        [L, H, E], and what the A prompts leave.
    """
    first = len(rows.inputs) - (0 if responses is None else responses.rows)
    before = rows.weight.shape[1] - 1

    def run(part: slice, grid: Grid, start: LinearState | None) -> tuple[Tensor, LinearState]:
        padded = grid.padded(rows.inputs[part])
        if start is None:
            padded = nn.functional.pad(padded, (0, 0, before, 0))
        else:
            padded = torch.cat([start.inputs, padded], dim=1)
        q, k, v = rows.heads(causal_convolution(padded, rows.weight))
        decay, beta = (grid.padded(x[part]) for x in (rows.decay, rows.beta))
        out, last = rows.rule(q, k, v, decay, beta, None if start is None else start.state)
        return grid.collect(out), LinearState(grid.tails(padded, before), last)

    out, state = run(slice(0, first), prompts, None)
    if responses is None:
        return out, state
    continued, _ = run(slice(first, None), responses, state.select(owners))
    return torch.cat([out, continued]), state


def delta_step(rows: DeltaRows, before: LinearState) -> tuple[Tensor, LinearState]:
    """One token of each of n responses; without gradients.

    Args:
        rows: what the layer made of the n tokens.
        before: what the n responses have left so far.

    Returns:
        [n, H, E], and what they leave now.
    """
    window = torch.cat([before.inputs, rows.inputs[:, None]], dim=1)
    heads = rows.heads(causal_convolution(window, rows.weight)[:, 0])
    if rows.step is not None:
        parts = (part[:, None] for part in (*heads, rows.decay, rows.beta))
        out, state = rows.step(*parts, before.state)
        return out[:, 0], LinearState(window[:, 1:], state)
    q, k, v = _normalised(heads, before.state)
    decay, beta = (x.to(v.dtype)[..., None] for x in (rows.decay, rows.beta))
    state = before.state * decay.exp()[..., None]
    with uncast(state):
        known = (k[..., None, :] @ state)[..., 0, :]
        state = state + k[..., None] * (beta * (v - known))[..., None, :]
        out = (q[..., None, :] @ state)[..., 0, :]
    return out.to(rows.inputs.dtype), LinearState(window[:, 1:], state)


@dataclass(frozen=True)
class Branches:
    """What E tokens that continue each of A prompts leave in one layer, for tokens after them.

    Attributes:
        inputs: [A, E, C] of the convolution.
        keys: [A, H, E, D] k.
        values: [A, H, E, E'] d, with E' the size of a value head.
        decay: [A, H, E] g, float64.
        total: [A, H, E] G, float64.
    """

    inputs: Tensor
    keys: Tensor
    values: Tensor
    decay: Tensor
    total: Tensor

    def with_more(self, more: Branches) -> Branches:
        """Further tokens after these."""
        return Branches(
            torch.cat([self.inputs, more.inputs], dim=1),
            *(
                torch.cat([getattr(self, name), getattr(more, name)], dim=2)
                for name in ("keys", "values", "decay", "total")
            ),
        )


def branch_delta(
    rows: DeltaRows, start: LinearState, seen: Tensor, earlier: Branches | None
) -> tuple[Tensor, Branches]:
    """The recurrence over tokens of trees that continue A prompts; without gradients.

    Args:
        rows: what the layer made of T tokens of each prompt, [A, T, ...]; ancestors come first.
        start: what the A prompts left.
        seen: [A or 1, T, E + T] bool, True for a token's ancestors among the E tokens of earlier
            passes and the T of this one, and for itself.
        earlier: what those of earlier passes left; None of the first pass.

    Returns:
        [A, T, H, E'] and what the T tokens leave.
    """
    images, count = rows.inputs.shape[:2]

    def every(name: str, new: Tensor, dim: int = 2) -> Tensor:
        """Those of earlier passes and of this one."""
        return new if earlier is None else torch.cat([getattr(earlier, name), new], dim=dim)

    inputs = torch.cat([start.inputs, every("inputs", rows.inputs, 1)], dim=1)
    window = _ancestors(inputs, seen, rows.weight.shape[1])
    mixed = causal_convolution(window.flatten(0, 1), rows.weight)[:, 0].view(images, count, -1)
    q, k, v = (x.transpose(1, 2) for x in _normalised(rows.heads(mixed), start.state))
    beta = rows.beta.to(v.dtype).transpose(1, 2)[..., None]
    # In float64: differences of long sums.
    decay = rows.decay.double().transpose(1, 2)
    total = (seen.double()[:, None] @ every("decay", decay)[..., None])[..., 0]
    share = total[..., None] - every("total", total)[:, :, None]
    share = share.masked_fill(~seen[:, None], -torch.inf).to(v.dtype).exp()
    reach, keys = total.to(v.dtype).exp()[..., None], every("keys", k).transpose(-1, -2)
    with uncast(v):
        links = (k @ keys) * share * beta
        right = beta * (v - reach * (k @ start.state))
        if earlier is not None:
            right = right - links[..., :-count] @ earlier.values
        # The diagonal and what is above it are not read.
        values = torch.linalg.solve_triangular(
            links[..., -count:], right, upper=False, unitriangular=True
        )
        out = reach * (q @ start.state) + ((q @ keys) * share) @ every("values", values)
    left = Branches(rows.inputs, k, values, decay, total)
    return out.transpose(1, 2).to(rows.inputs.dtype), left


def _ancestors(inputs: Tensor, seen: Tensor, width: int) -> Tensor:
    """The last `width` inputs on the way to each token.

    Args:
        inputs: [A, W - 1 + E + T, C], the prompts' own first.
        seen: [A or 1, T, E + T] bool; places ascend along a way.
        width: W.

    Returns:
        [A, T, W, C], the token's own last.
    """
    images, count = len(inputs), seen.shape[1]
    known = torch.cat([seen.new_ones(len(seen), count, width - 1), seen], dim=2)
    places = torch.where(known, torch.arange(known.shape[2], device=known.device), -1)
    last = places.topk(width, dim=2).values.flip(2).expand(images, -1, -1)
    first = torch.arange(images, device=last.device) * inputs.shape[1]
    rows = inputs.flatten(0, 1).index_select(0, (last + first[:, None, None]).flatten())
    return rows.view(images, count, width, -1)


def _normalised(
    heads: tuple[Tensor, Tensor, Tensor], like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows q and k of H heads, normalised, and v; all of the state's type."""
    q, k, v = (x.to(like.dtype) for x in heads)
    q, k = repeated(*normalised(q, k), v)
    return q, k, v


def repeated(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Rows q and k [..., G, D] once for each head of v [..., H, E]."""
    times = v.shape[-2] // q.shape[-2]
    if times == 1:
        return q, k
    return q.repeat_interleave(times, dim=-2), k.repeat_interleave(times, dim=-2)
