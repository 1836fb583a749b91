"""Load a policy and its processor, freeze what stays, add adapters.

Code that a checkpoint carries is never executed, and pickled weights are never read.
"""

from __future__ import annotations

import functools
import logging
import socket
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoProcessor
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from vqr1.config import LoraConfig, ModelConfig
from vqr1.errors import ModelError
from vqr1.policy.families import Family, family
from vqr1.policy.fast_layers import use_fast_layers
from vqr1.policy.finite import non_finite_weights
from vqr1.policy.packaged import tiny_policy_folder
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
        ModelError: no such checkpoint, or no processor in its folder.
    """
    source = _source(config)
    folder = Path(source)
    if folder.is_dir() and not (folder / PROCESSOR_FILE).is_file():
        raise ModelError(
            f"model.path={source}: no {PROCESSOR_FILE} in this folder; copy the processor and "
            "tokenizer files of the base model into it"
        )
    try:
        return AutoProcessor.from_pretrained(source, **_origin(config), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model.path={source}: no checkpoint folder and no model that the hub knows or this "
            f"machine can reach; give a folder or a hub name ({_first_line(error)})"
        ) from error


def load_family(config: ModelConfig) -> Family:
    """The family of a checkpoint, by its `config.json`.

    Raises:
        ModelError: no such checkpoint, or one of no known family.
    """
    source = _source(config)
    try:
        kind = AutoConfig.from_pretrained(source, **_origin(config)).model_type
    except (OSError, ValueError) as error:
        raise ModelError(f"model.path={source}: {_first_line(error)}") from error
    check_family(config, kind)
    return family(kind, f"model.path={source}: the checkpoint")


def check_family(config: ModelConfig, kind: str) -> None:
    """Whether a checkpoint is of a family that its configuration is for.

    Args:
        config: which checkpoint, with the values of its configuration.
        kind: `model_type` of its `config.json`.

    Raises:
        ModelError: it is not: learning rate and image sizes would be those of another family.
    """
    wanted = None if config.recommended is None else config.recommended.model_types
    if wanted is not None and kind not in wanted:
        raise ModelError(
            f"model.path={config.path}: the checkpoint is a {kind}, and the values of "
            f"{config.name} are for {' or '.join(wanted)}; choose the model=... of its family"
        )


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
        ConfigError: its processor does not normalise images.
    """
    source = _source(config)
    processor = load_processor(config)
    model = _load_weights(source, config, attention)
    own, parts = family_of(model), parts_of(model)
    use_fast_layers(model)
    model.image_encoding = own.image_encoding(processor.image_processor)
    problem = own.encoding_problem(model.config, model.image_encoding)
    if problem is not None:
        raise ModelError(
            f"model.path={source}: {problem}; copy the processor files of the base model into it"
        )
    if config.freeze_vision:
        parts.vision.requires_grad_(False)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.lora is not None:
        model = _add_adapters(model, config.lora)
    model = model.to(device).eval()
    _check_finite(model, source, config)
    return Policy(model, processor, source, config.revision)


def best_attention() -> str:
    """The fastest attention implementation that is installed; reports it where that is sdpa."""
    if is_flash_attn_3_available():
        return "flash_attention_3"
    if is_flash_attn_2_available():
        return "flash_attention_2"
    logger.warning("hardware.attention=auto: flash-attn is not installed here; sdpa is used")
    return "sdpa"


def trainable_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that the optimiser receives."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def vision_trains(model: torch.nn.Module) -> bool:
    """Whether any weight of the vision tower receives gradients."""
    return any(parameter.requires_grad for parameter in parts_of(model).vision.parameters())


def _load_weights(source: str, config: ModelConfig, attention: str) -> Any:
    model_class = load_family(config).model_class()
    try:
        model, report = model_class.from_pretrained(
            source,
            **_origin(config),
            dtype=getattr(torch, config.dtype),
            attn_implementation=best_attention() if attention == "auto" else attention,
            use_safetensors=True,
            output_loading_info=True,
        )
    except ImportError as error:
        raise ModelError(f"hardware.attention={attention}: {_first_line(error)}") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"model.path={source}: {_first_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"model.path={source}: {len(missing)} weights are missing, {missing[0]} first; the "
            "checkpoint is incomplete"
        )
    return model


def _check_finite(model: torch.nn.Module, source: str, config: ModelConfig) -> None:
    broken = non_finite_weights(model)
    if broken:
        raise ModelError(
            f"model.path={source}: {len(broken)} weights hold NaN or infinity as {config.dtype}, "
            f"{broken[0]} first; take another checkpoint"
            f"{', or model.dtype=float32' if config.dtype == 'float16' else ''}"
        )


def _origin(config: ModelConfig) -> dict[str, Any]:
    """Which revision, and whether the hub is asked for it.

    Without a hub the libraries ask again for every file, for minutes; the local cache is looked at
    at once.
    """
    away = not Path(_source(config)).is_dir() and hub_is_away()
    return {"revision": config.revision, "local_files_only": away}


@functools.cache
def hub_is_away() -> bool:
    """Whether no connection to the hub can be made; asked once in a process."""
    if urllib.request.getproxies():
        return False  # a proxy knows names and ways that this machine does not
    hub = urlsplit(huggingface_hub.constants.ENDPOINT)
    port = hub.port or (443 if hub.scheme == "https" else 80)
    try:
        socket.create_connection((hub.hostname, port), timeout=10).close()
    except OSError:
        return True
    return False


def _source(config: ModelConfig) -> str:
    return str(tiny_policy_folder()) if config.path is None else config.path


def _add_adapters(model: Any, config: LoraConfig) -> torch.nn.Module:
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    return get_peft_model(
        model,
        PeftLoraConfig(
            r=config.rank,
            lora_alpha=int(config.alpha) if config.alpha.is_integer() else config.alpha,
            lora_dropout=config.dropout,
            target_modules=family_of(model).adapter_targets(config.target_modules),
        ),
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
