r"""The numbers over which an expected score is taken, as text.

    number   = [ "-" ] whole [ "." digit [ digit ] ]
    whole    = "0" | digit from 1 to 9, then digits

A number of the grammar lies in the range that answers are accepted in (`accepted_range`: 0 to 6 for
a prompt that asks for 1 to 5), and the sign is there only where that range goes below 0. The same
value may have several spellings ("4", "4.0", "4.00", and "-0" for 0 where there is a sign); each is
a number of its own. What `TaggedAnswer` takes beside these ("+3", "03.50", "3.427", "3.5/5",
"**3**") is not in the grammar.

Not here: how tokens spell a number (`vqr1.policy.spelling_tree`), probabilities.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from vqr1.iqa.answers import ScoreRange, accepted_range, accepted_score

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


@dataclass(frozen=True)
class NumberGrammar:
    """The numbers of one scale.

    Attributes:
        score_range: lowest and highest score that the prompt asks for.
    """

    score_range: ScoreRange

    @property
    def width(self) -> float:
        """Distance of the lowest and the highest accepted score, in score units."""
        low, high = accepted_range(self.score_range)
        return high - low

    def value(self, text: str) -> float | None:
        """What a number stands for; None where the text is no number of the grammar."""
        if not _NUMBER.fullmatch(text) or (text[0] == "-" and not self._signed):
            return None
        return accepted_score(text, self.score_range)

    def continues(self, text: str) -> bool:
        """Whether some number of the grammar begins with this text, or is it."""
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
