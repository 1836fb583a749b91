"""Access to a policy's family and its parts, whatever it is wrapped in.

Adapters (peft) and data-parallel wrappers hide the model after attributes of their own. Every pass
of this package works on the parts themselves (vision tower, text model, output head), so that image
features and prompts can be computed once and shared.

Not here: loading, freezing and saving.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vqr1.errors import ModelError
from vqr1.policy.families import FAMILIES, Family, family
from vqr1.policy.families.base import Parts


def unwrap(model: nn.Module) -> Any:
    """The model of transformers inside `model`.

    Adapter layers stay in place: peft replaces linear layers inside the model that is returned.

    Args:
        model: the bare model, or the model inside a peft or a data-parallel wrapper.

    Raises:
        ModelError: the model is of no known family.
    """
    core: Any = model
    while isinstance(getattr(core, "module", None), nn.Module):
        core = core.module
    if hasattr(core, "get_base_model"):
        core = core.get_base_model()
    if getattr(getattr(core, "config", None), "model_type", None) not in FAMILIES:
        raise ModelError(
            f"model: found a {type(model).__name__}; the policy must be a model of one of the "
            f"families {', '.join(FAMILIES)}; choose a checkpoint of one with model.path"
        )
    return core


def family_of(model: nn.Module) -> Family:
    """The family of a policy, bare or wrapped."""
    return family(unwrap(model).config.model_type, "the model")


def parts_of(model: nn.Module) -> Parts:
    """The modules of a policy, bare or wrapped, that passes work on.

    Raises:
        ModelError: the model is of no known family, or uses what the shared-prompt passes do not
            compute (sliding windows, attention dropout).
    """
    core = unwrap(model)
    parts = family_of(core).parts(core)
    text_config = parts.text.config
    if "sliding_attention" in getattr(text_config, "layer_types", ()):
        raise ModelError(
            "model: config.json sets use_sliding_window: true; the shared-prompt passes attend to "
            "the whole prompt; set use_sliding_window to false"
        )
    if text_config.attention_dropout and core.training:
        raise ModelError(
            f"model: config.json sets attention_dropout: {text_config.attention_dropout}; training "
            "needs 0, or the old and the new log-probabilities of a token differ without an update"
        )
    return parts


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts a model into eval mode inside the block, and back into the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def checkpointing_in_eval_mode(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Lets layers recompute their activations in eval mode too, wherever gradients are recorded.

    Policies are trained in eval mode (dropout would set the sampled and the trained distribution
    apart), but transformers honours gradient checkpointing in training mode only. The flag is
    raised on the layers alone, not on the modules inside them.
    """
    raised = [
        layer
        for layer in layers
        if getattr(layer, "gradient_checkpointing", False) and not layer.training
    ]
    if not torch.is_grad_enabled():
        raised = []
    for layer in raised:
        layer.training = True
    try:
        yield
    finally:
        for layer in raised:
            layer.training = False
