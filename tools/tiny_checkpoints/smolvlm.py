"""A tiny random SmolVLM2 checkpoint: real classes of transformers, a small tokenizer of its kind.

The tokenizer is byte-level BPE with SmolLM2's splitting rule (digits one by one, GPT-2's pattern)
and the released special tokens in the released order; its merges are learned here, on the published
prompts and what answers look like. Tiles have 32 pixels, of which 16 x 16 become one token.

    python -c "from tools.tiny_checkpoints.smolvlm import build; build(Path('folder'), seed=0)"

Not here: trained weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

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


def build_tokenizer(folder: Path, vocabulary: int = 448) -> None:
    """Writes the tokenizer's files; `vocabulary` bounds its tokens."""
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
    core.save(str(folder / "tokenizer.json"))
    number = core.token_to_id
    added = {
        str(number(token)): {"content": token, "special": True, "normalized": False}
        for token in (*FIRST_TOKENS, *LAST_TOKENS)
    }
    config = {
        "added_tokens_decoder": added,
        "additional_special_tokens": [
            "<fake_token_around_image>",
            "<image>",
            "<end_of_utterance>",
        ],
        "bos_token": "<|im_start|>",
        "eos_token": "<end_of_utterance>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
        "tokenizer_class": "GPT2Tokenizer",
    }
    _write(folder / "tokenizer_config.json", config)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _model_config(config_class: Any, number: Any, size: int) -> Any:
    return config_class(
        text_config={
            "model_type": "llama",
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": size,
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


def write_checkpoint(folder: Path, seed: int, model_class: Any, name: str) -> None:
    """Writes a checkpoint of one of the two families.

    Args:
        folder: made where absent.
        seed: of the weights.
        model_class: of transformers.
        name: how the family's processor classes begin, `SmolVLM` or `Idefics3`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer(folder)
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = _model_config(model_class.config_class, core.token_to_id, core.get_vocab_size())
    model = model_class(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, weight in model.named_parameters():
            # Wide enough that outputs are far from uniform.
            noise = torch.randn(weight.shape, generator=generator) * 0.15
            is_gain = "norm" in path and path.endswith("weight")
            weight.copy_(1 + noise if is_gain else noise)
    model.generation_config.eos_token_id = core.token_to_id("<end_of_utterance>")
    model.generation_config.pad_token_id = core.token_to_id("<|im_end|>")
    model.save_pretrained(folder)
    preprocessor = {
        "do_convert_rgb": True,
        "do_image_splitting": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": f"{name}ImageProcessor",
        "max_image_size": {"longest_edge": TILE},
        "processor_class": f"{name}Processor",
        "resample": 1,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": LONGEST},
    }
    if name == "SmolVLM":
        preprocessor["video_sampling"] = {
            "fps": 1,
            "max_frames": 64,
            "video_size": {"longest_edge": TILE},
        }
    _write(folder / "preprocessor_config.json", preprocessor)
    length = (TILE // PATCH // SCALE) ** 2
    processor = {"image_seq_len": length, "processor_class": f"{name}Processor"}
    _write(folder / "processor_config.json", processor)
    _write(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})


def build(folder: Path, seed: int) -> None:
    """Writes a checkpoint of `smolvlm`."""
    from transformers import SmolVLMForConditionalGeneration

    write_checkpoint(folder, seed, SmolVLMForConditionalGeneration, "SmolVLM")
