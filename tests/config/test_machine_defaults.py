"""`hardware=auto` is the profile of one process that fits the machine, and a run keeps it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.cli.test_configs import train_config
from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import machine_defaults
from vqr1.errors import ConfigError


@pytest.mark.parametrize(
    ("gpu", "instructions", "profile"),
    [(True, False, "1gpu"), (False, True, "cpu_bf16"), (False, False, "cpu")],
)
def test_auto_has_every_value_of_the_profile_that_fits(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, instructions: bool, profile: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(machine_defaults, "multiplies_bfloat16", lambda: instructions)
    found = train_config("hardware=auto").hardware
    assert dataclasses.asdict(found) == dataclasses.asdict(
        train_config(f"hardware={profile}").hardware
    )


def test_resolved_values_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_defaults, "one_process_profile", lambda: "cpu_bf16")
    values = plain_values(compose_config("train", ["hardware=auto", "run_dir=x"]))
    monkeypatch.setattr(machine_defaults, "one_process_profile", lambda: "cpu")
    assert values["hardware"]["precision"] == "bf16-mixed"


def test_a_key_that_no_profile_has() -> None:
    with pytest.raises(ConfigError, match=r"machine_default:speed.*accelerator.*precision"):
        machine_defaults.value_of("cpu_bf16", "speed")
