"""Layers of linear attention: chunks, steps and trees against the recurrence, token by token.

The recurrence is written out here; the layer's own pass is that of transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration
from transformers.models.qwen3_5 import modeling_qwen3_5 as library

from vqr1.policy.delta_chunks import chunked_delta, unit_lower_inverse
from vqr1.policy.fast_layers import use_fast_layers
from vqr1.policy.linear_attention import (
    DeltaRows,
    Grid,
    branch_delta,
    causal_convolution,
    delta_step,
    packed_delta,
)
from vqr1.policy.prompt_state import read_prompts
from vqr1.policy.shared_prompt import PackedPrompts, run_packed
from vqr1.policy.tree_attention import TreeLayout
from vqr1.rollout import cuda_graph_decode
from vqr1.rollout.cuda_graph_decode import StaticDecoder
from vqr1.rollout.decode import Decoder

KEYS, VALUES, SIZE, OUT, WIDTH = 2, 4, 3, 5, 4
INPUTS = 2 * KEYS * SIZE + VALUES * OUT


def drawn(*shape: int, seed: int, requires_grad: bool = False) -> Tensor:
    made = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return made.requires_grad_(requires_grad)


def layer_rows(count: int, *, requires_grad: bool = False) -> DeltaRows:
    return DeltaRows(
        drawn(count, INPUTS, seed=1, requires_grad=requires_grad),
        -drawn(count, VALUES, seed=2).exp() * 0.2,
        drawn(count, VALUES, seed=3).sigmoid(),
        drawn(INPUTS, WIDTH, seed=4, requires_grad=requires_grad),
        KEYS,
        SIZE,
        chunked_delta,
    )


def one_by_one(rows: DeltaRows, order: list[int]) -> Tensor:
    """[n, H, E] of rows that follow each other, straight from the module's formula."""
    state = torch.zeros(VALUES, SIZE, OUT, dtype=torch.float64)
    found = []
    for place in range(len(order)):
        taps = [order[n] if n >= 0 else None for n in range(place - WIDTH + 1, place + 1)]
        mixed = sum(
            rows.weight[:, tap] * rows.inputs[row]
            for tap, row in enumerate(taps)
            if row is not None
        )
        mixed = torch.nn.functional.silu(torch.as_tensor(mixed))
        q, k = (mixed[n * KEYS * SIZE :][: KEYS * SIZE].view(KEYS, SIZE) for n in (0, 1))
        v = mixed[2 * KEYS * SIZE :].view(VALUES, OUT)
        q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
        q, k = (x.repeat_interleave(VALUES // KEYS, dim=0) for x in (q / SIZE**0.5, k))
        row = order[place]
        state = state * rows.decay[row].exp()[:, None, None]
        change = rows.beta[row, :, None] * (v - torch.einsum("hde,hd->he", state, k))
        state = state + torch.einsum("hd,he->hde", k, change)
        found.append(torch.einsum("hde,hd->he", state, q))
    return torch.stack(found)


PROMPTS, RESPONSES = (5, 2, 40), ((3, 0, 35), (0, 1, 1), (0, 0, 0))


def test_a_packed_row_and_its_gradients_are_the_recurrences() -> None:
    """Prompts shorter than the kernel, and longer than a chunk; empty responses."""
    layout = TreeLayout.build(PROMPTS, RESPONSES, torch.device("cpu"))
    rows = layer_rows(sum(PROMPTS) + sum(map(sum, RESPONSES)), requires_grad=True)
    found, left = layout.recur(0, rows)
    start, place, expected = 0, sum(PROMPTS), []
    continued = []
    for length, group in zip(PROMPTS, RESPONSES, strict=True):
        prompt = [*range(start, start + length)]
        expected.append(one_by_one(rows, prompt))
        for count in filter(None, group):
            whole = one_by_one(rows, [*prompt, *range(place, place + count)])
            continued.append(whole[length:])
            place += count
        start += length
    truth = torch.cat([*expected, *continued])
    torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-12)
    weights = drawn(*truth.shape, seed=9)
    wanted = (rows.inputs, rows.weight)
    ours, theirs = (torch.autograd.grad((x * weights).sum(), wanted) for x in (found, truth))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    assert left.inputs[1, 0].eq(0).all()  # nothing stood before a prompt of two tokens
    torch.testing.assert_close(left.inputs[1, 1:], rows.inputs[5:7])


def test_steps_and_trees_continue_a_prompt() -> None:
    """0-1-2 are a line, 3 and 4 follow 1, 5 follows 3; the last pass sees what came before."""
    rows = layer_rows(PROMPTS[2] + 6)
    prompt = [*range(PROMPTS[2])]
    first = len(prompt)

    def part(chosen: list[int], lead: tuple[int, ...]) -> DeltaRows:
        pick = [first + node for node in chosen]
        made = [x[pick].view(*lead, -1) for x in (rows.inputs, rows.decay, rows.beta)]
        return DeltaRows(*made, rows.weight, KEYS, SIZE, chunked_delta)

    alone = DeltaRows(
        rows.inputs[:first], rows.decay[:first], rows.beta[:first], rows.weight, KEYS, SIZE,
        chunked_delta,
    )  # fmt: skip
    grid = Grid.of([first], torch.device("cpu"))
    _, state = packed_delta(alone, grid, None, torch.empty(0, dtype=torch.int64))
    ways = ((0,), (0, 1), (0, 1, 2), (0, 1, 3), (0, 1, 4), (0, 1, 3, 5))
    expected = [one_by_one(rows, [*prompt, *(first + n for n in way)])[-1] for way in ways]
    seen = torch.zeros(1, 6, 6, dtype=torch.bool)
    for way in ways:
        seen[0, way[-1], list(way)] = True
    found, left = branch_delta(part([0, 1, 2, 3], (1, 4)), state, seen[:, :4, :4], None)
    further, _ = branch_delta(part([4, 5], (1, 2)), state, seen[:, 4:], left)
    every = torch.cat([found[0], further[0]])
    torch.testing.assert_close(every, torch.stack(expected), rtol=1e-9, atol=1e-11)
    for node in (0, 1, 2):
        step, state = delta_step(part([node], (1,)), state)
        torch.testing.assert_close(step[0], expected[node], rtol=1e-9, atol=1e-11)


def test_inverses_and_convolutions_are_pytorchs() -> None:
    lower = drawn(3, 16, 16, seed=5, requires_grad=True)
    whole = torch.eye(16, dtype=torch.float64) + lower.tril(-1)
    inverse = unit_lower_inverse(lower)
    torch.testing.assert_close(inverse, whole.inverse())
    weights = drawn(3, 16, 16, seed=6)
    ours, theirs = (
        torch.autograd.grad((x * weights).sum(), lower) for x in (inverse, whole.inverse())
    )
    torch.testing.assert_close(ours, theirs)
    padded, weight = drawn(2, 9, INPUTS, seed=7), drawn(INPUTS, WIDTH, seed=8)
    expected = library.causal_conv1d_fn(padded.transpose(1, 2), weight, activation="silu")
    found = causal_convolution(padded, weight)
    torch.testing.assert_close(found, expected.transpose(1, 2)[:, WIDTH - 1 :])


# Through a whole model of eight layers

LENGTHS, GROUPS = (70, 45), ((33, 0, 12), (40,))


@pytest.fixture(scope="module")
def deep() -> Any:
    """Eight layers, six of linear attention, with decays as in released checkpoints."""
    config = Qwen3_5Config(
        text_config={
            "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 8,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "linear_num_key_heads": 2, "linear_num_value_heads": 4,
            "linear_key_head_dim": 16, "linear_value_head_dim": 16,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.5,
                "mrope_interleaved": True, "mrope_section": [2, 1, 1],
            },
        },
        vision_config={
            "depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 1,
            "out_hidden_size": 64, "num_position_embeddings": 4,
        },
    )  # fmt: skip
    torch.manual_seed(3)
    model = Qwen3_5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.model.language_model.named_parameters():
            if name.endswith("A_log"):
                weight.uniform_(-6, 0)  # heads that remember one token, and heads that remember 300
            elif weight.dim() == 2:
                weight.mul_(4)  # what a layer gives is as large as what it takes
    return model


def packed_of(model: Any) -> PackedPrompts:
    embeds = 0.5 * drawn(sum(LENGTHS), 64, seed=11).float()
    positions = torch.cat([torch.arange(n).expand(3, -1) for n in LENGTHS], dim=1)
    return PackedPrompts(embeds, positions, LENGTHS, LENGTHS)


def shared_states(model: Any, packed: PackedPrompts, rows: Tensor, groups: Any) -> Tensor:
    """[R, H] hidden states of all responses, of their embedded rows in order."""
    layout = TreeLayout.build(packed.lengths, groups, torch.device("cpu"))
    places = [
        torch.arange(start, start + n)
        for start, group in zip(packed.next_positions, groups, strict=True)
        for n in group
    ]
    positions = torch.cat([packed.positions, torch.cat(places).expand(3, -1)], dim=1)
    hidden = run_packed(model, torch.cat([packed.embeds, rows]), positions, layout)
    return hidden[layout.prompt_rows :]


@contextmanager
def in_chunks_of(size: int) -> Iterator[None]:
    """The library's pass with another size of chunks."""
    rule = library.torch_chunk_gated_delta_rule
    library.torch_chunk_gated_delta_rule = partial(rule, chunk_size=size)
    try:
        yield
    finally:
        library.torch_chunk_gated_delta_rule = rule


def full_rows(model: Any, packed: PackedPrompts, rows: Tensor) -> Tensor:
    """The library's own pass, every response a full row of its own."""
    text, found = model.model.language_model, []
    first = 0
    for embeds, start, group in zip(packed.embeds.split(LENGTHS), LENGTHS, GROUPS, strict=True):
        for n in filter(None, group):
            whole = torch.cat([embeds, rows[first : first + n]])[None]
            place = torch.arange(start + n).expand(3, 1, -1)
            out = text(inputs_embeds=whole, position_ids=place, use_cache=False)
            found.append(out.last_hidden_state[0, start:])
            first += n
    return torch.cat(found)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.medium
def test_eight_layers_round_no_more_than_the_librarys_chunks(deep: Any) -> None:
    """States and all gradients, in single precision; the shared pass beside both sizes."""
    packed = packed_of(deep)
    rows = 0.5 * drawn(sum(map(sum, GROUPS)), 64, seed=12).float()
    weights = drawn(len(rows), 64, seed=13).float()

    def measured(states: Any) -> list[Tensor]:
        deep.zero_grad(set_to_none=True)
        out = states()
        (out * weights).sum().backward()
        text = deep.model.language_model
        return [out.detach(), *(p.grad.clone() for p in text.parameters() if p.grad is not None)]

    plain = {}
    for size in (32, 64):
        with in_chunks_of(size):
            plain[size] = measured(lambda: full_rows(deep, packed, rows))
    own = [relative(*pair) for pair in zip(plain[32], plain[64], strict=True)]
    kinds = {module: type(module) for module in deep.modules()}
    try:
        use_fast_layers(deep)
        shared = measured(lambda: shared_states(deep, packed, rows, GROUPS))
    finally:
        for module, kind in kinds.items():
            module.__class__ = kind
    ours = [relative(*pair) for pair in zip(shared, plain[64], strict=True)]
    print(f"\nstates: {ours[0]:.1e} (chunks of the library: {own[0]:.1e}); gradients: "
          f"{max(ours[1:]):.1e} ({max(own[1:]):.1e})")  # fmt: skip
    assert max(ours) <= 1e-4
    assert ours[0] <= 2 * own[0]
    assert max(ours[1:]) <= 2 * max(own[1:])


def test_a_response_never_reaches_another(deep: Any) -> None:
    """Permuted, dropped and replaced ones: what the recurrence gives the others stays bit by bit.

    Linear layers round a row by its place among all rows, so that whole models are compared with
    another response in the same place.
    """
    torch.manual_seed(5)
    shape = (2, 4, 6)
    inputs, decay, beta = (
        torch.randn(*shape, INPUTS),
        -torch.rand(*shape, VALUES),
        torch.rand(*shape, VALUES),
    )
    ahead = [torch.randn(9, INPUTS), -torch.rand(9, VALUES), torch.rand(9, VALUES)]
    weight = torch.randn(INPUTS, WIDTH)

    def continued(kept: list[int]) -> Tensor:
        parts = [
            torch.cat([first, part[:, kept].reshape(-1, part.shape[-1])])
            for first, part in zip(ahead, (inputs, decay, beta), strict=True)
        ]
        rows = DeltaRows(*parts, weight, KEYS, SIZE, chunked_delta)
        layout = TreeLayout.build((5, 4), ((6,) * len(kept),) * 2, torch.device("cpu"))
        return layout.recur(0, rows)[0][9:].view(2, len(kept), 6, -1)

    base = continued([0, 1, 2, 3])
    for kept in ([2, 0, 3, 1], [0, 2, 3], [3], [1, 1, 1, 0]):
        assert torch.equal(continued(kept), base[:, kept])

    use_fast_layers(deep)
    packed, groups = packed_of(deep), ((6, 6, 6, 6), (6, 6, 6, 6))
    rows = torch.randn(2, 4, 6, 64)
    other = rows.clone()
    other[:, 1] = torch.randn(2, 6, 64)
    with torch.no_grad():
        first, second = (
            shared_states(deep, packed, x.view(-1, 64), groups).view(2, 4, 6, -1)
            for x in (rows, other)
        )
    assert torch.equal(second[:, [0, 2, 3]], first[:, [0, 2, 3]])
    assert not torch.equal(second[:, 1], first[:, 1])


@pytest.mark.medium
@pytest.mark.parametrize("kind", [Decoder, StaticDecoder])
def test_decoders_keep_responses_apart(
    deep: Any, kind: type[Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another's tokens change no bit; responses that end leave the rest as they were."""
    monkeypatch.setattr(cuda_graph_decode, "FEWEST", 1)
    use_fast_layers(deep)
    tokens = torch.randint(0, 64, (7, 2, 3), generator=torch.Generator().manual_seed(4))
    others = tokens.clone()
    others[:, :, 1] = 63 - others[:, :, 1]
    with torch.no_grad():
        state = read_prompts(deep, packed_of(deep))
        whole, replaced = kind(deep, state, 3, 8), kind(deep, state, 3, 8)
        base = [whole.step(step.flatten()).view(2, 3, -1) for step in tokens]
        for step, expected in zip(others, base, strict=True):
            found = replaced.step(step.flatten()).view(2, 3, -1)
            assert torch.equal(found[:, [0, 2]], expected[:, [0, 2]])
            assert not torch.equal(found[:, 1], expected[:, 1])
        fewer, live = kind(deep, state, 3, 8), [*range(6)]
        for number, (step, expected) in enumerate(zip(tokens, base, strict=True)):
            found = fewer.step(step.flatten()[live])
            torch.testing.assert_close(found, expected.flatten(0, 1)[live], rtol=1e-5, atol=1e-5)
            if number in (1, 3, 4):
                kept = [place for place in range(len(live)) if place != number % len(live)]
                fewer.keep(kept)
                live = [live[place] for place in kept]
        if isinstance(fewer, StaticDecoder):
            assert fewer._shape[1] == 3
            fewer.begin(state)
            for step, expected in zip(tokens, base, strict=True):
                assert torch.equal(fewer.step(step.flatten()).view(2, 3, -1), expected)
