"""A tiny random SmolVLM2 checkpoint: real classes of transformers, a small tokenizer of its kind.

The tokenizer is byte-level BPE with SmolLM2's splitting rule (digits one by one, GPT-2's pattern)
and the released special tokens in the released order; its merges are learned here, on the published
prompts and what answers look like. Tiles have 32 pixels, of which 16 x 16 become one token.

Not here: trained weights.
"""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from tools.tiny_checkpoints._folder import Checkpoint

TILE, PATCH, SCALE, LONGEST = 32, 4, 4, 128
"""Edge of a tile and of a patch in pixels, patches a token along each side, longest image edge."""

FIRST_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""They come before the bytes, as in SmolLM2."""

LAST_TOKENS = (
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
)
"""They come after the merges, as in the released SmolVLM."""

CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""The form of the released checkpoints' template."""

CORPUS = (
    "You are doing the image quality assessment task. Here is the question: What is your overall "
    "rating on the quality of this picture? The rating should be a float between 1 and 5, rounded "
    "to two decimal places, with 1 representing very poor quality and 5 representing excellent "
    "quality. First output the thinking process in <think> </think> tags and then output the final "
    "answer with only one score in <answer> </answer> tags.\n\n<think>The image is blurred and "
    "noisy.</think>\n<answer>3.25</answer>\n\n"
)


def smol_tokenizer(vocabulary: int = 448) -> PreTrainedTokenizerFast:
    """A tokenizer of SmolVLM's kind; `vocabulary` bounds its tokens."""
    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocabulary - len(LAST_TOKENS),
        min_frequency=1,
        special_tokens=list(FIRST_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator([CORPUS] * 2, trainer)
    core.add_special_tokens([AddedToken(token, normalized=False) for token in LAST_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        additional_special_tokens=["<fake_token_around_image>", "<image>", "<end_of_utterance>"],
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
    )


def smol_config(config_class: Any, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Configuration of a tiny model of one of the two families."""
    number = tokenizer.convert_tokens_to_ids
    return config_class(
        text_config={
            "model_type": "llama",
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
            "bos_token_id": number("<|im_start|>"),
            "eos_token_id": number("<end_of_utterance>"),
            "pad_token_id": number("<|im_end|>"),
            "tie_word_embeddings": False,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": TILE,
            "patch_size": PATCH,
        },
        image_token_id=number("<image>"),
        scale_factor=SCALE,
        tie_word_embeddings=False,
    )


IMAGES = {
    "size": {"longest_edge": LONGEST},
    "max_image_size": {"longest_edge": TILE},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
"""What an image processor is made with; everything else is the library's, as released."""

IMAGE_TOKENS = (TILE // PATCH // SCALE) ** 2
"""Of a tile."""


def smol_generation(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Contents of `generation_config.json`, as released."""
    number = tokenizer.convert_tokens_to_ids
    return {
        "bos_token_id": number("<|im_start|>"),
        "eos_token_id": number("<end_of_utterance>"),
        "pad_token_id": number("<|im_end|>"),
    }


def checkpoint() -> Checkpoint:
    """Model and processor; see `Checkpoint`."""
    tokenizer = smol_tokenizer()
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(**IMAGES),
        tokenizer,
        SmolVLMVideoProcessor(**IMAGES),
        image_seq_len=IMAGE_TOKENS,
        chat_template=CHAT_TEMPLATE,
    )
    model = SmolVLMForConditionalGeneration(smol_config(SmolVLMConfig, tokenizer))
    return Checkpoint(model, processor, smol_generation(tokenizer))
