"""Responses as no model should write them, from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
NUMBERS = (
    "3.42", "4", "+3", "-3", "03.5", "42", "6.01", "0.87", ".5", "3.", "3.4.5", "3,5", "1,000",
    "1e3", "3E-1", "70%", "3.5/5", "7/10", "3.5 out of 5", "3-4", "3 to 4", "0x3", "nan", "inf",
    "9" * 30, "0." + "1" * 30, "\u0663", "\u0969.\u096b", "\uff13\uff0e\uff15", "\u00bd",
    "3\u00b2", "\u22123", "3\u20134", "\u2462",
)  # fmt: skip
FILLERS = (
    "", " ", "\n", "\t", "\x00", "\u200b", "\ufeff", "\u202e3", "\ud800", "\udfff", "\U0001f600",
    "Score: ", "is ", "**", "`", "$", "(", "]", "\\boxed{", "the image is soft ", "<", ">", "/",
    "answer>", "</ans", "<answer >", "<ANSWER>", "<|im_end|>", "&lt;answer&gt;", "e", "%", ".", "-",
)  # fmt: skip
HARD = ("<answer>", "</answer>", "<think>", "</think>", "</think><answer>", "</think> ", "9", "1.",
        " ", "(", "a ", "<answer>1</answer>", "3 ", "\u0663", "is ")  # fmt: skip
"""Pieces whose repetition would be quadratic under a careless rule."""


def random_text(rng: random.Random) -> str:
    """One response: pieces of the form and of numbers, in any order, some of them very long."""
    kind = rng.random()
    if kind < 0.02:
        return rng.choice(HARD) * rng.randrange(1, 3000)
    if kind < 0.07:
        return "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(60)))
    if kind < 0.4:
        inside = _pieces(rng, rng.randrange(1, 5))
        return f"<think>{_pieces(rng, 3)}</think>{rng.choice(FILLERS)}<answer>{inside}</answer>"
    return _pieces(rng, rng.randrange(12))


def _pieces(rng: random.Random, count: int) -> str:
    pools = (TAGS, NUMBERS, FILLERS)
    return "".join(rng.choice(rng.choice(pools)) for _ in range(count))


def random_texts(seed: int, count: int) -> Iterator[str]:
    """`count` responses; the same seed gives the same ones."""
    rng = random.Random(seed)
    for _ in range(count):
        yield random_text(rng)


def long_texts(length: int) -> Iterator[str]:
    """About `length` characters of every hard piece, bare and inside the tags."""
    for piece in HARD:
        body = piece * (length // len(piece))
        yield body
        yield f"<think>{body}</think><answer>{body}</answer>"
        yield f"<think></think>{body}<answer>3</answer>x"
