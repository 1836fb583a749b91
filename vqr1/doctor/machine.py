"""The machine: processor, memory, GPUs, disks, and which machine profiles fit.

Whether a profile fits is decided by the same functions that refuse it when a command starts, and
its memory by the planner (`vqr1.planning`), without loading anything.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from torch import Tensor

from vqr1.config import HardwareConfig, TrainConfig, config_dir
from vqr1.data.demo import default_cache_dir
from vqr1.distributed.hardware import Machine, hardware_problems
from vqr1.doctor.finding import Finding
from vqr1.planning.memory import plan_memory
from vqr1.planning.shape import read_shape, share_of_work
from vqr1.policy.cpu_linear import fast_product
from vqr1.processor import processor

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")
"""Instruction sets that decide how fast a CPU multiplies matrices, as Linux names them."""

MODELS = ("tiny", "qwen2_5_vl_3b", "qwen2_5_vl_7b")
"""Models whose training is planned."""

LIBRARIES = 0.8e9
"""Bytes of a training process before it loads a model; `vqr1 plan` measures them."""

LOW_DISK = 5e9
"""Free bytes below which a disk is too small for a run and its checkpoints."""

Load = Callable[[Sequence[str]], TrainConfig]


def processor_finding() -> Finding:
    """Cores, memory and instruction sets."""
    usable = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else 0
    memory = psutil.virtual_memory()
    flags, _, name = processor()
    sets = [one for one in INSTRUCTIONS if one in flags]
    return Finding(
        "CPU",
        f"{name}, {usable or os.cpu_count()} usable cores, {memory.available / 1e9:.0f} of "
        f"{memory.total / 1e9:.0f} GB memory free" + (f", {' '.join(sets)}" if sets else ""),
    )


def bfloat16_finding(machine: Machine) -> Finding:
    """Which precision is faster on this processor: products like those of a small model, timed."""
    if not machine.cpu_bfloat16:
        return Finding("CPU bfloat16", "no instructions for it: hardware=cpu", "absent")
    rows, weight = torch.randn(1024, 576), torch.randn(1536, 576)
    times = [_seconds(rows.to(kind), weight.to(kind)) for kind in (torch.float32, torch.bfloat16)]
    gain = times[0] / times[1]
    better = "cpu_bf16" if gain > 1 else "cpu"
    text = f"a matrix product is {gain:.1f} x as fast as in float32: hardware={better}"
    return Finding("CPU bfloat16", text)


def _seconds(rows: Tensor, weight: Tensor) -> float:
    """Median time of a product in a quarter of a second."""
    times: list[float] = []
    with torch.no_grad():
        fast_product(rows, weight)
        while sum(times) < 0.25:
            begun = time.perf_counter()
            fast_product(rows, weight)
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def gpu_findings(machine: Machine) -> Iterator[Finding]:
    """Each CUDA device; or why there is none."""
    if machine.gpus == 0:
        built = torch.version.cuda
        text = (
            f"none that PyTorch (built for CUDA {built}) can use"
            if built
            else f"none: PyTorch {torch.__version__} is a build for CPUs"
        )
        yield Finding("GPU", text, "absent")
        return
    for number in range(machine.gpus):
        device = torch.cuda.get_device_properties(number)
        yield Finding(
            "GPU",
            f"{number}: {device.name}, {device.total_memory / 1e9:.0f} GB, compute capability "
            f"{device.major}.{device.minor}, CUDA {torch.version.cuda}, bfloat16 "
            f"{'yes' if machine.bfloat16 else 'no'}, flash attention "
            f"{'yes' if machine.flash_attention_2 or machine.flash_attention_3 else 'no'}",
        )


def disk_findings() -> Iterator[Finding]:
    """Room for runs and in the caches; whether it can be written to."""
    for topic, folder in (
        ("runs", Path.cwd()),
        ("hub cache", Path(HF_HUB_CACHE)),
        ("vqr1 cache", default_cache_dir()),
    ):
        there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
        free = shutil.disk_usage(there).free
        text = f"{folder}: {free / 1e9:,.0f} GB free"
        if not os.access(there, os.W_OK):
            yield Finding(topic, f"{text}, not writable", "absent", "choose another folder")
        elif free < LOW_DISK:
            yield Finding(topic, f"{text}, little for checkpoints", "absent", "make room")
        else:
            yield Finding(topic, text)


def profiles() -> list[str]:
    """Names of the machine profiles of `conf/hardware`."""
    return sorted(path.stem for path in (config_dir() / "hardware").glob("*.yaml"))


def profile_findings(machine: Machine, load: Load) -> Iterator[Finding]:
    """Which profiles can start here, with the models whose training fits; why others cannot.

    Args:
        machine: this one.
        load: composes and validates a training's configuration from overrides.
    """
    refused: dict[str, list[str]] = {}
    for name in profiles():
        config = load([f"hardware={name}"])
        problems = _start_problems(config.hardware, machine)
        if problems:
            refused.setdefault(problems[0], []).append(name)
            continue
        plans = [_planned(model, load([f"hardware={name}", f"model={model}"])) for model in MODELS]
        yield Finding("can train", f"hardware={name}: {', '.join(plans)}")
    for problem, names in refused.items():
        yield Finding("cannot", f"{', '.join(names)}: {problem}", "absent")


def _start_problems(hardware: HardwareConfig, machine: Machine) -> list[str]:
    if hardware.nodes > 1:
        return [f"hardware.nodes={hardware.nodes}: several machines, started by torchrun or srun"]
    return hardware_problems(hardware, machine)


def _planned(model: str, config: TrainConfig) -> str:
    """Such as `tiny 1 GB` or `qwen2_5_vl_7b TOO LARGE (130 GB)`, of a device or of this machine."""
    shape = read_shape(config.model)
    plan = plan_memory(config, shape, share_of_work(config, shape), process=LIBRARIES)
    if config.hardware.accelerator == "gpu":
        room, need = torch.cuda.get_device_properties(0).total_memory, plan.peak
    else:
        room = psutil.virtual_memory().total
        need = plan.peak * config.hardware.devices
    size = f"{need / 1e9:,.1f} GB"
    return f"{model} {size}" if need < room else f"{model} TOO LARGE ({size})"
