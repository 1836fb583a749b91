"""Values of `hardware=auto`: those of the profile of one process that fits this machine.

`${machine_default:KEY}` is the value of KEY in `conf/hardware/1gpu.yaml`, `cpu_bf16.yaml` or
`cpu.yaml`. It is read when a configuration is resolved, so that a run's record holds plain values
and a resumed run keeps those that it began with.

Not here: whether a machine has what a profile asks for (`vqr1.distributed.hardware`).
"""

from __future__ import annotations

from functools import cache
from typing import Any

from omegaconf import OmegaConf

from vqr1.config.folder import config_dir
from vqr1.errors import ConfigError
from vqr1.processor import multiplies_bfloat16

RESOLVER = "machine_default"


def one_process_profile() -> str:
    """The profile of one process to run here: a GPU's, else the CPU's in the faster precision.

    By the processor's instructions, not by timing them, so that two runs on one machine cannot
    differ (`vqr1 doctor` times both).
    """
    import torch  # a second; only where a configuration asks

    if torch.cuda.is_available():
        return "1gpu"
    return "cpu_bf16" if multiplies_bfloat16() else "cpu"


def value_of(profile: str, key: str) -> Any:
    """A profile's value, its own or of the profile that it extends.

    Raises:
        ConfigError: it has none.
    """
    values = _values(profile)
    if key not in values:
        raise ConfigError([f"${{{RESOLVER}:{key}}}: a profile has {', '.join(sorted(values))}"])
    return values[key]


def resolve(key: str) -> Any:
    """The interpolation's value.

    Raises:
        ConfigError: a profile has no such key.
    """
    return value_of(one_process_profile(), key)


@cache
def _values(profile: str) -> dict[str, Any]:
    own = OmegaConf.to_container(OmegaConf.load(config_dir() / "hardware" / f"{profile}.yaml"))
    assert isinstance(own, dict)
    extended = [name for name in own.pop("defaults", []) if name != "_self_"]
    values: dict[str, Any] = {}
    for name in extended:
        values |= _values(name)
    return values | {str(key): value for key, value in own.items()}
