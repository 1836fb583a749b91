r"""The numbers over which an expected score is taken, as text.

    number   = [ "-" ] whole [ "." digit [ digit ] ]
    whole    = "0" | digit from 1 to 9, then digits

A number of the grammar lies in the range that answers are accepted in (`accepted_range`: 0 to 6 for
a prompt that asks for 1 to 5), and the sign is there only where that range goes below 0. The same
value may have several spellings ("4", "4.0", "4.00", and "-0" for 0 where there is a sign); each is
a number of its own. What `TaggedAnswer` takes beside these ("+3", "03.50", "3.427", "3.5/5",
"**3**") is not in the grammar. Where the form's scores are words (`AnswerForm.levels`), the grammar
is that of the words.

Not here: how tokens spell a number (`vqr1.policy.spelling_tree`), probabilities.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from vqr1.iqa.answers import AnswerForm, ScoreRange, accepted_range, accepted_score

DECIMALS = 2
"""Most digits after the point: what the published prompts ask for."""

CHARACTERS = frozenset("-.0123456789")
"""All characters of numbers."""

MOST_DIGITS = 12
"""Most digits in front of the point; `TaggedAnswer` reads no more either."""

_UNIT = 10**DECIMALS
_BEGINNING = re.compile(
    rf"(?P<sign>-?)(?:(?P<whole>0|[1-9][0-9]*)(?P<point>\.(?P<decimals>[0-9]{{0,{DECIMALS}}}))?)?"
)
_NUMBER = re.compile(rf"-?(?:0|[1-9][0-9]{{0,{MOST_DIGITS - 1}}})(?:\.[0-9]{{1,{DECIMALS}}})?")


class Grammar(Protocol):
    """The texts that stand for scores after a form's opening.

    Attributes:
        width: distance of the lowest and the highest score, in score units.
    """

    @property
    def width(self) -> float:
        """Distance of the lowest and the highest score, in score units."""
        ...

    def value(self, text: str) -> float | None:
        """What a text stands for; None where it is none of the grammar."""
        ...

    def continues(self, text: str) -> bool:
        """Whether some text of the grammar begins with this one, or is it."""
        ...

    def holds(self, piece: str) -> bool:
        """Whether some text of the grammar may hold these characters."""
        ...

    def samples(self) -> list[str]:
        """Texts by which a tokenizer's spelling is tried."""
        ...


def grammar_of(form: AnswerForm) -> LevelGrammar | NumberGrammar:
    """The texts that stand for a form's scores."""
    if form.levels:
        return LevelGrammar(tuple(form.levels.items()), form.spaced)
    return NumberGrammar(form.score_range, form.spaced)


@dataclass(frozen=True)
class LevelGrammar:
    """The words of a scale of levels, as they are written.

    Attributes:
        levels: each word with its score.
        spaced: a blank stands before the word.
    """

    levels: tuple[tuple[str, float], ...]
    spaced: bool = False

    @property
    def width(self) -> float:
        """Distance of the lowest and the highest score."""
        scores = [score for _, score in self.levels]
        return max(scores) - min(scores)

    @cached_property
    def _values(self) -> dict[str, float]:
        return {f"{' ' if self.spaced else ''}{word}": score for word, score in self.levels}

    def value(self, text: str) -> float | None:
        """What a word stands for."""
        return self._values.get(text)

    def continues(self, text: str) -> bool:
        """Whether some word begins with this text, or is it."""
        return any(word.startswith(text) for word in self._values)

    def holds(self, piece: str) -> bool:
        """Whether it is a word: published scores compare whole words, of one token each."""
        return piece in self._values

    def samples(self) -> list[str]:
        """All words."""
        return list(self._values)


@dataclass(frozen=True)
class NumberGrammar:
    """The numbers of one scale.

    Attributes:
        score_range: lowest and highest score that the prompt asks for.
        spaced: one blank may stand before the number.
    """

    score_range: ScoreRange
    spaced: bool = False

    @property
    def width(self) -> float:
        """Distance of the lowest and the highest accepted score, in score units."""
        low, high = accepted_range(self.score_range)
        return high - low

    def value(self, text: str) -> float | None:
        """What a number stands for; None where the text is no number of the grammar."""
        text = text.removeprefix(" ") if self.spaced else text
        if not _NUMBER.fullmatch(text) or (text[0] == "-" and not self._signed):
            return None
        return accepted_score(text, self.score_range)

    def continues(self, text: str) -> bool:
        """Whether some number of the grammar begins with this text, or is it."""
        text = text.removeprefix(" ") if self.spaced else text
        found = _BEGINNING.fullmatch(text)
        if found is None or (found["sign"] and not self._signed):
            return False
        least, most = self._hundredths
        if not text:
            return least <= most
        lowest, highest = (max(0, -most), -least) if found["sign"] else (max(0, least), most)
        if found["whole"] is None or lowest > highest:
            return lowest <= highest
        whole = int(found["whole"])
        if found["point"]:
            missing = 10 ** (DECIMALS - len(found["decimals"]))
            first = whole * _UNIT + int(found["decimals"] or 0) * missing
            return first <= highest and first + missing > lowest
        # With more digits in front of the point the numbers grow: 4.., then 40.. to 49.., then ...
        first, size = whole * _UNIT, _UNIT
        while first <= highest:
            if first + size > lowest:
                return True
            if not whole:
                return False
            first, size = 10 * first, 10 * size
        return False

    def holds(self, piece: str) -> bool:
        """Whether these are characters of numbers."""
        return CHARACTERS.issuperset(piece.removeprefix(" ") if self.spaced else piece)

    def samples(self) -> list[str]:
        """Numbers from all over the range, with every digit at every place after the point."""
        low, high = self.score_range
        middle = [low + (high - low) * share / 10 for share in range(11)]
        texts = [f"{value:.{n}f}" for value in middle for n in range(3)]
        texts += [f"{int(value)}.{d}{9 - d}" for value in middle for d in range(10)]
        known = [text for text in texts if self.value(text) is not None]
        return [f" {text}" for text in known] + known if self.spaced else known

    @cached_property
    def _signed(self) -> bool:
        return accepted_range(self.score_range)[0] < 0

    @cached_property
    def _hundredths(self) -> tuple[int, int]:
        """Lowest and highest accepted number with two decimals, in hundredths.

        Compared as `accepted_score` does it, which takes the nearest float of the digits.
        """
        widest = float(10**MOST_DIGITS - 1)
        low, high = accepted_range(self.score_range)
        low, high = max(low, -widest), min(high, widest)
        if low > high:
            return 1, 0
        least, most = round(low * _UNIT) - 1, round(high * _UNIT) + 1
        while least / _UNIT < low:
            least += 1
        while most / _UNIT > high:
            most -= 1
        return least, most
