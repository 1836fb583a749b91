"""Dry runs of small shapes of all families, as JSON; a process of its own.

The device that they register stays registered in PyTorch.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from vqr1.cli.plan import load_train_config
from vqr1.config import TrainConfig
from vqr1.planning.fake_device import fake_device, on_device
from vqr1.planning.memory import plan_memory
from vqr1.planning.shape import ModelShape, read_shape, shape_of, share_of_work
from vqr1.policy.families import FAMILIES, family
from vqr1.policy.prompts import resize_rule
from vqr1.training.dry_run import dry_run
from vqr1.training.dry_run_report import PHASES

STEP = [
    "rollout=paper", "loader.batch_size=2", "rollout.sampling.max_new_tokens=24",
    # Every family's images are within them.
    "model.min_pixels=3136", "model.max_pixels=4194304",
]  # fmt: skip
SIZE = (448, 336)

RUNS = {
    **{name: (name, ["hardware=1gpu"]) for name in FAMILIES},
    "adapters": ("qwen2_5_vl", ["hardware=1gpu_lora"]),
    "adapters of qwen3_vl": (
        "qwen3_vl",
        ["hardware=1gpu_lora", "hardware.gradient_checkpointing=true"],
    ),
    "frozen tower, reference on the host": (
        "qwen2_5_vl",
        ["hardware=1gpu", "model.freeze_vision=true", "hardware.reference=host"],
    ),
    "one of eight": ("qwen2_5_vl", ["hardware=8gpu_fsdp2"]),
    # Keys of two responses at their limit, of one image: a turn each.
    "two turns": ("qwen2_5_vl", ["hardware=1gpu", "rollout.micro_batch_tokens=400"]),
    "all in float32": ("qwen2_5_vl", ["hardware=1gpu", "hardware.precision=32-true"]),
}


REAL = {
    "7b": ["model=qwen2_5_vl_7b", "hardware=1gpu_lora", "loader.batch_size=2"],
    "8b": ["model=qwen3_vl_8b", "hardware=1gpu_lora", "loader.batch_size=2"],
    "3b": ["model=qwen2_5_vl_3b", "hardware=1gpu", "loader.batch_size=4"],
    "3b, 16 images": ["model=qwen2_5_vl_3b", "hardware=1gpu", "loader.batch_size=16"],
    "one of eight, 7b": [
        "model=qwen2_5_vl_7b", "hardware=8gpu_fsdp2", "loader.batch_size=16",
        "rollout.sampling.max_new_tokens=256",
    ],
}  # fmt: skip
"""Models as they are released, at responses of 64 tokens: half a minute of a core each, or more."""
REAL_STEP = ("rollout=paper", "rollout.sampling.max_new_tokens=64")
REAL_SIZE = (504, 392)


def run(name: str) -> dict[str, Any]:
    if name in REAL:
        config = load_train_config([*REAL_STEP, *REAL[name]])
        return taken(config, read_shape(config.model), REAL_SIZE)
    model_type, keys = RUNS[name]
    own = family(model_type, "a test")
    if own.missing_library() is not None:
        return {}
    config = load_train_config(["model=qwen2_5_vl_3b", *STEP, *keys])
    shape = shape_of(own, own.shape_config(own.shapes[0]), config.model.lora)
    return taken(config, shape, SIZE)


def taken(config: TrainConfig, shape: ModelShape, size: tuple[int, int]) -> dict[str, Any]:
    """A step of a shape, beside its plan."""
    rule = resize_rule(shape.family, None, config.model.min_pixels, config.model.max_pixels)
    work = share_of_work(config, shape, size)
    found = dry_run(config, shape, work, rule, size)
    plan = plan_memory(config, shape, work, process=0.0)
    planned = {
        phase: sum(value for key, value in terms.items() if key != "process")
        for phase, terms in plan.phases.items()
    }
    planned["update"] = max(planned["update"], planned.pop("tower's update", 0.0))
    return {
        "phases": {
            phase: {**vars(counts), "waits": counts.waits, "traffic": counts.traffic}
            for phase, counts in found.phases.items()
        },
        "peaks": {phase: found.peak(phase) for phase in PHASES},
        "planned": planned,
        "exchanged": {name: phase.bytes["exchange"] for name, phase in found.phases.items()},
        "weights": {name: getattr(shape, name) for name in ("text", "embedding", "head", "vision")},
        "tokens": found.tokens,
        "captures": found.captures,
        "layers": found.layers,
        "text_bytes": 2 * (shape.text + (shape.head or shape.embedding)),
    }


def device() -> dict[str, Any]:
    """What a few lines ask of the device."""
    with fake_device() as found:
        layer = on_device(torch.nn.Linear(8, 16, device="meta"))
        rows = torch.zeros(4, 8).to("fake")
        with torch.autocast("fake", dtype=torch.bfloat16):
            out = layer(rows)
        out.float().sum().backward()
        numbers = torch.tensor([3, 1, 2], device="fake")
        known = (numbers * 2)[numbers > 1].tolist()
        layer(torch.zeros(4, 8))
        phase = found.counts.phases["setup"]
        types = [str(out.dtype), str(layer.weight.grad.dtype)]
    return {"known": known, "types": types, **vars(phase)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or [*RUNS, "device"]
    print(json.dumps({name: device() if name == "device" else run(name) for name in wanted}))
