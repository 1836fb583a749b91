"""Where responses end, and which tokens they can never hold."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.support.tiny_models import VOCABULARY
from tests.support.tiny_tokenizer import tiny_tokenizer
from vqr1.config import SamplingConfig
from vqr1.config.model import _warn_of_no_end_text
from vqr1.policy.packaged import tiny_policy_folder
from vqr1.rollout.stopping import StopRule, banned_tokens, end_tokens

TOKENIZER = tiny_tokenizer()
ENDS = end_tokens(TOKENIZER, ("<|im_end|>", "<|endoftext|>"))


def first_end(text, end_text="</answer>", tokenizer=TOKENIZER):
    """Tokens after which a response of this text ends, None if it does not."""
    rule = StopRule(tokenizer, ENDS, 1, end_text)
    for place, token in enumerate(tokenizer.encode(text, add_special_tokens=False)):
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


@pytest.fixture(scope="module")
def packaged():
    """The tokenizer of the packaged policy, whose pieces hold blanks and line ends."""
    return AutoTokenizer.from_pretrained(tiny_policy_folder())


def characters_with_bytes():
    """A vocabulary of characters that writes a line's end as a byte, as Llama's first ones."""
    pieces = ["<unk>", "\u2581", "\u2581score", "<0x0A>", *"Finalscore:3.5</w>"]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    core = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    core.normalizer = normalizers.Replace(" ", "\u2581")
    core.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


RESPONSE = "It is blurred.\n\nFinal score: 3.5</answer>\n\nFinal score: 2"


@pytest.mark.parametrize(
    "end_text", ["Final score", "\n\n", "</answer>", " score: ", ".\n\nFinal", "d.\n"]
)
def test_a_text_with_blanks_and_line_ends_ends_where_decoding_shows_it(packaged, end_text):
    for tokenizer in (packaged, characters_with_bytes()):
        ids = tokenizer.encode(RESPONSE, add_special_tokens=False)
        decoded = [tokenizer.decode(ids[:n]) for n in range(len(ids) + 1)]
        expected = next((n for n, text in enumerate(decoded) if end_text in text), None)
        assert first_end(RESPONSE, end_text, tokenizer) == expected
    assert first_end(RESPONSE, end_text, packaged) is not None


@pytest.mark.parametrize("text", ["", "Punktzahl f\u00fcr", "a\tb", "a\r\n", "\u0120score"])
def test_a_text_that_tokens_do_not_show_is_refused(text):
    with pytest.raises(ValueError, match="text"):
        SamplingConfig(stop=f"text:{text}")
    if text:
        # Nor is it taken from an answer form.
        assert SamplingConfig(stop="answer").ending_with(text).stop == "eos"


def test_a_form_without_an_end_is_logged_once(caplog):
    _warn_of_no_end_text.cache_clear()
    assert [SamplingConfig(stop="answer").ending_with(None).stop for _ in range(3)] == ["eos"] * 3
    (record,) = caplog.records
    assert "stop=eos does the same" in record.getMessage()


@pytest.mark.parametrize("text", ["Final score", "\n\n", "</answer>", " "])
def test_printable_texts_are_taken(text):
    assert SamplingConfig(stop=f"text:{text}").end_text == text


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
