"""The expected score by brute force: every number written out, every way to write it, one by one.

Nothing of the package but the model's own layers: numbers are counted in hundredths, token paths
come from the vocabulary by trying every piece at every place, and each path is a full row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vqr1.policy.shared_prompt import PackedPrompts

OPEN, CLOSE = "<answer>", "</answer>"
ROWS = 4096
NUMERIC = set("-.0123456789")


def all_numbers(low: float, high: float) -> list[str]:
    """Every number with at most two decimals from low to high, in all spellings."""
    texts = []
    for hundredth in range(math.floor(100 * low), math.ceil(100 * high) + 1):
        for decimals, step in ((0, 100), (1, 10), (2, 1)):
            if hundredth % step == 0 and low <= hundredth / 100 <= high:
                texts.append(f"{hundredth / 100:.{decimals}f}")
    return [*texts, *(("-0", "-0.0", "-0.00") if low < 0 else ())]


def ways(text: str, vocabulary: dict[str, int]) -> Iterator[tuple[int, ...]]:
    """Every sequence of tokens whose text is `text`."""
    if not text:
        yield ()
    for size in range(1, len(text) + 1):
        if text[:size] in vocabulary:
            for rest in ways(text[size:], vocabulary):
                yield (vocabulary[text[:size]], *rest)


@dataclass(frozen=True)
class Written:
    """All ways to write the numbers of a scale.

    Attributes:
        paths: token sequences from the tag's last token on, the closing token at their end.
        values: the number that each of them is.
        starts: all tokens that begin with the text of the tag's last token.
    """

    paths: list[tuple[int, ...]]
    values: list[float]
    starts: list[int]


def write_out(tokenizer: Any, low: float, high: float) -> Written:
    """All ways to write the numbers from low to high."""
    vocabulary = tokenizer.get_vocab()
    tail_token = tokenizer.encode(OPEN, add_special_tokens=False)[-1]
    tail = next(text for text, number in vocabulary.items() if number == tail_token)
    names = {number: text for text, number in vocabulary.items()}
    paths: list[tuple[int, ...]] = []
    values: list[float] = []
    usable = {t: n for t, n in vocabulary.items() if set(t.removeprefix(tail)) <= NUMERIC}
    # The last token holds the end of the number, or nothing of it, and begins the closing tag.
    enders = [
        (text[:cut], number)
        for text, number in vocabulary.items()
        for cut in range(len(text))
        if set(text[:cut].removeprefix(tail)) <= NUMERIC
        and (CLOSE.startswith(text[cut:]) or text[cut:].startswith(CLOSE))
    ]
    for number in all_numbers(low, high):
        text = tail + number
        for end, last in enders:
            if text.endswith(end):
                for path in ways(text.removesuffix(end), usable):
                    # The tag's last token is one token, or the beginning of one.
                    if not path or names[path[0]].startswith(tail):
                        paths.append((*path, last))
                        values.append(float(number))
    starts = [number for text, number in vocabulary.items() if text.startswith(tail)]
    return Written(paths, values, starts)


class Rows:
    """Hidden states after every beginning of the paths, by full rows of the model's own layers.

    Args:
        model: the policy.
        packed: one prompt.
        begun: tokens between the prompt and the paths.
        paths: token sequences; nothing is computed after their last token.
    """

    def __init__(
        self, model: Any, packed: PackedPrompts, begun: list[int], paths: list[tuple[int, ...]]
    ) -> None:
        self.index: dict[tuple[int, ...], int] = {}
        wanted = sorted({path[:-1] for path in paths}, key=lambda path: (-len(path), path))
        found: list[Tensor] = []
        for length in sorted({len(path) for path in wanted}, reverse=True):
            fresh = [p for p in wanted if len(p) == length and p not in self.index]
            for first in range(0, len(fresh), ROWS):
                part = fresh[first : first + ROWS]
                hidden = _forward(model, packed, [[*begun, *path] for path in part])
                for row, path in zip(hidden, part, strict=True):
                    for size in range(length + 1):
                        if path[:size] not in self.index:
                            self.index[path[:size]] = len(found)
                            found.append(row[len(row) - 1 - length + size])
        self.hidden = torch.stack(found)


@torch.no_grad()
def _forward(model: Any, packed: PackedPrompts, rows: list[list[int]]) -> Tensor:
    """[rows, 1 + C, H] final hidden states of the prompt's last token and C further ones."""
    text = model.model.language_model
    tokens = torch.tensor(rows)
    prompt = packed.embeds[None].expand(len(rows), -1, -1)
    steps = packed.next_positions[0] + torch.arange(tokens.shape[1])
    positions = torch.cat([packed.positions, steps.expand(3, -1)], dim=1)
    output = text(
        inputs_embeds=torch.cat([prompt, text.embed_tokens(tokens)], dim=1),
        position_ids=positions[:, None].expand(-1, len(rows), -1),
        use_cache=False,
    )
    return output.last_hidden_state[:, prompt.shape[1] - 1 :]


def brute_force(
    head: nn.Linear, rows: Rows, written: Written, alike: Tensor | None = None
) -> tuple[float, float, float]:
    """Mean, standard deviation and probability of the numbers.

    Args:
        head: the output layer.
        rows: hidden states of the paths' beginnings.
        written: the paths.
        alike: tokens whose weights are all zero and whose bias is that of the first: their logits
            are not computed one by one.
    """
    count = head.out_features
    kept = torch.ones(count, dtype=torch.bool)
    if alike is not None:
        kept[alike] = False
    tokens = kept.nonzero()[:, 0]
    place = {token: column for column, token in enumerate(tokens.tolist())}
    logits = rows.hidden @ head.weight[tokens].T + head.bias[tokens]
    total = logits.logsumexp(dim=1)
    if alike is not None:
        same = head.bias[alike[0]] + math.log(len(alike))
        total = torch.logaddexp(total, same)
    p = (logits - total[:, None]).exp()
    first = rows.index[()]
    alone = [place[token] for token in written.starts if token in place]
    given = float(p[first, alone].sum())
    if alike is not None:
        others = sum(token not in place for token in written.starts)
        given += others * math.exp(float(head.bias[alike[0]] - total[first]))
    weights = torch.ones(len(written.paths), dtype=torch.float64)
    longest = max(map(len, written.paths))
    for step in range(longest):
        chosen = [n for n, path in enumerate(written.paths) if len(path) > step]
        row = [rows.index[written.paths[n][:step]] for n in chosen]
        column = [place[written.paths[n][step]] for n in chosen]
        weights[chosen] *= p[row, column]
    weights /= given
    values = torch.tensor(written.values, dtype=torch.float64)
    mass = float(weights.sum())
    mean = float((weights * values).sum()) / mass
    return mean, math.sqrt(float((weights * (values - mean) ** 2).sum()) / mass), mass
