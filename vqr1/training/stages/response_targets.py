"""Next-token cross-entropy on given responses.

loss = - sum of w log p over the tokens of all responses / sum of w over them

with w the response's weight: of equal weights it is the mean over the tokens of the whole step, of
all ranks. A response ends in the token that ends the model's turn, which is learned too.

Not here: which responses (`responses.py`). Shapes: see `vqr1.records`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vqr1.distributed.collectives import all_reduce_sum
from vqr1.policy.families import Family
from vqr1.records import RankingBatch
from vqr1.rollout.stopping import end_tokens, padding_token
from vqr1.training.stages.responses import Responses

CROSS_ENTROPY = "cross_entropy"


class ResponseTokens:
    """Tokens of responses, each text encoded once.

    Args:
        tokenizer: the model's.
        family: the model's; it names what ends a turn.
        written: beginning of a response that the chat template writes, and the model does not.
    """

    def __init__(self, tokenizer: Any, family: Family, written: str = "") -> None:
        self.tokenizer = tokenizer
        known = tokenizer.get_vocab()
        ends = end_tokens(tokenizer, family.end_of_turn)
        # Of several the one that the template writes, which families name first.
        self.end = next((known[n] for n in family.end_of_turn if n in known), min(ends))
        self._written = written
        self._known: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """Tokens of a whole response, up to the end of the turn."""
        if text not in self._known:
            own = text.removeprefix(self._written)
            self._known[text] = [*self.tokenizer.encode(own, add_special_tokens=False), self.end]
        return self._known[text]

    def padded(self, groups: Sequence[Sequence[Sequence[int]]]) -> tuple[Tensor, Tensor]:
        """[B, K, C] tokens and mask of each image's responses, empty ones where it has fewer."""
        most = max(map(len, groups))
        longest = max(len(one) for group in groups for one in group)
        shape = (len(groups), most, longest)
        tokens = torch.full(shape, padding_token(self.tokenizer), dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.bool)
        for b, group in enumerate(groups):
            for k, one in enumerate(group):
                tokens[b, k, : len(one)] = torch.tensor(one)
                mask[b, k, : len(one)] = True
        return tokens, mask


@dataclass(frozen=True)
class CrossEntropyTargets:
    """Targets of one step; see `vqr1.training.stages.sft.StepTargets`.

    Attributes:
        tokens: [B, K, C].
        mask: [B, K, C].
        token_weights: [B, K, C] float32, 0 outside of the mask; all ranks' have the sum 1.
    """

    tokens: Tensor
    mask: Tensor
    token_weights: Tensor
    together: int = 1
    weights: Mapping[str, float] = field(default_factory=lambda: {CROSS_ENTROPY: 1.0})

    def terms(self, part: slice, logprobs: Tensor) -> dict[str, Tensor]:
        """See `StepTargets.terms`."""
        weights = self.token_weights[part].to(logprobs)
        return {CROSS_ENTROPY: -(weights * logprobs).sum()}


@dataclass(frozen=True)
class CrossEntropy:
    """Objective of responses that are given by image.

    Attributes:
        responses: by data set and row.
        encode: their tokens.
    """

    responses: Responses
    encode: ResponseTokens

    def targets(self, batch: RankingBatch) -> CrossEntropyTargets:
        """See `vqr1.training.stages.sft.Objective`."""
        given = [self.responses[batch.dataset, row] for row in batch.index.tolist()]
        tokens, mask = self.encode.padded([[self.encode(r.text) for r in group] for group in given])
        weights = mask.float()
        for b, group in enumerate(given):
            for k, response in enumerate(group):
                weights[b, k] *= response.weight
        total = all_reduce_sum(weights.sum().to(batch.mos.device)).cpu()
        return CrossEntropyTargets(tokens, mask, weights / total)
