"""When a response ends, and which tokens can never be part of one.

A response ends at the end of the turn, or, with `stop=answer`, as soon as its text contains
`</answer>` or whatever else ends the answer form. Decoding the text at every step would cost more
than sampling it; instead each live response keeps the last characters of its text, piece by piece.
The texts are printable ASCII with blanks and ends of lines (`stop` takes no other), which can be
read from a vocabulary's pieces (`token_text`), so pieces can be joined without decoding, however
the tokenizer splits or merges the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vqr1.policy.token_text import token_text

_CONTROL = re.compile(r"<\|.*\|>")


def end_tokens(tokenizer: Any, names: Sequence[str]) -> frozenset[int]:
    """Tokens that end a turn.

    Args:
        tokenizer: a Hugging Face tokenizer.
        names: the special tokens that do in the model's family; where the tokenizer has none of
            them its own does.
    """
    known = tokenizer.get_vocab()
    found = {known[token] for token in names if token in known}
    return frozenset(found or {tokenizer.eos_token_id})


def padding_token(tokenizer: Any) -> int:
    """What stands after a response's end in a batch: no token of it."""
    pad = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id if pad is None else pad)


def banned_tokens(tokenizer: Any, ends: frozenset[int], vocabulary: int) -> list[int]:
    """Tokens of the model's vocabulary that a response must not hold.

    Image, video and other control tokens (an image placeholder in a response would no longer match
    the number of image features), and numbers after the tokenizer's last token, which a padded
    embedding has. The tokens that end a turn are allowed.

    Args:
        tokenizer: a Hugging Face tokenizer.
        ends: tokens that end a turn.
        vocabulary: columns of the model's logits.

    Returns:
        Token numbers in order.
    """
    known = set(tokenizer.get_vocab().values())
    control = {
        number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special or _CONTROL.fullmatch(token.content)
    }
    control |= set(tokenizer.all_special_ids)
    allowed = (known - control) | ends
    return [token for token in range(vocabulary) if token not in allowed]


class StopRule:
    """Follows the live responses and states which of them end."""

    def __init__(
        self, tokenizer: Any, ends: frozenset[int], responses: int, end_text: str | None
    ) -> None:
        """Follows `responses` responses; they also end where `end_text` is whole."""
        self._ends = ends
        self._tokenizer = tokenizer
        self._end_text = end_text
        self._tails = [""] * responses
        self._pieces: dict[int, str] = {}

    def ended(self, rows: Sequence[int], tokens: Sequence[int]) -> list[bool]:
        """Whether each of the live responses `rows` ends with the token it has just got."""
        result = []
        for row, token in zip(rows, tokens, strict=True):
            done = token in self._ends
            if self._end_text is not None and not done:
                text = self._tails[row] + self._piece(token)
                done = self._end_text in text
                self._tails[row] = text[max(0, len(text) + 1 - len(self._end_text)) :]
            result.append(done)
        return result

    def _piece(self, token: int) -> str:
        piece = self._pieces.get(token)
        if piece is None:
            piece = token_text(self._tokenizer.convert_ids_to_tokens(token))
            self._pieces[token] = piece
        return piece
