r"""From a response's text to its scores, or to the knowledge that it holds none, by an answer form.

| form | a response of exactly this form is format-compliant |
|---|---|
| `TaggedAnswer(reasoning="think")` (published) | `<think>.*?</think>\s*<answer>.*?</answer>` |
| `TaggedAnswer()` | `<answer>.*?</answer>` |
| `TaggedAnswer(tag="rating", reasoning="why")` | `<why>.*?</why>\s*<rating>.*?</rating>` |
| `JsonAnswer(key="rating")` | one JSON object with every key asked for, perhaps in a ```` ```json ```` fence |
| `JsonAnswer(tag="answer", reasoning="think")` | `<think>.*?</think>\s*<answer>.*?</answer>` around such an object |
| `BoxedAnswer()` | text, then `\boxed{...}` at the end; `thinks=False`: the box alone |
| `LevelAnswer(stem="The quality of the image is")` | the sentence with one of the words; without a stem the word alone |
| `ScoreTokenAnswer(stem=...)` | likewise, with one of 101 words of two letters |
| `RatingsAnswer(names=[...])` | `<answer>.*?</answer>` around as many numbers as names, one a line |
| `PublishedAnswer(rules="q_insight")` | as that method's public code has it (`published_rules`) |
| `PlainAnswer()` | one plain number, nothing else |
| `FreeText()`: a description, without a score | any text |

Where the forms look: after the last `</think>` (or whatever closes their own reasoning), in the
whole response without one. A template that has written `<think>` itself is part of the response
(`form_after`).

| there | score of `TaggedAnswer` |
|---|---|
| `<answer>...</answer>`, once or repeated | what the LAST one states |
| nested `<answer><answer>4</answer></answer>` | what the innermost one states |
| tags that do not pair up: unclosed, closed twice, a second answer that was cut off | none |
| no answer tag at all, and the whole response is one plain number | that number |
| anything else: prose, other spellings of the tags, nothing | none |

| there | score of the others |
|---|---|
| `{"rating": 3.5}`, `{"rating": "3.5"}`, with other keys, fenced | `JsonAnswer`: 3.5 |
| no valid JSON, an object in prose, a key that is there twice, `true`, `1e3`, `"about 3"` | none |
| `\boxed{3.5}`, `\boxed{3.5/5}`, once or repeated | `BoxedAnswer`: what the LAST one states |
| `\boxed{\text{3}}`, a box that is not closed | none |
| `good`, `Good.`, `**good**`, after the stem or alone | `LevelAnswer`: what the word stands for |
| a word that is not on the scale, two words, a negation, prose | none |
| five lines for five names, each a number | `RatingsAnswer`: their mean |
| more or fewer lines, a line without a number | none |

What counts as a number in the place of the score (of JSON: plain numbers only):

| content | score |
|---|---|
| one plain number: `3.42`, `+3`, `3.`, `03.50` | it |
| the same after a label that ends in `:`, `=` or `is`: `Score: 3.42` | it |
| the same in `*`, `_`, backquotes, quotes, brackets or `$`: `**3.42**` | it |
| a number out of the top of the asked scale: `3.5/5`, `3.5 out of 5` | the number before it |
| out of anything else: `7/10` | none |
| several numbers, ranges: `3-4`, `3 to 4`, `3.4.5` | none |
| comma decimals and thousands: `3,5`, `1,000` | none: they mean two things |
| percentages, exponents, hexadecimal, `nan`, `inf`: `70%`, `1e3`, `0x3` | none |
| no digit before the point: `.5` | none |
| digits, signs or points of another script, superscripts, fractions: `٣`, `½`, `3²` | none |
| comparisons and other words: `<3`, `at least 3`, `~3`, `not 3` | none |
| null characters, half surrogates, invisible characters | none |
| more than 200 characters | none: prose, not an answer |
| a number outside of the accepted range (`accepted_range`) | none |

An unparsable answer is invalid and never becomes a number. All steps are linear in the length of
the text.
"""  # noqa: E501 - a table row cannot be broken

from vqr1.iqa.answers.after_prompt import ContinuedAnswer, already_written, form_after
from vqr1.iqa.answers.base import (
    ASKED_RANGE,
    RANGE_MARGIN,
    REASONING,
    SCORE,
    Answer,
    AnswerForm,
    ScoreRange,
    Span,
    accepted_range,
    accepted_score,
)
from vqr1.iqa.answers.boxed import BoxedAnswer
from vqr1.iqa.answers.free import FreeText
from vqr1.iqa.answers.json_answer import JsonAnswer
from vqr1.iqa.answers.levels import FIVE_LEVELS, LevelAnswer
from vqr1.iqa.answers.plain import PlainAnswer
from vqr1.iqa.answers.published_answer import PublishedAnswer
from vqr1.iqa.answers.ratings import RatingsAnswer
from vqr1.iqa.answers.score_tokens import ScoreTokenAnswer, score_token
from vqr1.iqa.answers.tagged import PUBLISHED, TaggedAnswer

__all__ = [
    "ASKED_RANGE",
    "FIVE_LEVELS",
    "PUBLISHED",
    "RANGE_MARGIN",
    "REASONING",
    "SCORE",
    "Answer",
    "AnswerForm",
    "BoxedAnswer",
    "ContinuedAnswer",
    "FreeText",
    "JsonAnswer",
    "LevelAnswer",
    "PlainAnswer",
    "PublishedAnswer",
    "RatingsAnswer",
    "ScoreRange",
    "ScoreTokenAnswer",
    "Span",
    "TaggedAnswer",
    "accepted_range",
    "accepted_score",
    "already_written",
    "form_after",
    "score_token",
]
