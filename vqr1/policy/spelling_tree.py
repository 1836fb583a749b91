r"""How a tokenizer's tokens spell a grammar's scores after a form's opening, such as `<answer>`.

A number is written where the text after `<answer>` is the number and then begins the closing tag.
Other forms have other texts in the place of the two (`AnswerForm.opening`, `score_ends`); where
nothing has to follow a score, as after words, it ends where it is whole.
Tokens need not respect those seams: one may hold several digits ("42"), the end of the opening tag
with a sign (">-" in some vocabularies) or the last digit with the beginning of the closing tag. So
the tree holds EVERY sequence of tokens whose text is right, the tokenizer's own way of writing a
number and all others: a model may take any of them, and the probability of a text is their sum.

- The beginning of the response ends one token BEFORE the end of `<answer>`: its last token ("tail",
  such as ">") is drawn anew, from the tokens whose text begins with it.
- A node is a token of a number, known by the tokens before it. Its children are the tokens with
  which some number of the grammar continues.
- A number ends where the next token begins the closing tag: a token whose text is a part of
  `</answer>` from its first character on ("<", "</"), or begins with the whole of it. What follows
  that token is not looked at.
- A score that is a word is one token.

The tree of 1 to 5 has 677 nodes where each digit is a token, that of 0 to 100 16,810; nodes are
made when they are asked for. Nothing is learnt of an image here.

Shape legend: N nodes so far; C columns, tokens whose probability after a node matters.

Not here: probabilities (`vqr1.policy.expected_score`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vqr1.errors import ModelError
from vqr1.iqa.answers import AnswerForm
from vqr1.iqa.number_grammar import Grammar, LevelGrammar, NumberGrammar, grammar_of
from vqr1.policy.token_text import token_text

TOP_NODES = 96
"""Nodes that are computed with the beginning, whatever their probability: 1 to 5 has 76 up to the
first decimal. Every pass over a model has a price of its own."""

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NumberTokens:
    """What of a tokenizer's vocabulary matters to numbers in answers.

    Attributes:
        tail: number of the last token of the opening.
        starts: tokens whose text begins with the tail's, with the rest of their text.
        pieces: tokens that begin with a character of numbers and may stand in an answer, by text.
        closing: tokens with which a text that may follow begins.
        ends: the texts that may follow; empty where nothing has to.
    """

    tail: int
    starts: tuple[tuple[int, str], ...]
    pieces: tuple[tuple[int, str], ...]
    closing: tuple[int, ...]
    ends: tuple[str, ...]


def number_tokens(
    tokenizer: Any, grammar: Grammar, opening: str, ends: tuple[str, ...]
) -> NumberTokens:
    """Sorts a vocabulary; special tokens, which leave no text, are excluded.

    Only ASCII matters, which vocabularies of bytes and of characters write alike.
    """
    special = set(tokenizer.all_special_ids)
    texts = [
        (number, token_text(text))
        for text, number in tokenizer.get_vocab().items()
        if text and number not in special
    ]
    tail = tokenizer.encode(opening, add_special_tokens=False)[-1]
    tail_text = next((text for number, text in texts if number == tail), "")
    if not tail_text or not opening.endswith(tail_text):
        raise _unreadable()
    starts = [(n, text[len(tail_text) :]) for n, text in texts if text.startswith(tail_text)]

    def fits(text: str) -> bool:
        """Whether characters of scores, and then perhaps an end's beginning, make a text."""
        found = split_at_end(text, ends)
        return found is not None and grammar.holds(found[0])

    firsts = {end[0] for end in ends}
    pieces = [(n, text) for n, text in texts if text[0] not in firsts and fits(text)]
    closing = [n for n, text in texts if text[0] in firsts and fits(text)]
    return NumberTokens(
        tail, tuple(sorted(starts)), tuple(sorted(pieces)), tuple(sorted(closing)), ends
    )


def split_at_end(text: str, ends: Sequence[str]) -> tuple[str, bool] | None:
    """The part before what may follow a score, and whether that begins; None for other texts there.

    Args:
        text: what stands after the opening.
        ends: the texts that may follow.
    """
    places = [place for place in (text.find(end[0]) for end in ends) if place >= 0]
    if not places:
        return text, False
    place = min(places)
    rest = text[place:]
    if any(end.startswith(rest) or rest.startswith(end) for end in ends):
        return text[:place], True
    return None


class SpellingTree:
    """All spellings of a grammar's numbers, grown on demand; the nodes after the tail come first.

    Attributes:
        tokens: the vocabulary's part in it.
        grammar: the texts of the scores.
        columns: [C] tokens: pieces, then those that begin what may follow.
        roots: [R] the first nodes, 0 to R - 1, whose columns count `tokens.starts`.
        top: nodes of the first levels, as many whole ones as have `TOP_NODES` together; they are
            0 to top - 1.
        token: [N] token of each node.
        parent: [N] the node before it, -1 after the beginning.
        depth: [N] nodes before it.
        column: [N] its token's column (of the first nodes: among the starts).
        value: [N] the number that its text is, NaN where it is none.
    """

    def __init__(self, tokens: NumberTokens, grammar: Grammar) -> None:
        self.tokens = tokens
        self.grammar = grammar
        self.columns = np.array([n for n, _ in tokens.pieces] + list(tokens.closing), np.int64)
        self._text: list[str] = []
        self._rows: list[tuple[int, int, int, int, float]] = []
        # Of expanded nodes: first child and number of children, and where a number ends in a token.
        self._children: dict[int, tuple[int, int]] = {}
        self._fused: dict[int, list[tuple[int, float]]] = {}
        self._add(-1, -1, tokens.starts)
        self._refresh()
        self.roots = np.arange(len(self._rows))
        self.top = self._grow_top()

    def _grow_top(self) -> int:
        level, count = self.roots, len(self.roots)
        while len(level):
            level = self.children(level)[1]
            if count + len(level) > TOP_NODES:
                break
            count += len(level)
        return count

    def children(self, nodes: IntArray) -> tuple[IntArray, IntArray]:
        """Children of n nodes: their parents' places among the n, and the children."""
        for node in np.unique(nodes).tolist():
            if node not in self._children:
                first = len(self._rows)
                self._fused[node] = self._add(node, int(self._rows[node][2]), self.tokens.pieces)
                self._children[node] = (first, len(self._rows) - first)
        self._refresh()
        spans = np.array([self._children[node] for node in nodes.tolist()], np.int64).reshape(-1, 2)
        places = np.repeat(np.arange(len(nodes)), spans[:, 1])
        before = np.cumsum(spans[:, 1]) - spans[:, 1]
        return places, np.arange(len(places)) - before[places] + spans[places, 0]

    def fused(self, nodes: IntArray) -> list[tuple[int, int, float]]:
        """Numbers that end within a token after one of n nodes: place, column, value."""
        if not any(self._fused.values()):
            return []
        return [
            (place, column, value)
            for place, node in enumerate(nodes.tolist())
            for column, value in self._fused.get(node, ())
        ]

    def spells(self, numbers: Iterable[int]) -> bool:
        """Whether tokens, from the tail on, are a score and the beginning of what may follow."""
        node = -1
        for number in numbers:
            if node >= 0 and number in self.tokens.closing:
                return bool(np.isfinite(self.value[node]))
            level = self.roots if node < 0 else self.children(np.array([node]))[1]
            found = level[self.token[level] == number]
            if not len(found):
                return any(self.columns[c] == number for c, _ in self._fused.get(node, ()))
            node = int(found[0])
        return not self.tokens.ends and node >= 0 and bool(np.isfinite(self.value[node]))

    def _add(
        self, parent: int, depth: int, pieces: Sequence[tuple[int, str]]
    ) -> list[tuple[int, float]]:
        """Makes a node's children; gives the columns with which a number ends in mid-token."""
        before = self._text[parent] if parent >= 0 else ""
        ends = []
        for column, (number, piece) in enumerate(pieces):
            found = split_at_end(before + piece, self.tokens.ends)
            if found is None:
                continue
            text, closed = found
            value = self.grammar.value(text)
            if closed:
                if value is not None:
                    ends.append((column, value))
            elif self.grammar.continues(text):
                self._text.append(text)
                row = (number, parent, depth + 1, column, float("nan") if value is None else value)
                self._rows.append(row)
        return ends

    def _refresh(self) -> None:
        if len(getattr(self, "token", ())) != len(self._rows):
            table = np.array(self._rows, np.float64).reshape(-1, 5).T
            self.token, self.parent, self.depth, self.column = table[:4].astype(np.int64)
            self.value: FloatArray = table[4]


def spelling_tree(tokenizer: Any, form: AnswerForm) -> SpellingTree:
    """The tree of a tokenizer and a form's scores; kept, since it grows with use.

    Args:
        tokenizer: the model's.
        form: one with an opening.

    Raises:
        ModelError: the tokenizer's own spelling of some score is not in the tree.
    """
    if form.opening is None:
        raise ValueError("the form has no text after which its score begins")
    grammar = grammar_of(form)
    return _tree(tokenizer, grammar, form.opening, form.score_ends)


@lru_cache(maxsize=8)
def _tree(
    tokenizer: Any, grammar: LevelGrammar | NumberGrammar, opening: str, ends: tuple[str, ...]
) -> SpellingTree:
    tree = SpellingTree(number_tokens(tokenizer, grammar, opening, ends), grammar)
    begun = tokenizer.encode(opening, add_special_tokens=False)[:-1]
    for score in grammar.samples():
        text = f"{opening}{score}{ends[0] if ends else ''}"
        written = tokenizer.encode(text, add_special_tokens=False)
        if written[: len(begun)] != begun or not tree.spells(written[len(begun) :]):
            raise _not_one_token(score) if isinstance(grammar, LevelGrammar) else _unreadable()
    return tree


def _not_one_token(word: str) -> ModelError:
    return ModelError(
        f"mode=expected, answer.levels: {word.strip()!r} is not one token of this model's "
        "tokenizer, so that its probability cannot be compared; choose another word, or "
        "mode=greedy or mode=sampled"
    )


def _unreadable() -> ModelError:
    return ModelError(
        "mode=expected: this model's tokenizer does not spell numbers by their characters, so that "
        "the probabilities of scores cannot be read; use mode=sampled or mode=greedy"
    )
