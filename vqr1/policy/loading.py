"""Load a policy and its processor, freeze what stays, add adapters.

Code that a checkpoint carries is never executed, and pickled weights are never read.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoProcessor
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from vqr1.config import HardwareConfig, LoraConfig, ModelConfig
from vqr1.errors import ConfigError, ModelError, first_line
from vqr1.policy.checkpoint_config import load_config, origin_of, source_of
from vqr1.policy.families import Family
from vqr1.policy.families.base import Parts
from vqr1.policy.fast_layers import use_fast_layers
from vqr1.policy.finite import non_finite_weights
from vqr1.policy.quantization import loading_arguments, quantization_problems
from vqr1.policy.unwrap import family_of, parts_of

logger = logging.getLogger(__name__)

PROCESSOR_FILE = "preprocessor_config.json"


@dataclass(frozen=True)
class Policy:
    """A model with everything needed to use it.

    Attributes:
        model: a model of its family's class, or a PEFT model around it.
        processor: its processor (chat template, tokenizer, image processor).
        source: folder or hub name that both were loaded from; export copies its side files.
        revision: hub revision of `source`, None for a folder or the newest.
    """

    model: torch.nn.Module
    processor: Any
    source: str
    revision: str | None = None

    @property
    def family(self) -> Family:
        """The model's family."""
        return family_of(self.model)


def load_processor(config: ModelConfig) -> Any:
    """The processor (chat template, tokenizer, image processor) of a model, without its weights.

    Raises:
        ModelError: no such checkpoint, one of no known family, no processor in its folder, one of
            another model, or one that asks for a package that is not installed.
    """
    source = source_of(config)
    own, found = load_config(config)
    folder = Path(source)
    if folder.is_dir() and not (folder / PROCESSOR_FILE).is_file():
        raise ModelError(
            f"model.path={source}: no {PROCESSOR_FILE} in this folder; copy the processor and "
            "tokenizer files of the base model into it"
        )
    try:
        processor = AutoProcessor.from_pretrained(
            source, **origin_of(config), trust_remote_code=False
        )
    except ImportError as error:
        raise ModelError(
            f"model.path={source}: its processor needs a package that is not installed here "
            f"({first_line(error)})"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model.path={source}: its processor cannot be loaded; copy the processor and "
            f"tokenizer files of the base model ({first_line(error)})"
        ) from error
    _check_processor(processor, own, found, f"model.path={source}")
    return processor


def _check_processor(processor: Any, own: Family, config: Any, who: str) -> None:
    """Whether a processor belongs to a model.

    Raises:
        ModelError: it has no image processor or no image token, other tokens than the model, or
            patches of other sizes; or the model does not take its images.
        ConfigError: it makes no images of the family's.
    """
    fix = "copy the processor and tokenizer files of the base model into its folder"
    if getattr(processor, "image_processor", None) is None:
        raise ModelError(f"{who}: a {type(processor).__name__} takes no images; {fix}")
    if not (hasattr(processor, "image_token_id") and hasattr(processor, "tokenizer")):
        raise ModelError(f"{who}: a {type(processor).__name__} makes no prompts with images; {fix}")
    token, expected = processor.image_token_id, own.image_token(config)
    if token != expected:
        raise ModelError(
            f"{who}: the image token of its {type(processor).__name__} is {token}, the model's "
            f"{expected}: the processor of another model; {fix}"
        )
    known, rows = len(processor.tokenizer), config.get_text_config().vocab_size
    if known > rows:
        raise ModelError(
            f"{who}: its tokenizer has {known} tokens, the model {rows}: the tokenizer of another "
            f"model; {fix}"
        )
    problem = own.processor_problem(config, processor)
    if problem is not None:
        raise ModelError(f"{who}: {problem}; {fix}")


def load_policy(
    config: ModelConfig,
    *,
    attention: str = "sdpa",
    gradient_checkpointing: bool = False,
    device: torch.device | str = "cpu",
) -> Policy:
    """Load weights and processor and prepare them for training or inference.

    Args:
        config: which checkpoint, and what of it is trained.
        attention: attention implementation outside the shared-prompt passes; `auto` takes the best
            that is installed.
        gradient_checkpointing: recompute activations in the backward pass.
        device: where the weights go.

    Raises:
        ModelError: no such checkpoint, no processor beside it, another architecture, or weights
            with NaN or infinity.
        ConfigError: its processor does not normalise images, or it has no layers of the names that
            adapters are asked for.
    """
    source = source_of(config)
    processor = load_processor(config)
    # cuDNN's attention makes a plan for every shape, and every size of images is one: PyTorch
    # prefers it on recent devices. Flash attention is left. Without effect on a CPU.
    torch.backends.cuda.enable_cudnn_sdp(False)
    model = _load_weights(source, config, attention, device)
    model.image_encoding = family_of(model).image_encoding(processor.image_processor)
    model = prepared(model, config, gradient_checkpointing=gradient_checkpointing)
    # Codes of 4 bits were made where they are.
    model = (model if config.quantization else model.to(device)).eval()
    _check_finite(model, source, config)
    return Policy(model, processor, source, config.revision)


def prepared(model: Any, config: ModelConfig, *, gradient_checkpointing: bool) -> Any:
    """A model with lean layers, frozen parts frozen and adapters added; changed in place.

    Args:
        model: of a family's class.
        config: what of it is trained.
        gradient_checkpointing: recompute activations in the backward pass.
    """
    parts = parts_of(model)
    use_fast_layers(model)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.lora is not None:
        model = _add_adapters(model, config.lora)
    freeze_vision(parts, config)
    return model


def freeze_vision(parts: Parts, config: ModelConfig) -> None:
    """Freeze what of a policy's images is kept as loaded; after adapters, which the text has."""
    if config.freeze_vision:
        parts.vision.requires_grad_(False)
    if config.freeze_vision == "tower":
        parts.connector.requires_grad_(True)


def best_attention(capability: tuple[int, int] | None = None) -> str:
    """The fastest attention implementation that is installed; reports it where that is sdpa.

    Args:
        capability: of the device; None looks at the current one.
    """
    if capability is None:
        found = torch.cuda.is_available()
        capability = torch.cuda.get_device_capability() if found else (0, 0)
    # Its kernels are Hopper's; on an A100 the package can be installed all the same.
    if is_flash_attn_3_available() and capability[0] == 9:
        return "flash_attention_3"
    if is_flash_attn_2_available():
        return "flash_attention_2"
    logger.warning("hardware.attention=auto: flash-attn is not installed here; sdpa is used")
    return "sdpa"


def trainable_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that the optimiser receives."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def vision_trains(model: torch.nn.Module) -> bool:
    """Whether any weight of the vision tower, or of what comes after it, receives gradients."""
    return any(parameter.requires_grad for parameter in parts_of(model).vision.parameters())


def _load_weights(source: str, config: ModelConfig, attention: str, device: Any) -> Any:
    own, found = load_config(config)
    model_class = own.model_class()
    _check_quantization(config, device)
    try:
        model, report = model_class.from_pretrained(
            source,
            **origin_of(config),
            dtype=getattr(torch, config.dtype),
            attn_implementation=best_attention() if attention == "auto" else attention,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below, in one line
            output_loading_info=True,
            **loading_arguments(config, own, found, device),
        )
    except ImportError as error:
        raise ModelError(f"hardware.attention={attention}: {first_line(error)}") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"model.path={source}: {first_line(error)}") from error
    other = sorted(name for name, *_ in report["mismatched_keys"])
    if other:
        raise ModelError(
            f"model.path={source}: {len(other)} weights have other sizes than config.json states, "
            f"{other[0]} first; its config.json is that of another model"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"model.path={source}: {len(missing)} weights are missing, {missing[0]} first; the "
            "checkpoint is incomplete"
        )
    return model


def _check_quantization(config: ModelConfig, device: Any) -> None:
    gpu = torch.device(device).type != "cpu"
    hardware = HardwareConfig(accelerator="gpu" if gpu else "cpu")
    problems = quantization_problems(config, hardware, trains=False)
    if problems:
        raise ModelError(problems[0])


def _check_finite(model: torch.nn.Module, source: str, config: ModelConfig) -> None:
    broken = non_finite_weights(model)
    if broken:
        raise ModelError(
            f"model.path={source}: {len(broken)} weights hold NaN or infinity as {config.dtype}, "
            f"{broken[0]} first; take another checkpoint"
            f"{', or model.dtype=float32' if config.dtype == 'float16' else ''}"
        )


def _check_targets(model: Any, names: Sequence[str]) -> None:
    """Check that each name is that of linear layers of the text model.

    Raises:
        ConfigError: those that are not, with what there is.
    """
    targets = family_of(model).adapter_targets
    linear = [name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)]
    unknown = [
        name
        for name in names
        if not any(re.fullmatch(targets([re.escape(name)]), layer) for layer in linear)
    ]
    if names and not unknown:
        return
    every = re.compile(targets([r"\w+"]))
    there = {layer.rpartition(".")[2] for layer in linear if every.fullmatch(layer)}
    what = f"the text model has no linear layers called {', '.join(unknown)}" if names else "empty"
    raise ConfigError(
        [
            f"model.lora.target_modules={list(names)}: {what}; name some of "
            f"{', '.join(sorted(there))}"
        ]
    )


def _add_adapters(model: Any, config: LoraConfig) -> torch.nn.Module:
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    from vqr1.policy.adapters import lean_adapters

    _check_targets(model, config.target_modules)
    adapted = get_peft_model(
        model,
        PeftLoraConfig(
            r=config.rank,
            lora_alpha=int(config.alpha) if config.alpha.is_integer() else config.alpha,
            lora_dropout=config.dropout,
            target_modules=family_of(model).adapter_targets(config.target_modules),
        ),
    )
    lean_adapters(adapted)
    return adapted
