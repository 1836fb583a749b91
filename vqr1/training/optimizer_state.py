"""Optimizer state that one `hardware.strategy` has saved, for another that a resumed run has.

AdamW's parameters are numbered group by group, and FSDP2 puts sharded and full weights into groups
of their own (`schedule.py`): between it and `auto` the numbers change, and nothing else.
DeepSpeed keeps flat shares of its ranks, which only the same stage and number of ranks can take.

Not here: the tensors, which the strategies shard as they load them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from torch import nn

from vqr1.config import HardwareConfig, OptimizerConfig
from vqr1.errors import ConfigError
from vqr1.policy.loading import trainable_parameters
from vqr1.policy.sharded_modules import sharded_modules
from vqr1.program import command_line, override
from vqr1.training.schedule import parameter_groups

Layout = list[list[int]]
"""Numbers of the trainable parameters, in the model's order, by group."""


def layout_problem(
    states: Sequence[Mapping[str, Any]], hardware: HardwareConfig, ranks: int, run_dir: Path
) -> str | None:
    """Why a run cannot resume with a checkpoint's optimizer state, in one line; None where it can.

    Args:
        states: the checkpoint's, one an optimiser.
        hardware: that the run would resume with.
        ranks: how many processes it has.
        run_dir: the run's folder.
    """
    shares = [state for state in states if "shares" in state]
    asked = hardware.strategy
    zero = asked.startswith("zero")
    if not shares and not zero:
        return None
    last = command_line("export", override("run", run_dir), "checkpoint=last")
    rest = f"resume with that, or begin a new run with its weights ({last}, then model.path=)"
    who = f"resume={run_dir}, hardware.strategy={asked}"
    if not shares:
        return (
            f"{who}: its optimizer state was saved by hardware.strategy=auto or fsdp2, which "
            f"DeepSpeed cannot take; {rest}"
        )
    # What was saved before the stage was noted is of the stage that the run began with.
    saved = f"zero{shares[0]['stage']}" if "stage" in shares[0] else asked if zero else "zero2 or 3"
    if saved != asked:
        return (
            f"{who}: its optimizer state was saved by hardware.strategy={saved}, in shares that "
            f"nothing else can take; {rest}"
        )
    count = len(shares[0]["shares"])
    if count != ranks:
        return (
            f"{who}: its optimizer state is in the shares of {count} processes, and there are "
            f"{ranks}; resume with {count} (hardware.devices, hardware.nodes)"
        )
    return None


def renumber(checkpoint: dict[str, Any], model: nn.Module, config: OptimizerConfig) -> None:
    """Number a checkpoint's optimizer state as the optimiser's own parameters are, in place.

    Args:
        checkpoint: as Lightning saves it; without optimizer state, or with DeepSpeed's, unchanged.
        model: the policy, sharded where it is to be.
        config: learning rates, which make groups too.

    Raises:
        ConfigError: it is of other parameters, or of other learning rates.
    """
    states = checkpoint.get("optimizer_states", [])
    if not states or "param_groups" not in states[0]:
        return
    (saved,) = states
    sizes = [len(group["params"]) for group in saved["param_groups"]]
    wanted = _layout(model, parameter_groups(model, config))
    if sizes == [len(group) for group in wanted]:
        return
    sharded = sharded_parameters(model)
    layouts = [
        _layout(model, parameter_groups(model, config, pieces.__contains__))
        for pieces in (sharded, frozenset[nn.Parameter]())
    ]
    for found in layouts:
        if sizes == [len(group) for group in found]:
            owners = _owners(found, wanted)
            checkpoint["optimizer_states"] = [_renumbered(saved, found, wanted, owners)]
            checkpoint["lr_schedulers"] = [
                {k: _by_group(value, owners) for k, value in schedule.items()}
                for schedule in checkpoint["lr_schedulers"]
            ]
            return
    raise ConfigError(
        [
            f"resume: the checkpoint's optimizer state is of groups of {sizes} weights, this run's "
            f"of {[len(group) for group in wanted]}; what trains must be as it was (model.lora, "
            "model.freeze_vision, optimizer.lr_connector), or start a new run"
        ]
    )


def sharded_parameters(model: nn.Module) -> frozenset[nn.Parameter]:
    """Those that FSDP2 shards, sharded or not yet."""
    parts = sharded_modules(model)
    return frozenset(p for part in parts for p in part.root.parameters() if p not in part.full)


def _layout(model: nn.Module, groups: Sequence[Mapping[str, Any]]) -> Layout:
    numbers = {id(p): number for number, p in enumerate(trainable_parameters(model))}
    return [[numbers[id(p)] for p in group["params"]] for group in groups]


def _owners(found: Layout, wanted: Layout) -> list[int]:
    """Which of the saved groups each wanted one takes its settings from."""
    return [next(i for i, own in enumerate(found) if group[0] in own) for group in wanted]


def _renumbered(
    saved: Mapping[str, Any], found: Layout, wanted: Layout, owners: Sequence[int]
) -> dict[str, Any]:
    places = {number: place for place, number in enumerate(chain.from_iterable(found))}
    order = [places[number] for number in chain.from_iterable(wanted)]
    state = {i: saved["state"][k] for i, k in enumerate(order) if k in saved["state"]}
    groups, first = [], 0
    for owner, group in zip(owners, wanted, strict=True):
        numbers = list(range(first, first + len(group)))
        groups.append({**saved["param_groups"][owner], "params": numbers})
        first += len(group)
    return {**saved, "state": state, "param_groups": groups}


def _by_group(value: Any, owners: Sequence[int]) -> Any:
    """A schedule's lists have an entry a group."""
    return [value[owner] for owner in owners] if isinstance(value, list) else value
