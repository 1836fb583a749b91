"""Weights of 4 bits under adapters (QLoRA, arXiv 2305.14314), by transformers' own library.

The text model's linear layers hold NF4 codes and their scales; tower, connector, embedding and head
stay in `model.dtype`. A product casts the weights of its layer to bfloat16 for its length.

Not here: adapters (`adapters.py`); merging them into weights of full precision (`export.py`).
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from vqr1.config import HardwareConfig, ModelConfig, RolloutConfig
from vqr1.policy.families import Family
from vqr1.program import installing

BYTES = 0.5 + 0.127 / 8
"""Of a weight: 4 bits, and 8-bit scales of 64 weights whose own scales are of 256."""


def quantization_problems(
    model: ModelConfig, hardware: HardwareConfig, *, trains: bool
) -> list[str]:
    """Why weights cannot be of 4 bits here, in at most one line.

    Args:
        model: the model.
        hardware: where its passes run.
        trains: it is trained.
    """
    if model.quantization is None:
        return []
    who = f"model.quantization={model.quantization}"
    if importlib.util.find_spec("bitsandbytes") is None:
        return [
            f"{who}: bitsandbytes is not installed; {installing('bitsandbytes')}, or use "
            "model.quantization=null"
        ]
    if hardware.accelerator != "gpu" or hardware.strategy != "auto":
        return [
            f"{who}, hardware.accelerator={hardware.accelerator}, hardware.strategy="
            f"{hardware.strategy}: its kernels are a GPU's, and the weights are not sharded; use "
            "hardware=1gpu_lora, or model.quantization=null"
        ]
    if trains and model.lora is None:
        return [
            f"{who}, model.lora=null: weights of 4 bits do not train; use adapters "
            "(hardware=1gpu_lora)"
        ]
    return []


def rollout_problems(model: ModelConfig, rollout: RolloutConfig) -> list[str]:
    """Why a sampling engine cannot be given weights of 4 bits, in at most one line.

    Args:
        model: the model.
        rollout: what samples its responses.
    """
    merged = rollout.engine == "vllm_server" and rollout.server.weights == "merged"
    if model.quantization is None or not (merged or rollout.engine == "vllm_colocated"):
        return []
    engine = f"rollout.engine={rollout.engine}"
    return [
        f"model.quantization={model.quantization}, {engine}"
        f"{', rollout.server.weights=merged' if merged else ''}: vLLM is given all weights, and "
        "adapters cannot be added to codes of 4 bits; use rollout=local, rollout=vllm_server with "
        "rollout.server.weights=adapter, or model.quantization=null"
    ]


def kept_modules(own: Family, config: Any) -> list[str]:
    """Names of the modules that stay as they are: all but the text model's blocks.

    Args:
        own: the family.
        config: the model's configuration.
    """
    with torch.device("meta"):
        model = own.model_class()(config)
    parts = own.parts(model)
    blocks = {id(module) for module in parts.text_layers.modules()}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and id(module) not in blocks
    ]


def loading_arguments(model: ModelConfig, own: Family, config: Any, device: Any) -> dict[str, Any]:
    """What `from_pretrained` is given for weights of 4 bits; nothing without them."""
    if model.quantization is None:
        return {}
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=model.quantization,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=kept_modules(own, config),
        ),
        # The codes are made on the device.
        "device_map": {"": device},
    }
