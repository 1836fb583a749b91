"""Prompts that were read once, in parts or at one go."""

from __future__ import annotations

import pytest
import torch

from tests.support.plain_logprobs import plain_logprobs
from tests.support.tiny_models import tiny_model, tiny_prompts
from vqr1.policy import prompt_state, vision
from vqr1.policy.prompt_state import Continuation, PromptState, continue_prompts, read_prompts
from vqr1.policy.shared_prompt import pack_prompts
from vqr1.policy.vision import encode_images, runs_within

# Prompts of two lengths, in runs of 2 and 1.
PROMPTS = tiny_prompts([(2, 2), (2, 2), (3, 5)], [5, 5, 9])


@torch.no_grad()
def read(model: torch.nn.Module) -> PromptState:
    return read_prompts(model, pack_prompts(model, PROMPTS, encode_images(model, PROMPTS)))


@pytest.mark.parametrize(
    ("sizes", "limit", "runs"),
    [
        ([3, 3, 3], 6, [(0, 2), (2, 3)]),
        ([9, 1, 1, 9], 4, [(0, 1), (1, 3), (3, 4)]),
        ([1, 2], 3, [(0, 2)]),
        ([], 3, []),
    ],
)
def test_runs_by_hand(sizes: list[int], limit: int, runs: list[tuple[int, int]]) -> None:
    assert runs_within(sizes, limit) == runs


@pytest.mark.parametrize("tokens", [1, 30])
def test_splits_leave_what_one_pass_leaves(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    model = tiny_model()
    whole = read(model)
    assert whole.runs == ((0, 2, whole.runs[0][2]), (2, 1, whole.runs[1][2]))
    monkeypatch.setattr(prompt_state, "_CPU_TOKENS", tokens)
    monkeypatch.setattr(vision, "_CPU_PATCHES", tokens)
    parts = read(model)
    torch.testing.assert_close(parts.last_hidden, whole.last_hidden, rtol=1e-5, atol=1e-5)
    assert torch.equal(parts.next_positions, whole.next_positions)
    for one, other in ((parts.keys, whole.keys), (parts.values, whole.values)):
        assert one.keys() == other.keys()
        for layer, truth in other.items():
            flat = [image for run in one[layer] for image in run]
            expected = [image for run in truth for image in run]
            for a, b in zip(flat, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_two_branches_see_prompt_and_trunk_but_not_each_other() -> None:
    model = tiny_model()
    state = read(model)
    # A trunk token t, two branches x and y after it, for each of three images.
    trunk, branches = [3, 4, 5], ([6, 7, 8], [9, 10, 11])
    seen = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=torch.bool)[None, None]
    tokens = torch.tensor(list(zip(trunk, *branches, strict=True)))
    positions = state.next_positions[:, None] + torch.tensor([0, 1, 1])
    hidden = continue_prompts(
        model, tokens.flatten(), positions.flatten(), Continuation(state, seen, None)
    )
    found = model.lm_head(hidden).log_softmax(dim=-1).view(3, 3, -1)
    for number, branch in enumerate(branches):
        rows = torch.tensor([trunk, branch, [12, 13, 14]]).T[:, None]
        plain = plain_logprobs(model, PROMPTS, rows, torch.ones_like(rows, dtype=torch.bool))
        for image in range(3):
            # What the trunk states of the branch, and the branch of the token after it.
            assert float(found[image, 0, branch[image]]) == pytest.approx(
                float(plain.logprobs[image, 0, 1]), abs=1e-5
            )
            assert float(found[image, 1 + number, 12 + image]) == pytest.approx(
                float(plain.logprobs[image, 0, 2]), abs=1e-5
            )
