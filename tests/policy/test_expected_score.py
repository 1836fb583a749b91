"""Expected scores against the formula by hand and against plain forward passes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from tests.support.tiny_models import tiny_model, tiny_prompts
from vqr1.errors import ModelError
from vqr1.policy.expected_score import digit_tokens, expectation, expected_scores
from vqr1.policy.plain import plain_logprobs
from vqr1.policy.prompt_state import read_prompts
from vqr1.policy.shared_prompt import pack_prompts
from vqr1.policy.vision import encode_images

DIGITS = "0123456789"


class CharacterTokenizer:
    """Each character of a small alphabet is one token."""

    alphabet = DIGITS + ".<>/answer"

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [self.alphabet.index(character) for character in text]


def certain(spelling: str) -> torch.Tensor:
    """[1, 500, 4] log-probabilities of a model that writes `spelling` for sure."""
    table = torch.full((5, 10, 10, 4), -math.inf)
    text = spelling.ljust(4, "!")
    for d in range(5):
        for e in range(10):
            for f in range(10):
                other = f"{d + 1}.{e}{f}"
                for place in range(4):
                    # A token's probability is given the tokens before it.
                    if other[: place + 1] == text[: place + 1]:
                        table[d, e, f, place] = 0.0
    return table.view(1, 500, 4)


@pytest.mark.parametrize(
    ("spelling", "score"), [("3.42", 3.42), ("5.00", 5.0), ("1.09", 1.09), ("3.5", 3.5), ("4", 4.0)]
)
def test_a_certain_answer_is_its_own_expectation(spelling: str, score: float) -> None:
    found = expectation(certain(spelling))
    assert float(found.score[0]) == pytest.approx(score, abs=1e-9)
    assert float(found.mass[0]) == pytest.approx(1.0)


def test_mixture_by_hand() -> None:
    # 2.00 with probability .3 and 4.50 with .5 (the rest is no digit): (.6 + 2.25) / .8 = 3.5625.
    table = certain("2.00").exp() + certain("4.50").exp()
    table[..., 0] = 0.0
    shaped = table.view(1, 5, 10, 10, 4)
    shaped[:, 1, :, :, 0], shaped[:, 3, :, :, 0] = 0.3, 0.5
    found = expectation(table.log())
    assert float(found.mass[0]) == pytest.approx(0.8)
    assert float(found.score[0]) == pytest.approx(3.5625, abs=1e-6)


def test_equals_plain_forward_passes() -> None:
    model = tiny_model(seed=1)
    prompts = tiny_prompts([(2, 2), (2, 3)], [5, 9])
    tokenizer = CharacterTokenizer()
    beginnings = ["<answer>", "an<answer>"]
    packed = pack_prompts(model, prompts, encode_images(model, prompts))
    found = expected_scores(model, tokenizer, read_prompts(model, packed), beginnings)
    for b, beginning in enumerate(beginnings):
        total = mass = 0.0
        start = tokenizer.encode(beginning)
        for d in "12345":
            spellings = [f"{d}.{e}{f}" for e in DIGITS for f in DIGITS]
            tokens = torch.tensor([start + tokenizer.encode(text) for text in spellings])[None]
            p = (
                plain_logprobs(
                    model,
                    prompts.select(b, b + 1),
                    tokens,
                    torch.ones_like(tokens, dtype=torch.bool),
                )
                .logprobs.detach()[0, :, len(start) :]
                .double()
                .exp()
            )
            p_d, p_point = float(p[0, 0]), float(p[0, 1])
            decimals = 0.0
            for e in range(10):
                last = sum(float(p[10 * e + f, 3]) * f / 100 for f in range(10))
                decimals += float(p[10 * e, 2]) * (e / 10 + last)
            total += p_d * (int(d) + p_point * decimals)
            mass += p_d
        assert float(found.mass[b]) == pytest.approx(mass, rel=1e-4)
        assert float(found.score[b]) == pytest.approx(total / mass, rel=1e-5)


def test_a_tokenizer_that_joins_digits_is_refused() -> None:
    joined = SimpleNamespace(
        encode=lambda text, add_special_tokens=False: [0] if len(text) == 1 else [1, 2]
    )
    with pytest.raises(ModelError, match="does not spell numbers digit by digit"):
        digit_tokens(joined)
