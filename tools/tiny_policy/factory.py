"""The tiny policy: a complete Qwen2.5-VL of about two million weights, for machines without a GPU.

What it does: describes the architecture, builds the tokenizer and processor, and writes and finds
policy folders. Everything is the real class of the transformers library, so whatever runs on this
folder runs on a downloaded Qwen2.5-VL checkpoint. The packaged folder comes from
`tools/build_tiny_policy.py`.

Not here: training (`tools.tiny_policy.warm_start`) and loading for training.

A policy folder keeps the form that transformers 4.49 to 5.x all read: `config.json` with the text
model's fields at its top level, `preprocessor_config.json`, tokenizer files, the chat template
both as `chat_template.json` and `.jinja`, and weights under `visual.*` and `model.layers.*`.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from vqr1.policy.families._qwen_images import IMAGE_MEAN, IMAGE_STD, MERGE, PATCH, TEMPORAL
from vqr1.policy.training_prompt import write_training_prompt

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Special tokens of Qwen2.5-VL in its order; they follow the byte-pair vocabulary."""

PRETOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's rule of splitting text before merging; each digit stands alone."""

CHAT_TEMPLATE = (
    "{%- set pictures = namespace(seen=0) -%}"
    "{%- set clips = namespace(seen=0) -%}"
    "{%- for turn in messages -%}"
    "{%- if loop.first and turn['role'] != 'system' -%}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}"
    "{%- endif -%}"
    "{{- '<|im_start|>' + turn['role'] + '\\n' -}}"
    "{%- if turn['content'] is string -%}"
    "{{- turn['content'] -}}"
    "{%- else -%}"
    "{%- for part in turn['content'] -%}"
    "{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}"
    "{%- set pictures.seen = pictures.seen + 1 -%}"
    "{%- if add_vision_id -%}{{- 'Picture ' + pictures.seen | string + ': ' -}}{%- endif -%}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif part['type'] == 'video' or 'video' in part -%}"
    "{%- set clips.seen = clips.seen + 1 -%}"
    "{%- if add_vision_id -%}{{- 'Video ' + clips.seen | string + ': ' -}}{%- endif -%}"
    "{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}"
    "{%- elif 'text' in part -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""Renders like the template of the released Qwen2.5-VL-Instruct checkpoints."""

VOCABULARY = 768
"""Largest vocabulary of the packaged tokenizer: 256 bytes, merges, special tokens."""

VISION_ID = True
"""The warm start teaches with "Picture 1: " before the image."""

ASKED_WITH_VISION_ID = False
"""What the folder records for training, evaluation and scoring (`vqr1.policy.training_prompt`): the
published prompt, without "Picture 1: ". The start answers it as well as the one that it was taught
with (docs/evaluation.md)."""

MIN_PIXELS, MAX_PIXELS = 56 * 56, 28 * 28 * 1280
"""Image areas that the processor allows by default, as in the released checkpoints."""


def build_tokenizer(corpus: Iterable[str], vocabulary: int = VOCABULARY) -> Qwen2Tokenizer:
    """A byte-level byte-pair tokenizer with Qwen's splitting rule and special tokens.

    Args:
        corpus: texts that merges are learned on; any other text still round-trips, byte by byte,
            up to Unicode's canonical composition (NFC), which Qwen's tokenizer applies.
        vocabulary: largest number of tokens, special tokens included.

    Returns:
        The tokenizer; padding is `<|endoftext|>` and a turn ends with `<|im_end|>`, as in Qwen.
    """
    core = Tokenizer(BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZER), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL_TOKENS),
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    core.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    with tempfile.TemporaryDirectory() as folder:
        _write_tokenizer(core, Path(folder))
        return Qwen2Tokenizer.from_pretrained(folder)


def _write_tokenizer(core: Tokenizer, folder: Path) -> None:
    """The four tokenizer files of a released Qwen2.5-VL checkpoint."""
    core.save(str(folder / "tokenizer.json"))
    core.model.save(str(folder))
    added = {
        str(core.token_to_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for token in SPECIAL_TOKENS
    }
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    _write_json(folder / "tokenizer_config.json", config)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def build_processor(
    tokenizer: Qwen2Tokenizer, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS
) -> Qwen2_5_VLProcessor:
    """The processor of a tiny policy.

    Args:
        tokenizer: see `build_tokenizer`.
        min_pixels: smallest image area that images are resized to.
        max_pixels: largest one.
    """
    image = {
        "size": {"shortest_edge": min_pixels, "longest_edge": max_pixels},
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": TEMPORAL,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**image),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**image),
        chat_template=CHAT_TEMPLATE,
    )


@dataclass(frozen=True)
class TinySize:
    """Widths and depths of a tiny policy; the defaults are the packaged one's.

    Attributes:
        hidden: width of the text model.
        layers: its layers.
        heads: its query heads; `hidden / heads` must be divisible by 4.
        kv_heads: its key-value heads.
        feed_forward: its gated feed-forward width.
        vision_hidden: width of the vision tower.
        vision_depth: its blocks; every second one attends over the whole image.
        vision_heads: its heads; `vision_hidden / vision_heads` must be divisible by 4.
        vision_feed_forward: its gated feed-forward width.
        window: edge, in pixels, of the windows that the other vision blocks attend in.
        initial_std: standard deviation of fresh weights. 0.02, the library's default, leaves so
            small a vision tower almost without gradient.
        tied: share the token embedding with the output head.
    """

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 320
    vision_hidden: int = 128
    vision_depth: int = 4
    vision_heads: int = 4
    vision_feed_forward: int = 256
    window: int = 112
    initial_std: float = 0.08
    tied: bool = False


def _mrope_sections(head_dim: int) -> list[int]:
    """Rotary frequencies given to time, height and width, in Qwen2.5-VL's ratio 2 : 3 : 3."""
    half = head_dim // 2
    spatial = half * 3 // 8
    return [half - 2 * spatial, spatial, spatial]


def flat_config(tokenizer: Qwen2Tokenizer, size: TinySize = TinySize()) -> dict[str, Any]:
    """Contents of `config.json`, text fields at the top level, as transformers 4.49 to 5.x read.

    Args:
        tokenizer: supplies the vocabulary's size and the special tokens' numbers.
        size: widths and depths.
    """
    number = tokenizer.convert_tokens_to_ids
    head_dim = size.hidden // size.heads
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": number("<|endoftext|>"),
        "eos_token_id": number("<|im_end|>"),
        "pad_token_id": number("<|endoftext|>"),
        "vision_start_token_id": number("<|vision_start|>"),
        "vision_end_token_id": number("<|vision_end|>"),
        "vision_token_id": number("<|vision_pad|>"),
        "image_token_id": number("<|image_pad|>"),
        "video_token_id": number("<|video_pad|>"),
        "hidden_act": "silu",
        "hidden_size": size.hidden,
        "initializer_range": size.initial_std,
        "intermediate_size": size.feed_forward,
        "max_position_embeddings": 32768,
        "max_window_layers": size.layers,
        "model_type": "qwen2_5_vl",
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": size.kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": _mrope_sections(head_dim)},
        "sliding_window": 32768,
        "tie_word_embeddings": size.tied,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": len(tokenizer),
        "vision_config": {
            "depth": size.vision_depth,
            "hidden_act": "silu",
            "hidden_size": size.vision_hidden,
            "initializer_range": size.initial_std,
            "intermediate_size": size.vision_feed_forward,
            "num_heads": size.vision_heads,
            "in_chans": 3,
            "out_hidden_size": size.hidden,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "spatial_patch_size": PATCH,
            "window_size": size.window,
            "fullatt_block_indexes": list(range(1, size.vision_depth, 2)),
            "tokens_per_second": 2,
            "temporal_patch_size": TEMPORAL,
        },
    }


def tiny_config(tokenizer: Qwen2Tokenizer, size: TinySize = TinySize()) -> Qwen2_5_VLConfig:
    """The configuration object of `flat_config`."""
    return Qwen2_5_VLConfig(**flat_config(tokenizer, size))


def random_tiny_model(
    tokenizer: Qwen2Tokenizer, size: TinySize = TinySize(), seed: int = 0
) -> Qwen2_5_VLForConditionalGeneration:
    """A tiny policy with fresh random weights, float32, in evaluation mode.

    The global random state is left as found.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(tiny_config(tokenizer, size))
    return model.float().eval()


def save_policy_folder(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    folder: Path,
    size: TinySize = TinySize(),
) -> None:
    """Writes a folder that transformers 4.49 to 5.x load.

    Weights are stored as float16, which halves the packaged file, and load as float32.

    Args:
        model: the policy; its weights must fit float16's range.
        tokenizer: its tokenizer.
        folder: created where absent; files of earlier builds are replaced.
        size: the sizes that `model` was made with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = copy.deepcopy(model).half()
    stored.save_pretrained(folder)
    # The library writes weights readable by their owner alone; the package is for everybody.
    (folder / "model.safetensors").chmod(0o644)
    _write_tokenizer(tokenizer.backend_tokenizer, folder)
    # The library writes a nested config.json that releases before 4.53 cannot read.
    _write_json(folder / "config.json", flat_config(tokenizer, size))
    number = tokenizer.convert_tokens_to_ids
    generation = {
        "bos_token_id": number("<|endoftext|>"),
        "pad_token_id": number("<|endoftext|>"),
        "eos_token_id": [number("<|im_end|>"), number("<|endoftext|>")],
        "do_sample": False,
    }
    _write_json(folder / "generation_config.json", generation)
    preprocessor = {
        "min_pixels": MIN_PIXELS,
        "max_pixels": MAX_PIXELS,
        "patch_size": PATCH,
        "temporal_patch_size": TEMPORAL,
        "merge_size": MERGE,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }
    _write_json(folder / "preprocessor_config.json", preprocessor)
    write_training_prompt(folder, ASKED_WITH_VISION_ID)
    _write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
