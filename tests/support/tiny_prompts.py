"""A real processor over a small tokenizer, and a prompt builder of it: no files."""

from __future__ import annotations

from typing import Any

from tests.support.images import SENTENCE
from tools.tiny_policy.factory import build_processor, build_tokenizer
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.prompts import PromptBuilder


def small_processor() -> Any:
    return build_processor(build_tokenizer([SENTENCE] * 4))


def small_builder(processor: Any) -> PromptBuilder:
    return PromptBuilder(
        FAMILY, processor, SENTENCE, min_pixels=56 * 56, max_pixels=112 * 112, vision_id=True
    )
