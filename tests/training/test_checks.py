"""Machine profiles: each fits some machine, and states in one line where it does not."""

from __future__ import annotations

import pytest

from tests.cli.test_configs import choices, train_config
from vqr1.distributed.hardware import Machine, fitting_profile, hardware_problems
from vqr1.errors import ConfigError
from vqr1.rewards.build import build_rewards
from vqr1.training.checks import check_training

CPU = Machine()
ONE = Machine(gpus=1, bfloat16=True)
EIGHT = Machine(
    gpus=8, bfloat16=True, deepspeed=True, flash_attention_2=True, flash_attention_3=True
)


@pytest.mark.parametrize("name", choices("hardware"))
def test_every_profile_fits_a_machine_or_states_in_one_line_why_not(name: str) -> None:
    hardware = train_config(f"hardware={name}").hardware
    fitting = CPU if name.startswith("cpu") else EIGHT
    assert hardware_problems(hardware, fitting) == []
    for machine in (CPU, ONE, EIGHT):
        problems = hardware_problems(hardware, machine)
        assert len(problems) <= 2
        assert all("\n" not in line and "hardware" in line for line in problems)
    if not name.startswith("cpu"):
        assert hardware_problems(hardware, CPU) == [
            "hardware.accelerator=gpu: PyTorch finds no CUDA device on this machine; choose "
            "hardware=cpu"
        ]
    if hardware.devices == 8:
        assert hardware_problems(hardware, ONE)[0] == (
            "hardware.devices=8: PyTorch finds 1 CUDA device on this machine; choose hardware=1gpu"
        )


def test_what_is_missing_is_named_with_what_to_use_instead() -> None:
    assert fitting_profile(CPU) == "cpu"
    assert fitting_profile(EIGHT) == "8gpu_zero3"
    assert fitting_profile(Machine(gpus=4)) == "8gpu_fsdp2 hardware.devices=4"
    old = Machine(gpus=8)
    zero = train_config("hardware=8gpu_zero2", "hardware.attention=flash_attention_2").hardware
    assert [line.partition(":")[0] for line in hardware_problems(zero, old)] == [
        "hardware.precision=bf16-mixed", "hardware.attention=flash_attention_2",
        "hardware.strategy=zero2",
    ]  # fmt: skip
    assert hardware_problems(zero, old)[2].endswith("strategy=fsdp2 (hardware=8gpu_fsdp2)")
    # A CPU refuses the profiles of GPUs.
    divided = train_config("hardware=cpu_2procs", "hardware.strategy=zero3").hardware
    assert hardware_problems(divided, CPU)[0].endswith("or use hardware.strategy=fsdp2")
    whole = train_config("hardware=1gpu", "hardware.offload=true").hardware
    (line,) = hardware_problems(whole, ONE)
    assert line.startswith("hardware.offload=true, hardware.strategy=auto: only zero3")


def test_adapters_come_with_their_profile() -> None:
    config = train_config("hardware=1gpu_lora", "model=qwen2_5_vl_7b")
    assert config.model.lora is not None
    assert config.model.dtype == "bfloat16"
    assert train_config("hardware=1gpu").model.lora is None


def test_a_step_that_the_processes_cannot_share() -> None:
    config = train_config("hardware=cpu_2procs", "loader.global_batch_size=9")
    with pytest.raises(ConfigError) as caught:
        check_training(config, build_rewards(config.reward))
    assert caught.value.problems == [
        "loader.global_batch_size=9: 2 processes (hardware.devices x hardware.nodes) cannot share "
        "it equally; use 8 or 10, or another number of processes"
    ]
