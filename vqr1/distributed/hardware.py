"""What a machine profile (`conf/hardware`) asks of a machine, and what this machine has.

Every profile either starts or states in one line what is missing and which profile fits.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch

from vqr1.config import HardwareConfig
from vqr1.distributed.cores import crowding_problems, usable_cores
from vqr1.processor import multiplies_bfloat16
from vqr1.program import installing


@dataclass(frozen=True)
class Machine:
    """What this machine has.

    Attributes:
        cores: processor cores that this process may use.
        gpus: CUDA devices that PyTorch sees.
        bfloat16: they compute in bfloat16.
        cpu_bfloat16: the processor has instructions for it.
        deepspeed: the package is installed.
        flash_attention_2: the kernels of flash-attn 2 can be used.
        flash_attention_3: those of flash-attn 3.
    """

    cores: int = 1
    gpus: int = 0
    bfloat16: bool = False
    cpu_bfloat16: bool = False
    deepspeed: bool = False
    flash_attention_2: bool = False
    flash_attention_3: bool = False


def this_machine() -> Machine:
    """Look."""
    deepspeed = importlib.util.find_spec("deepspeed") is not None
    cores, on_cpu = usable_cores(), multiplies_bfloat16()
    if not torch.cuda.is_available():
        return Machine(cores=cores, cpu_bfloat16=on_cpu, deepspeed=deepspeed)
    # transformers takes a second to import, and without a GPU neither kernel can be used.
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    return Machine(
        cores=cores,
        gpus=torch.cuda.device_count(),
        bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
        cpu_bfloat16=on_cpu,
        deepspeed=deepspeed,
        flash_attention_2=is_flash_attn_2_available(),
        flash_attention_3=is_flash_attn_3_available(),
    )


def fitting_profile(machine: Machine) -> str:
    """The profile to recommend on a machine."""
    if machine.gpus == 0:
        return "cpu"
    if machine.gpus == 1:
        return "1gpu"
    profile = "8gpu_zero3" if machine.deepspeed else "8gpu_fsdp2"
    return profile if machine.gpus == 8 else f"{profile} hardware.devices={machine.gpus}"


def hardware_problems(hardware: HardwareConfig, machine: Machine) -> list[str]:
    """Everything that a profile asks for and a machine has not, one line each.

    Args:
        hardware: the profile.
        machine: the machine that one of its nodes is.
    """
    fits = f"choose hardware={fitting_profile(machine)}"
    if hardware.accelerator == "gpu" and machine.gpus == 0:
        return [
            "hardware.accelerator=gpu: PyTorch finds no CUDA device on this machine; choose "
            "hardware=cpu"
        ]
    problems = crowding_problems(hardware, machine.cores)
    if hardware.accelerator == "gpu" and hardware.devices > machine.gpus:
        problems.append(
            f"hardware.devices={hardware.devices}: PyTorch finds {machine.gpus} CUDA "
            f"device{'s' * (machine.gpus != 1)} on this machine; {fits}"
        )
    if hardware.precision == "bf16-mixed":
        problems += _bfloat16_problems(hardware, machine)
    return problems + _package_problems(hardware, machine)


def _bfloat16_problems(hardware: HardwareConfig, machine: Machine) -> list[str]:
    on_gpu = hardware.accelerator == "gpu"
    if machine.bfloat16 if on_gpu else machine.cpu_bfloat16:
        return []
    why = (
        "this GPU does not compute in bfloat16"
        if on_gpu
        else "this processor has no instructions for bfloat16 (avx512_bf16, amx_bf16), without "
        "which it takes longer than float32"
    )
    return [f"hardware.precision=bf16-mixed: {why}; use hardware.precision=32-true"]


def _package_problems(hardware: HardwareConfig, machine: Machine) -> list[str]:
    problems = []
    name = hardware.attention
    if name.startswith("flash_attention") and not getattr(machine, name):
        problems.append(
            f"hardware.attention={name}: flash-attn {name[-1]} is not installed, or cannot be used "
            "on this device; use hardware.attention=auto, which takes what there is"
        )
    if hardware.strategy in ("zero2", "zero3") and not machine.deepspeed:
        profile = " (hardware=8gpu_fsdp2)" if hardware.accelerator == "gpu" else ""
        problems.append(
            f"hardware.strategy={hardware.strategy}: DeepSpeed is not installed; "
            f"{installing('deepspeed')}, or use hardware.strategy=fsdp2{profile}"
        )
    if hardware.offload and hardware.strategy != "zero3":
        problems.append(
            f"hardware.offload=true, hardware.strategy={hardware.strategy}: only zero3 keeps the "
            "optimiser in host memory; choose it, or hardware.offload=false"
        )
    return problems


def share_of_step(global_batch_size: int, processes: int) -> int | None:
    """Images of one process in a step of so many; None where they cannot be shared equally."""
    share, rest = divmod(global_batch_size, processes)
    return None if rest else share


def share_problem(global_batch_size: int, processes: int) -> str:
    """Why so many images cannot be shared, and how many can."""
    below = global_batch_size // processes * processes
    return (
        f"loader.global_batch_size={global_batch_size}: {processes} processes (hardware.devices x "
        f"hardware.nodes) cannot share it equally; use "
        f"{f'{below} or ' if below else ''}{below + processes}, or another number of processes"
    )
