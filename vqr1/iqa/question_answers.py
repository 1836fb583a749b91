r"""What the answer to a question about quality states, and how much of the reference it holds.

No other model is asked: an option, a list of distortions, or words are compared as they stand.

| there | option that a choice states |
|---|---|
| `B`, `b`, `(B)`, `**B**`, `B.`, `B)` | the second |
| an option's text alone, whatever its letter case and its last point | that option |
| `B. text`, `B: text` where the text is that of the second option | the second |
| the same after `Answer:`, `The answer is`, `The correct option is` | it |
| the same in `<answer>` tags, after reasoning in `<think>` or alone | it |
| a letter with the text of another option, two letters, a letter beyond the last option | none |
| an option within a sentence, prose, nothing | none |

A list of distortions is names between commas and `and`, as DQ-495K has them; `None` is the empty
list, and a name that is not among those that are known makes the answer invalid. An answer that
states nothing is invalid, never a guess: it counts as wrong, and beside it stands how many are.

Descriptions are compared with a reference by which distortions they name (`NAMED`), and by words:

    F1 = 2 m / (a + r)      m common items, a of the answer, r of the reference

(both empty: 1 for distortions). Words are compared as multisets, without articles and marks.
Neither asks whether a sentence is true of the image (Q-Bench and DepictQA ask GPT for that).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from vqr1.iqa.answers.tags import after_reasoning, has_tag, last_pair

LETTERS = string.ascii_uppercase
"""Of options, in their order."""

LONGEST_CHOICE = 300
"""Characters of an answer beyond which it states no option and no list: it is prose."""

_ANSWER = "answer"
_WRAP = "*_`\"'"
_LABEL = re.compile(
    r"(?:(?:my|the|final|correct|right|best)\s+){0,3}(?:answer|option|choice)(?:\s+is|\s*[:=])+\s*",
    re.IGNORECASE,
)
_LETTER = re.compile(r"\(?([A-Za-z])(?:\)?[.:)]|\))?(?:\s+(?P<text>\S.*))?", re.DOTALL)
_PARTS = re.compile(r"\s*(?:,\s*and\b|,|;|&|\band\b)\s*", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+")
_ARTICLES = frozenset(("a", "an", "the"))

NO_DISTORTION = "none"
DQ_DISTORTIONS = frozenset(
    (
        "blur", "color quantization", "compression", "insufficient brightness",
        "insufficient contrast", "insufficient saturation", "noise", "overly high brightness",
        "overly high contrast", "overly high saturation", "oversharpening", "pixelation",
    )
)  # fmt: skip
"""Names of distortions in the answers of DQ-495K (arXiv 2405.18842), in lower case."""

NAMED = {
    "blur": r"blur\w*|defocus\w*|out[ -]of[ -]focus|unfocused|lack\w* (?:of )?sharpness",
    "noise": r"nois[ey]\w*|grain\w*",
    "compression": r"compress\w*|jpe?g|block(?:y|ing|iness)|blocking artifacts?",
    "pixelation": r"pixel(?:ation|ated|ization|ized)",
    "banding": r"band(?:ing|ed)|quanti[sz]\w+|posteri[sz]\w+",
    "oversharpening": r"over[ -]?sharpen\w*|halos?|ringing",
    "darkness": r"under[ -]?expos\w*|dark\w*|dim(?:ly)?|insufficient (?:brightness|light\w*)",
    "brightness": r"over[ -]?expos\w*|too bright|overly (?:high )?bright\w*|blown[ -]out",
    "low contrast": r"(?:low|insufficient|weak|poor|lack of) contrast|washed[ -]out|ha[zs]y",
    "high contrast": r"(?:overly high|too high|excessive|harsh) contrast",
    "low saturation": r"(?:low|insufficient|weak) saturation|desaturat\w*|dull colou?rs?|faded",
    "high saturation": r"over[ -]?saturat\w*|(?:overly high|too high|excessive) saturation",
    "colour cast": r"colou?r (?:cast|shift)|tint\w*|white balance",
}  # fmt: skip
"""Distortions that a description may name, with the words for each."""

_NAMED = {name: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for name, words in NAMED.items()}


def stated_part(text: str) -> str | None:
    """What stands in the place of the answer: in the last tags, or the text after any reasoning.

    None where tags do not pair up.
    """
    start = after_reasoning(text, None)
    if has_tag(text, _ANSWER, start):
        place = last_pair(text, _ANSWER, start)
        return None if place is None else text[slice(*place)].strip()
    return text[start:].strip()


def stated_option(text: str, options: Sequence[str]) -> int | None:
    """The option that an answer states, by its number; None where it states none.

    Args:
        text: the whole answer; the time taken is linear in its length.
        options: two or more different texts, at most 26.
    """
    found = _short(text)
    if found is None:
        return None
    known = {_plain(option): number for number, option in enumerate(options)}
    if _plain(found) in known:
        return known[_plain(found)]
    match = _LETTER.fullmatch(found)
    number = -1 if match is None else LETTERS.index(match[1].upper())
    if match is None or number >= len(options):
        return None
    option = match["text"]
    return number if option is None or known.get(_plain(option)) == number else None


def stated_distortions(text: str, known: frozenset[str] = DQ_DISTORTIONS) -> frozenset[str] | None:
    """The distortions that an answer lists, in lower case; None where it is no such list.

    Args:
        text: the whole answer.
        known: names that a list may hold, in lower case.
    """
    found = _short(text)
    if not found:
        return None
    names = frozenset(map(_plain, _PARTS.split(found)))
    if names == {NO_DISTORTION}:
        return frozenset()
    return names if names <= known else None


def named_distortions(text: str) -> frozenset[str]:
    """The distortions of `NAMED` that a description names, negated ones too."""
    return frozenset(name for name, words in _NAMED.items() if words.search(text))


def f1_of_sets(found: frozenset[str], expected: frozenset[str]) -> float:
    """F1 of two sets, in [0, 1]; 1 where both are empty."""
    return 2 * len(found & expected) / (len(found) + len(expected)) if found or expected else 1.0


def f1_of_words(found: str, expected: str) -> float:
    """F1 of the words of two texts as multisets, in [0, 1]; 0 where one has none.

    >>> f1_of_words("The image is blurry.", "a blurry, dark image")
    0.6666666666666666
    """
    first, second = _words(found), _words(expected)
    common = (first & second).total()
    return 2 * common / (first.total() + second.total()) if common else 0.0


def word_count(text: str) -> int:
    """Words of a text, articles included."""
    return len(_WORD.findall(text))


def _words(text: str) -> Counter[str]:
    return Counter(word for word in _WORD.findall(text.casefold()) if word not in _ARTICLES)


def _short(text: str) -> str | None:
    """The stated part without a label and marks around it; None for prose."""
    part = stated_part(text)
    if part is None or len(part) > LONGEST_CHOICE:
        return None
    part = part.strip(_WRAP).strip()
    label = _LABEL.match(part)
    return part[label.end() :].strip(_WRAP).strip() if label else part


def _plain(text: str) -> str:
    return " ".join(text.strip(_WRAP + " \t\r\n.").split()).casefold()
