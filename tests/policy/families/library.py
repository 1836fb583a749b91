"""A family's own way: its class, processor and `generate` of transformers, and nothing shared.

Every response is a full row of its own, without padding: the prompt as the family's own processor
makes it, images included, and the response's tokens after it.

Shapes: B prompts, K responses each, C tokens a response.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tests.policy.families.cases import FamilyCase
from tests.support.images import noise_image
from vqr1.policy.loading import Policy
from vqr1.policy.prompts import PromptBuilder
from vqr1.records import PromptBatch

TEXT = "How good is this photo? <think></think>"
_ROW_TYPES = ("mm_token_type_ids", "token_type_ids")


def builder_of(
    case: FamilyCase, policy: Policy, *, images: int = 1, vision_id: bool = False
) -> PromptBuilder:
    """The package's prompt builder of a case."""
    return PromptBuilder(
        policy.family, policy.processor, TEXT, *case.area, vision_id=vision_id, images=images
    )


def images_of(sizes: Sequence[tuple[int, int]]) -> list[Image.Image]:
    """Noise of given (width, height)."""
    return [noise_image(number, *size) for number, size in enumerate(sizes)]


def prompts_of(case: FamilyCase, policy: Policy, images: int = 1) -> PromptBatch:
    """The case's batch, as the package builds it; prompts of several images share some."""
    made = images_of(case.sizes)
    groups = [[made[(b + i) % len(made)] for i in range(images)] for b in range(len(made))]
    return builder_of(case, policy, images=images)(groups)


def own_inputs(case: FamilyCase, policy: Policy, prompts: PromptBatch) -> list[dict[str, Tensor]]:
    """What the family's own processor makes of the images of B prompts, resized already."""
    processor = policy.processor
    known = _originals(case, policy) if case.originals else {}
    made = []
    for group in prompts.images:
        content = [*({"type": "image"} for _ in group), {"type": "text", "text": TEXT}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        pixels = [
            known[image.numpy().tobytes()] if known else Image.fromarray(np.asarray(image))
            for image in group
        ]
        inputs = processor(text=[text], images=[pixels], return_tensors="pt", **case.as_resized)
        made.append(dict(inputs))
    return made


def _originals(case: FamilyCase, policy: Policy) -> dict[bytes, Image.Image]:
    """The case's images as they were before they were resized, by what they are now."""
    rule = policy.family.resize_rule(policy.processor.image_processor, *case.area)
    made = [*images_of(case.sizes), *images_of((*case.sizes, *case.extreme))]
    return {rule.pixels(image).numpy().tobytes(): image for image in made}


def with_response(inputs: dict[str, Tensor], tokens: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """The inputs of a prompt [1, P] and a response [n] as one row."""
    row = dict(inputs)
    row["input_ids"] = torch.cat([row["input_ids"], tokens[None]], dim=1)
    row["attention_mask"] = torch.ones_like(row["input_ids"])
    for name in _ROW_TYPES:
        if name in row:
            row[name] = torch.cat([row[name], torch.zeros_like(tokens)[None]], dim=1)
    return {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in row.items()
    }


def own_logits(model: Any, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """[n + 1, V] logits after the prompt and after each of n response tokens."""
    prompt = inputs["input_ids"].shape[1]
    weight = next(model.parameters())
    row = with_response(inputs, tokens, weight.dtype)
    logits: Tensor = model(**row, use_cache=False).logits[0, prompt - 1 :]
    return logits


def own_logprobs(
    model: Any, rows: Sequence[dict[str, Tensor]], tokens: Tensor, mask: Tensor, temperature: float
) -> Tensor:
    """[B, K, C] log-probabilities of responses, differentiable in the model's weights."""
    found = []
    for inputs, group, kept in zip(rows, tokens, mask, strict=True):
        for response, real in zip(group, kept, strict=True):
            count = int(real.sum())
            values = torch.zeros(len(response), dtype=next(model.parameters()).dtype)
            if count:
                logits = own_logits(model, inputs, response[: count - 1]) / temperature
                logprobs = logits.log_softmax(dim=-1)
                chosen = logprobs.gather(-1, response[:count, None])[:, 0]
                values = torch.cat([chosen, values[count:]])
            found.append(values)
    return torch.stack(found).view(mask.shape)


def own_responses(
    model: Any, rows: Sequence[dict[str, Tensor]], *, limit: int, ends: Sequence[int],
    banned: Sequence[int],
) -> list[list[int]]:  # fmt: skip
    """Greedy responses by `generate`, one prompt at a time."""
    found = []
    for inputs in rows:
        prompt = inputs["input_ids"].shape[1]
        out = model.generate(
            **inputs,
            do_sample=False,
            temperature=None,
            top_k=None,
            top_p=None,
            max_new_tokens=limit,
            eos_token_id=list(ends),
            pad_token_id=ends[0],
            suppress_tokens=list(banned),
        )
        found.append(out[0, prompt:].tolist())
    return found


@contextmanager
def in_double() -> Iterator[None]:
    """Lets a model in float64 compute in float64 where the library writes `.float()`.

    Norms and rotations would go through float32 and leave its rounding in values and gradients.
    """
    narrow, convert = torch.Tensor.float, torch.Tensor.to

    def kept(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return tensor if tensor.dtype == torch.float64 else narrow(tensor, *args, **kwargs)

    def converted(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if tensor.dtype == torch.float64:
            args = tuple(torch.float64 if one is torch.float32 else one for one in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return convert(tensor, *args, **kwargs)

    with patch.object(torch.Tensor, "float", kept), patch.object(torch.Tensor, "to", converted):
        yield


@contextmanager
def first_inputs(*modules: nn.Module) -> Iterator[list[list[tuple[Any, ...]]]]:
    """Records the positional and keyword arguments of every call of some modules."""
    calls: list[list[tuple[Any, ...]]] = [[] for _ in modules]

    def recorder(kept: list[tuple[Any, ...]]) -> Any:
        return lambda _, args, kwargs: kept.append((args, kwargs))

    handles = [
        module.register_forward_pre_hook(recorder(kept), with_kwargs=True)
        for module, kept in zip(modules, calls, strict=True)
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
