r"""The expected score: the mean of the number that a model would write, without sampling.

After a given beginning of a response (reasoning and `<answer>`, or `<answer>` alone) the model is
asked how likely each number of the grammar is (`vqr1.iqa.number_grammar`: for 1 to 5 those from 0
to 6 with up to two decimals). With P(x) the probability that the text after `<answer>` is x and
then begins the closing tag, summed over all sequences of tokens that write it
(`vqr1.policy.spelling_tree`):

    mass = sum of P(x)    E = sum of P(x) x / mass    std^2 = sum of P(x) (x - E)^2 / mass

So E is the mean GIVEN that the answer is a number of the grammar, and `1 - mass` is the probability
of everything else: other numbers, words, more decimals, blanks, an answer that does not end. It is
reported beside E, and where `mass` is below `MIN_MASS` the expectation states little, and the
caller treats the answer as invalid. Of words (`AnswerForm.levels`) every mass counts: the published
methods compare their probabilities with each other alone. The deviation states how undecided the
model is between numbers; it knows nothing of what another reasoning would have led to.

Prompt and beginning are computed once. The spellings continue them as a tree, in which every token
sees the prompt, the beginning and those it comes after (`vqr1.policy.prompt_state`): its first
levels (1 to 5: up to the first decimal) together with the beginning, then level by level what is
likely enough. Branches are excluded, the least likely first, as long as all of them together could
not move E by more than `TOLERANCE` where `mass` reaches `MIN_MASS`; their probability counts as
lost. That is decided for each image alone.

Not here: making the beginning (`vqr1.rollout.expected`).

Shape legend: B prompts; R rows of a pass; n entries, each a node of the tree for an image; C
columns of the tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vqr1.iqa.answers import PUBLISHED, AnswerForm
from vqr1.policy.finite import check_answer_logprobs
from vqr1.policy.linear_attention import Branches
from vqr1.policy.output_head import target_logprobs
from vqr1.policy.prompt_state import Continuation, PromptState, continue_prompts
from vqr1.policy.spelling_tree import FloatArray, IntArray, SpellingTree, spelling_tree
from vqr1.policy.unwrap import parts_of

MIN_MASS = 0.5
"""Probability of the grammar's numbers below which an expected score is invalid."""

TOLERANCE = 1e-6
"""Most that branches which are excluded move a score, in the units of the score."""

PASS_ROWS = 16384
"""Nodes of all images that a pass computes at most, about."""


def until_answer(text: str, opening: str) -> str | None:
    """The response up to and including its last `<answer>`, or other opening; None without one."""
    place = text.rfind(opening)
    return None if place < 0 else text[: place + len(opening)]


@dataclass(frozen=True)
class ExpectedScores:
    """Expectations of B answers.

    Attributes:
        score: [B] float64 expected score, within the accepted range; NaN where `mass` is 0.
        std: [B] float64 standard deviation of the number, at least 0; NaN where `mass` is 0.
        mass: [B] float64 probability, in [0, 1], that the answer is a number of the grammar.
    """

    score: Tensor
    std: Tensor
    mass: Tensor


@dataclass(frozen=True)
class Entries:
    """Nodes of the tree, each for one image, images ascending.

    Attributes:
        image: [n] which image.
        node: [n] which node.
        mass: [n] probability that the answer begins with the node's tokens.
    """

    image: IntArray
    node: IntArray
    mass: FloatArray

    def __getitem__(self, rows: Any) -> Entries:
        return Entries(self.image[rows], self.node[rows], self.mass[rows])

    def __len__(self) -> int:
        return len(self.image)


@torch.no_grad()
def expected_scores(
    model: nn.Module,
    tokenizer: Any,
    prompt: PromptState,
    beginnings: Sequence[str],
    form: AnswerForm = PUBLISHED,
) -> ExpectedScores:
    """Expected score of each of B answers.

    Args:
        model: the policy, bare or wrapped, in eval mode.
        tokenizer: its tokenizer.
        prompt: B prompts that the model has read.
        beginnings: B beginnings of a response, up to and including the form's opening.
        form: how scores are written.

    Raises:
        ModelError: the tokenizer does not spell numbers by their characters.
        NonFiniteError: logits hold NaN or infinity.
    """
    tree = spelling_tree(tokenizer, form)
    # The beginning's last token is the tree's affair: it may be one with the number's first.
    begun = [tokenizer.encode(text, add_special_tokens=False)[:-1] for text in beginnings]
    passes = _Passes(model, tree, prompt, begun)
    found = _Sums(len(begun))
    budget = np.full(len(begun), TOLERANCE * MIN_MASS / tree.grammar.width)
    top, logprobs = passes.first()
    level, rest = top, top[:0]
    while len(level):
        rows = logprobs[level.image * tree.top + level.node]
        below = found.add(tree, level, rows)
        known = below.node < tree.top
        level, rest = below[known], _joined(rest, below[~known])
    while len(rest):
        kept, budget = prune(rest, budget)
        grown = [found.add(tree, part, passes.further(part)) for part in passes.chunks(kept)]
        rest = _joined(*grown) if grown else kept
    scores = found.result()
    # NaN at any node is NaN in its image's sum.
    check_answer_logprobs(scores.mass[:, None])
    return scores


def prune(entries: Entries, budget: FloatArray) -> tuple[Entries, FloatArray]:
    """Excludes the least likely nodes of each image, of half its budget together.

    Args:
        entries: n nodes.
        budget: [B] probability that may be excluded from each image.

    Returns:
        The nodes that stay, and what is left of the budget.
    """
    order = np.lexsort((entries.mass, entries.image))
    image, mass = entries.image[order], entries.mass[order]
    total = np.cumsum(mass)
    first = np.searchsorted(image, image)
    within = total - total[first] + mass[first]
    out = np.zeros(len(entries), dtype=np.bool_)
    out[order] = within <= budget[image] / 2
    spent = np.bincount(entries.image[out], entries.mass[out], minlength=len(budget))
    return entries[~out], budget - spent


def _joined(*parts: Entries) -> Entries:
    """The nodes of all parts, images ascending."""
    joined = Entries(
        np.concatenate([part.image for part in parts]),
        np.concatenate([part.node for part in parts]),
        np.concatenate([part.mass for part in parts]),
    )
    return joined[np.argsort(joined.image, kind="stable")]


class _Sums:
    """Collects the numbers of B answers."""

    def __init__(self, images: int) -> None:
        self._images = images
        self._parts: list[tuple[IntArray, FloatArray, FloatArray]] = []

    def add(self, tree: SpellingTree, entries: Entries, logprobs: FloatArray) -> Entries:
        """Takes the numbers that end after n nodes, and gives the nodes' children.

        Args:
            tree: the tree.
            entries: the n nodes.
            logprobs: [n, C] natural log-probabilities of the columns after each of them.
        """
        p = np.exp(logprobs)
        value = tree.value[entries.node]
        whole = np.isfinite(value)
        ending = p[:, len(tree.tokens.pieces) :].sum(axis=1)
        # Where nothing has to follow, a score ends where it is whole.
        closing = ending if tree.tokens.ends else np.ones_like(ending)
        self._parts.append(
            (entries.image[whole], (entries.mass * closing)[whole], value[whole]),
        )
        places, nodes = tree.children(entries.node)
        for place, column, number in tree.fused(entries.node):
            weight = entries.mass[place] * p[place, column]
            self._parts.append(
                (entries.image[place : place + 1], np.array([weight]), np.array([number]))
            )
        mass = entries.mass[places] * p[places, tree.column[nodes]]
        return Entries(entries.image[places], nodes, mass)

    def result(self) -> ExpectedScores:
        """The formulas of the module header."""
        image, weight, value = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))

        def total(values: FloatArray) -> FloatArray:
            return np.bincount(image, values, minlength=self._images).astype(np.float64)

        mass = total(weight)
        safe = np.where(mass > 0, mass, np.nan)
        score = total(weight * value) / safe
        # Around the mean, so that nothing cancels.
        variance = total(weight * np.nan_to_num(value - score[image]) ** 2) / safe
        return ExpectedScores(*map(torch.from_numpy, (score, np.sqrt(variance), mass)))


class _Passes:
    """Forward passes over the beginnings and the tree's nodes."""

    def __init__(
        self,
        model: nn.Module,
        tree: SpellingTree,
        prompt: PromptState,
        begun: Sequence[Sequence[int]],
    ) -> None:
        self._model = model
        self._head: nn.Module = parts_of(model).head
        self._tree = tree
        self._prompt = prompt
        self._begun = begun
        self._device = prompt.last_hidden.device
        self._lengths = np.array([len(tokens) for tokens in begun], np.int64)
        # Place of each node's key among those of the earlier passes, -1 where it has none.
        self._places = np.empty((len(begun), 0), np.int64)
        self._earlier: dict[int, tuple[Tensor, Tensor]] = {}
        self._branches: dict[int, Branches] = {}

    def first(self) -> tuple[Entries, FloatArray]:
        """The pass over the beginnings and the tree's top.

        Returns:
            The first nodes of each image, and [B * top, C] log-probabilities after the top's.
        """
        tree, lengths = self._tree, self._lengths
        images, widest = len(lengths), int(lengths.max()) + tree.top
        steps = np.arange(widest)
        filled = steps < (lengths + tree.top)[:, None]
        tokens = np.zeros((images, widest), np.int64)
        depth = np.tile(steps, (images, 1))
        for image, begun in enumerate(self._begun):
            following = slice(len(begun), len(begun) + tree.top)
            tokens[image, : len(begun)] = begun
            tokens[image, following] = tree.token[: tree.top]
            depth[image, following] = len(begun) + tree.depth[: tree.top]
        self._note(np.arange(tree.top), lengths[:, None] + np.arange(tree.top))
        seen = np.stack([self._first_seen(length, widest) for length in lengths])
        if (lengths == lengths[0]).all():
            seen = seen[:1]
        hidden = self._run(tokens, depth, filled, seen, keep=True)
        ends = (lengths + tree.top).cumsum()
        nodes = hidden[self._rows((ends[:, None] + np.arange(-tree.top, 0)).ravel())]
        last = torch.where(
            self._rows(lengths > 0)[:, None],
            hidden[self._rows(np.maximum(ends - tree.top - 1, 0))],
            self._prompt.last_hidden,
        )
        return self._first_entries(last), self._logprobs(nodes, tree.columns)

    def _first_entries(self, hidden: Tensor) -> Entries:
        """The first nodes, given that the beginning's text continues as it does: [B, H] states."""
        tree = self._tree
        starts = np.array([number for number, _ in tree.tokens.starts], np.int64)
        logprobs = self._logprobs(hidden, starts)
        given = np.exp(logprobs - np.logaddexp.reduce(logprobs, axis=1, keepdims=True))
        images = np.arange(len(logprobs)).repeat(len(tree.roots))
        nodes = np.tile(tree.roots, len(logprobs))
        return Entries(images, nodes, given[:, tree.column[tree.roots]].ravel())

    def chunks(self, entries: Entries) -> list[Entries]:
        """Nodes in parts of bounded size, those with children and those without apart."""
        most = max(32, PASS_ROWS // len(self._begun))
        parts = []
        inner = self._inner(entries.node)
        for group in (entries[inner], entries[~inner]):
            part = _rank(group.image) // most
            parts += [group[part == number] for number in range(int(part.max(initial=-1)) + 1)]
        return parts

    def further(self, entries: Entries) -> FloatArray:
        """[n, C] log-probabilities after n nodes whose ancestors were computed before."""
        tree, image, node = self._tree, entries.image, entries.node
        place = _rank(image)
        images, widest = len(self._begun), int(place.max()) + 1
        before = self._width()
        filled = np.zeros((images, widest), np.bool_)
        filled[image, place] = True
        tokens, depth = np.zeros((2, images, widest), np.int64)
        tokens[image, place] = tree.token[node]
        depth[image, place] = self._lengths[image] + tree.depth[node]
        keep = bool(self._inner(node[:1]).all())
        seen = np.zeros((images, widest, before), np.bool_)
        seen[:] = (np.arange(before) < self._lengths[:, None])[:, None]
        seen[:, :, 0] |= ~filled
        above = tree.parent[node]
        while (known := above >= 0).any():
            rows, place_above = image[known], above[known]
            seen[rows, place[known], self._places[rows, place_above]] = True
            above = np.where(known, tree.parent[above], -1)
        if keep:
            self._note(node, before + place, image)
            own = np.eye(widest, dtype=np.bool_)
            seen = np.concatenate([seen, np.broadcast_to(own, (images, widest, widest))], axis=2)
        return self._logprobs(self._run(tokens, depth, filled, seen, keep=keep), tree.columns)

    def _inner(self, nodes: IntArray) -> npt.NDArray[np.bool_]:
        """Which nodes have children."""
        places, _ = self._tree.children(nodes)
        return np.bincount(places, minlength=len(nodes)) > 0

    def _width(self) -> int:
        """E, places of earlier passes."""
        return next(iter(self._earlier.values()))[0].shape[2]

    def _note(self, nodes: IntArray, places: IntArray, image: IntArray | None = None) -> None:
        """Remember where the keys of nodes are; without `image`, of all images [B, nodes]."""
        grown = np.full((len(self._begun), len(self._tree.token)), -1, np.int64)
        grown[:, : self._places.shape[1]] = self._places
        grown[slice(None) if image is None else image, nodes] = places
        self._places = grown

    def _first_seen(self, length: int, widest: int) -> npt.NDArray[np.bool_]:
        """[T, T] what a beginning of some length and the top after it see."""
        top = self._tree.top
        seen = np.tri(widest, dtype=np.bool_)
        seen[length : length + top, length : length + top] = np.eye(top, dtype=np.bool_)
        above = self._tree.parent[:top]
        rows = np.arange(top)
        while (known := above >= 0).any():
            seen[length + rows[known], length + above[known]] = True
            above = np.where(known, self._tree.parent[above], -1)
        return seen

    def _run(
        self,
        tokens: IntArray,
        depth: IntArray,
        filled: npt.NDArray[np.bool_],
        seen: npt.NDArray[np.bool_],
        *,
        keep: bool,
    ) -> Tensor:
        """Hidden states [R, H] of the filled places of a grid [B, T], image by image."""
        image = filled.nonzero()[0]
        plan = Continuation(
            self._prompt,
            torch.from_numpy(seen)[:, None].to(self._device),
            None if filled.all() else self._rows(np.flatnonzero(filled)),
            self._earlier,
            self._branches,
            keep=keep,
            alone=not keep,
        )
        positions = self._prompt.next_positions[self._rows(image)] + self._rows(depth[filled])
        return continue_prompts(self._model, self._rows(tokens[filled]), positions, plan)

    def _logprobs(self, hidden: Tensor, columns: IntArray) -> FloatArray:
        """[R, C] float64 log-probabilities of tokens after hidden states [R, H]."""
        wanted = self._rows(columns).expand(len(hidden), -1)
        found, _ = target_logprobs(self._head, hidden, wanted)
        return found.double().cpu().numpy()

    def _rows(self, values: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self._device)


def _rank(image: IntArray) -> IntArray:
    """[n] how many entries of the same image stand before each; images ascending."""
    return np.arange(len(image)) - np.searchsorted(image, image)
