"""Expected scores against numbers by hand and against brute force over the grammar."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.brute_numbers import Rows, Written, brute_force, write_out
from tests.support.number_tokenizers import CHARACTERS, JOINED, PieceTokenizer, qwen_tokenizer
from tests.support.tiny_models import tiny_model, tiny_prompts
from vqr1.errors import ModelError
from vqr1.iqa.answers import ScoreRange, TaggedAnswer, accepted_range
from vqr1.policy import expected_score
from vqr1.policy.expected_score import Entries, expected_scores, prune
from vqr1.policy.prompt_state import read_prompts
from vqr1.policy.shared_prompt import pack_prompts
from vqr1.policy.spelling_tree import spelling_tree
from vqr1.policy.vision import encode_images
from vqr1.records import PromptBatch

pytestmark = pytest.mark.medium

SCALES: tuple[ScoreRange, ...] = ((1.0, 5.0), (0.0, 10.0), (0.0, 100.0))


def on(scale: ScoreRange) -> TaggedAnswer:
    return TaggedAnswer(score_range=scale)


BEGINNING = "an<answer>"
QWEN_VOCABULARY = 151936


@cache
def tokenizer_of(name: str) -> Any:
    if name == "qwen":
        return qwen_tokenizer()
    return PieceTokenizer(CHARACTERS if name == "characters" else JOINED)


@cache
def model_of(name: str) -> Any:
    """A random model in float64 that knows what kind of token it reads last (`KINDS`)."""
    sizes = {"hidden": 24, "layers": 2, "heads": 2, "kv_heads": 1}
    vocabulary = {"vocabulary": QWEN_VOCABULARY} if name == "qwen" else {}
    model = tiny_model(seed=1, dtype=torch.float64, **sizes, **vocabulary)
    with torch.no_grad():
        for text, number in tokenizer_of(name).get_vocab().items():
            if set(text) <= set("-.0123456789<>/answer"):
                model.model.language_model.embed_tokens.weight[number, kind_of(text)] = 20.0
    return model


START, DIGIT, POINT, SIGN = KINDS = (0, 1, 2, 3)


def kind_of(text: str) -> int:
    """What a token leaves the number at; the model's hidden state holds it at that place."""
    last = {".": POINT, "-": SIGN, **dict.fromkeys("0123456789", DIGIT)}
    return last.get(text[-1], START)


@cache
def prompt() -> PromptBatch:
    return tiny_prompts([(1, 2)], [4])


@cache
def packed_of(name: str) -> Any:
    model = model_of(name)
    return pack_prompts(model, prompt(), encode_images(model, prompt()))


@cache
def written_of(name: str, scale: ScoreRange) -> Written:
    return write_out(tokenizer_of(name), *accepted_range(scale))


@cache
def rows_of(name: str, scale: ScoreRange) -> Rows:
    begun = tokenizer_of(name).encode(BEGINNING, add_special_tokens=False)[:-1]
    return Rows(model_of(name), packed_of(name), begun, written_of(name, scale).paths)


def numerical_head(name: str, first: str, slope: float) -> tuple[nn.Linear, torch.Tensor]:
    """An output layer that mostly writes numbers, with one first character above all.

    Args:
        name: which tokenizer's.
        first: the character.
        slope: how much less likely each digit is than the one before it.

    Returns:
        The layer, and tokens that are all alike to it.
    """
    model, vocabulary = model_of(name), tokenizer_of(name).get_vocab()
    size, width = model.lm_head.out_features, model.lm_head.in_features
    head = nn.Linear(width, size, dtype=torch.float64)
    alike = torch.ones(size, dtype=torch.bool)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(-math.log(size))
        for text, number in vocabulary.items():
            if not set(text) <= set("-.0123456789<>/") or len(text) > 3:
                continue
            alike[number] = False
            head.weight[number] = model.lm_head.weight[number]
            digits = [int(character) for character in text if character.isdigit()]
            head.bias[number] += 2.0 - slope * sum((3 * d + 1) % 10 for d in digits) / 10
            wanted = {
                START: 1.0 if digits or text in ("-", ">", ">-") else -1.0,
                DIGIT: {"<": 0.7, "</": 1.1, ".": 0.5}.get(text, 0.0 if digits else -1.0),
                POINT: 1.0 if digits else -1.0,
                SIGN: 1.0 if digits else -1.0,
            }
            for kind in KINDS:
                head.weight[number, kind] = 2.0 * wanted[kind]
            if text.lstrip(">").startswith(first):
                head.weight[number, START] += 1.5
    return head.requires_grad_(False), alike.nonzero()[:, 0]


@torch.no_grad()
def found_by_tree(name: str, scale: ScoreRange, head: nn.Linear) -> tuple[float, float, float]:
    model = model_of(name)
    old, model.lm_head = model.lm_head, head
    try:
        state = read_prompts(model, packed_of(name))
        found = expected_scores(model, tokenizer_of(name), state, [BEGINNING], on(scale))
    finally:
        model.lm_head = old
    return float(found.score), float(found.std), float(found.mass)


def first_characters(scale: ScoreRange) -> str:
    low, high = accepted_range(scale)
    digits = "0123456789" if high >= 10 else "0123456"
    return ("-" if low < 0 else "") + digits


CASES = [
    pytest.param(name, scale, first, id=f"{name}-{scale[0]:g}to{scale[1]:g}-first{first}")
    for name in ("characters", "joined", "qwen")
    for scale in SCALES
    for first in ("-" if (name, scale) == ("joined", SCALES[2]) else first_characters(scale))
]


@pytest.mark.parametrize(("name", "scale", "first"), CASES)
def test_equals_brute_force(name: str, scale: ScoreRange, first: str) -> None:
    # Where some digits are much likelier, most of the large tree is excluded.
    head, alike = numerical_head(name, first, 12.0 if scale[1] == 100 else 2.0)
    mean, std, mass = brute_force(head, rows_of(name, scale), written_of(name, scale), alike)
    found = found_by_tree(name, scale, head)
    assert mass > 0.05
    assert found[0] == pytest.approx(mean, abs=1e-6)
    assert found[1] == pytest.approx(std, abs=1e-4)
    assert found[2] == pytest.approx(mass, abs=1e-7)


@pytest.mark.parametrize(("name", "scale"), [("characters", SCALES[1]), ("joined", SCALES[0])])
def test_neighbours_and_the_size_of_a_pass_change_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str, scale: ScoreRange
) -> None:
    # Three prompts, the last of two images, with beginnings of three lengths.
    model, tokenizer = model_of(name), tokenizer_of(name)
    head, alike = numerical_head(name, "4", 2.0)
    monkeypatch.setattr(model, "lm_head", head)
    single, pair = tiny_prompts([(1, 2), (1, 2)], [4, 4]), tiny_prompts([(2, 3), (1, 2)], [7, 2], 1)
    asked = PromptBatch(
        (*single.input_ids, torch.cat(pair.input_ids)), (*single.images, pair.flat_images)
    )
    packed = pack_prompts(model, asked, encode_images(model, asked))
    beginnings = [BEGINNING, "<answer>", "answer<answer>"]
    with torch.no_grad():
        together = expected_scores(
            model, tokenizer, read_prompts(model, packed), beginnings, on(scale)
        )
        monkeypatch.setattr(expected_score, "PASS_ROWS", 1)
        in_parts = expected_scores(
            model, tokenizer, read_prompts(model, packed), beginnings, on(scale)
        )
    assert len(set(together.score.tolist())) == 3
    for number in range(3):
        alone = packed.select(number, number + 1)
        rows = Rows(
            model,
            alone,
            tokenizer.encode(beginnings[number])[:-1],
            written_of(name, scale).paths,
        )
        mean, _, mass = brute_force(head, rows, written_of(name, scale), alike)
        for found in (together, in_parts):
            assert float(found.score[number]) == pytest.approx(mean, abs=1e-6)
            assert float(found.mass[number]) == pytest.approx(mass, abs=1e-7)


def test_branches_are_excluded_within_the_budget_of_each_image() -> None:
    # Half of .01 may go: of the first image .001, .002 (sum .003; with .004 it would be .007),
    # of the second nothing, since .006 alone is more.
    entries = Entries(
        np.array([0, 0, 0, 0, 1, 1]),
        np.arange(6),
        np.array([0.9, 0.002, 0.001, 0.004, 0.006, 0.5]),
    )
    kept, budget = prune(entries, np.array([0.01, 0.01]))
    assert kept.node.tolist() == [0, 3, 4, 5]
    assert budget.tolist() == pytest.approx([0.007, 0.01])


def test_a_first_digit_0_counts_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    # 0.85 with .45 and 1.85 with .55, for sure from there on: .45 .85 + .55 1.85 = 1.40. With .55
    # for 0: 1.30. Formerly 1.85 and invalid.
    for share, score in ((0.45, 1.40), (0.55, 1.30)):
        found = written(monkeypatch, {"0.85": share, "1.85": 1 - share})
        assert float(found.score) == pytest.approx(score, abs=1e-9)
        assert float(found.mass) == pytest.approx(1.0)


def written(monkeypatch: pytest.MonkeyPatch, texts: dict[str, float]) -> Any:
    """Expected scores of a model that writes texts, the closing tag after them, for sure.

    Args:
        monkeypatch: puts the probabilities in place of a forward pass.
        texts: what is written after `<answer>`, with its probability.
    """
    tokenizer = tokenizer_of("characters")
    tree = spelling_tree(tokenizer, on(SCALES[0]))

    def following(node: int) -> list[float]:
        """Log-probabilities of the columns after a node."""
        path: list[int] = []
        while node >= 0:
            path.insert(0, node)
            node = int(tree.parent[node])
        text = "".join(CHARACTERS[int(tree.token[n])] for n in path)[1:]
        whole = sum(p for t, p in texts.items() if f"{t}</answer>".startswith(text))
        return [
            math.log(share / whole) if whole and share else -math.inf
            for share in (
                sum(
                    p
                    for t, p in texts.items()
                    if f"{t}</answer>".startswith(text + CHARACTERS[column])
                )
                for column in tree.columns.tolist()
            )
        ]

    class Passes:
        def __init__(self, *_: Any) -> None:
            pass

        def first(self) -> tuple[Entries, np.ndarray]:
            top = np.array([following(node) for node in range(tree.top)])
            return Entries(np.zeros(1, np.int64), tree.roots, np.ones(1)), top

        def chunks(self, entries: Entries) -> list[Entries]:
            return [entries] if len(entries) else []

        def further(self, entries: Entries) -> np.ndarray:
            return np.array([following(int(node)) for node in entries.node])

    monkeypatch.setattr(expected_score, "_Passes", Passes)
    state: Any = None
    model: Any = None
    return expected_scores(model, tokenizer, state, ["<answer>"], on(SCALES[0]))


@pytest.mark.parametrize(
    ("texts", "score", "mass"),
    [
        ({"3.42": 1.0}, 3.42, 1.0),
        ({"5": 1.0}, 5.0, 1.0),
        ({"0": 1.0}, 0.0, 1.0),
        ({"6.00": 0.5, "1.5": 0.5}, 3.75, 1.0),
        # 42, 6.01, 3.427, 04, 7.1 and -1 are no numbers of 0 to 6 with two decimals: what is left
        # is (.2 4 + .3 1) / .5 = 2.2.
        (
            {
                "4": 0.2,
                "1": 0.3,
                "42": 0.1,
                "6.01": 0.1,
                "3.427": 0.1,
                "04": 0.1,
                "7.1": 0.05,
                "-1": 0.05,
            },
            2.2,
            0.5,
        ),
    ],
)
def test_texts_by_hand(
    monkeypatch: pytest.MonkeyPatch, texts: dict[str, float], score: float, mass: float
) -> None:
    found = written(monkeypatch, texts)
    assert float(found.score) == pytest.approx(score, abs=1e-9)
    assert float(found.mass) == pytest.approx(mass, abs=1e-9)


def test_nothing_but_words(monkeypatch: pytest.MonkeyPatch) -> None:
    found = written(monkeypatch, {"answer": 1.0})
    assert (math.isnan(float(found.score)), float(found.mass)) == (True, 0.0)


def test_a_tokenizer_whose_tokens_are_no_text_is_refused() -> None:
    class Numbered(PieceTokenizer):
        def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
            return [n + 1 for n in super().encode(text)]

    with pytest.raises(ModelError, match="does not spell numbers by their characters"):
        spelling_tree(Numbered(CHARACTERS), on(SCALES[0]))
