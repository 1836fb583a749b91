"""Where responses end, and which tokens they can never hold."""

from __future__ import annotations

import pytest

from tests.support.tiny_models import VOCABULARY
from tests.support.tiny_tokenizer import tiny_tokenizer
from vqr1.rollout.stopping import StopRule, banned_tokens, end_tokens

TOKENIZER = tiny_tokenizer()
ENDS = end_tokens(TOKENIZER, ("<|im_end|>", "<|endoftext|>"))


def first_end(text, end_text="</answer>"):
    """Tokens after which a response of this text ends, None if it does not."""
    rule = StopRule(TOKENIZER, ENDS, 1, end_text)
    for place, token in enumerate(TOKENIZER.encode(text)):
        if rule.ended([0], [token]) == [True]:
            return place + 1
    return None


@pytest.mark.parametrize("text", ["3.5</answer>", "a</answer> b", "</answer></answer>"])
def test_ends_with_the_token_that_completes_the_tag(text):
    count = first_end(text)
    ids = TOKENIZER.encode(text)
    assert "</answer>" in TOKENIZER.decode(ids[:count])
    assert "</answer>" not in TOKENIZER.decode(ids[: count - 1])


def test_the_tag_is_found_however_it_is_split():
    text = "x</answer>"
    vocab = TOKENIZER.get_vocab()
    by_characters = [vocab[c] for c in text]
    rule = StopRule(TOKENIZER, ENDS, 1, "</answer>")
    ended = [rule.ended([0], [token])[0] for token in by_characters]
    assert ended == [False] * (len(text) - 1) + [True]
    assert len(TOKENIZER.encode(text)) < len(by_characters)


@pytest.mark.parametrize("text", ["</answe r>", "<answer>3", "/answer>"])
def test_half_a_tag_is_not_an_end(text):
    assert first_end(text) is None


def test_eos_only_ignores_the_tag():
    assert first_end("3</answer>", end_text=None) is None
    assert first_end("3</answer><|im_end|>", end_text=None) == len(
        TOKENIZER.encode("3</answer><|im_end|>")
    )
    assert first_end("<|endoftext|>", end_text=None) == 1


def test_responses_do_not_mix():
    vocab = TOKENIZER.get_vocab()
    rule = StopRule(TOKENIZER, ENDS, 2, "</answer>")
    for character in "</answer":
        assert rule.ended([0], [vocab[character]]) == [False]
    assert rule.ended([1], [vocab[">"]]) == [False]
    assert rule.ended([0, 1], [vocab[">"], vocab[">"]]) == [True, False]


def test_control_tokens_and_padding_of_the_vocabulary_are_banned():
    # 90 to 93 are image and video tokens; 94 and 95 end a turn; 96 and up have no token.
    assert banned_tokens(TOKENIZER, ENDS, VOCABULARY + 4) == [90, 91, 92, 93, 96, 97, 98, 99]
    assert {94, 95} == ENDS
    # A tokenizer that has none of the names: its own end.
    assert end_tokens(TOKENIZER, ("<end_of_turn>",)) == {TOKENIZER.eos_token_id}
