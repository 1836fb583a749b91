"""A run that resumes with another `hardware.strategy`: its optimizer state, or one clear line."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.test_processes import SMALL
from tests.support.commands import Training, check_close, run
from tests.support.tiny_models import tiny_model
from vqr1.config import HardwareConfig, OptimizerConfig
from vqr1.distributed.sharding import FullySharded, full_tensor
from vqr1.errors import ConfigError
from vqr1.policy.sharded_modules import sharded_modules
from vqr1.training.optimizer_state import layout_problem, renumber, sharded_parameters
from vqr1.training.schedule import adamw, parameter_groups
from vqr1.training.strategy import ConnectedEnvironment, ShardedStrategy

TORCH: list[dict[str, Any]] = [{"state": {}, "param_groups": []}]


def zero(stage: int, ranks: int) -> list[dict[str, Any]]:
    return [{"stage": stage, "shares": [[]] * ranks, "lr": [0.1]}]


@pytest.mark.parametrize(
    ("states", "strategy", "ranks", "printed"),
    [
        (TORCH, "auto", 1, None),
        (TORCH, "fsdp2", 8, None),
        ([], "fsdp2", 8, None),
        (zero(3, 8), "zero3", 8, None),
        # Saved before the stage was noted.
        ([{"shares": [[]], "lr": [0.1]}], "zero2", 1, None),
        (TORCH, "zero3", 8, "was saved by hardware.strategy=auto or fsdp2, which DeepSpeed cannot"),
        (zero(3, 8), "zero2", 8, "was saved by hardware.strategy=zero3, in shares that nothing"),
        (zero(3, 8), "auto", 1, "was saved by hardware.strategy=zero3, in shares that nothing"),
        ([{"shares": [[]], "lr": [0.1]}], "auto", 1, "saved by hardware.strategy=zero2 or 3"),
        (zero(2, 8), "zero2", 4, "shares of 8 processes, and there are 4; resume with 8"),
    ],
)
def test_what_cannot_be_taken_is_one_line(
    states: list[dict[str, Any]], strategy: str, ranks: int, printed: str | None
) -> None:
    hardware = HardwareConfig(accelerator="cpu", strategy=strategy)  # type: ignore[arg-type]
    found = layout_problem(states, hardware, ranks, Path("runs/a"))
    if printed is None:
        assert found is None
    else:
        assert found is not None
        assert printed in found
        assert "\n" not in found
        assert found.startswith(f"resume=runs/a, hardware.strategy={strategy}: ")


@pytest.mark.parametrize("connector", [None, 1e-5])
def test_sharded_runs_number_their_parameters_otherwise(connector: float | None) -> None:
    model = tiny_model()
    config = OptimizerConfig(lr=1e-3, lr_connector=connector)
    optimizer, schedule = adamw(model, config, 10)
    for number, weight in enumerate(model.parameters()):
        weight.grad = torch.full_like(weight, float(number + 1))
    optimizer.step()
    whole = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [schedule.state_dict()]}
    as_it_was = {**whole}
    renumber(as_it_was, model, config)
    assert as_it_was == whole

    # The same as FSDP2's optimiser saves it: sharded weights first.
    pieces = sharded_parameters(model)
    assert 0 < len(pieces) < len(list(model.parameters()))
    groups = parameter_groups(model, config, pieces.__contains__)
    assert len(groups) == (2 if connector is None else 3)
    other = torch.optim.AdamW(groups)
    for weight, values in optimizer.state.items():
        other.state[weight] = values
    saved: dict[str, Any] = {
        "optimizer_states": [other.state_dict()],
        "lr_schedulers": [{"base_lrs": [group["lr"] for group in groups], "last_epoch": 3}],
    }
    renumber(saved, model, config)
    (found,), (expected,) = saved["optimizer_states"], whole["optimizer_states"]
    assert [g["params"] for g in found["param_groups"]] == [
        g["params"] for g in expected["param_groups"]
    ]
    assert [g["lr"] for g in found["param_groups"]] == [1e-3, connector or 1e-3][
        : len(found["param_groups"])
    ]
    assert saved["lr_schedulers"][0] == {
        "base_lrs": [1e-3] if connector is None else [1e-3, connector], "last_epoch": 3,
    }  # fmt: skip
    assert found["state"].keys() == expected["state"].keys()
    for number, values in expected["state"].items():
        # The very tensors: of the first step each weight's state is that of its own gradient.
        assert found["state"][number]["exp_avg"] is values["exp_avg"]


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of one."""
    torch.distributed.init_process_group(
        "gloo", rank=0, world_size=1, store=torch.distributed.HashStore()
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("connector", [None, 1e-5])
def test_shards_take_the_state_of_full_weights(connector: float | None) -> None:
    config = OptimizerConfig(lr=1e-3, lr_connector=connector, warmup_steps=0)
    full, cut = tiny_model(), tiny_model()
    optimizer, schedule = adamw(full, config, 10)
    for number, weight in enumerate(full.parameters()):
        weight.grad = torch.full_like(weight, float(number + 1))
    optimizer.step()
    schedule.step()
    saved: dict[str, Any] = {
        "optimizer_states": [optimizer.state_dict()], "lr_schedulers": [schedule.state_dict()]
    }  # fmt: skip
    torch.distributed.init_device_mesh("cpu", (1,))
    FullySharded(sharded_modules(cut), half_passes=False)
    strategy = ShardedStrategy(half_passes=False)
    strategy.parallel_devices = [torch.device("cpu")]
    strategy.cluster_environment = ConnectedEnvironment()
    other, its_schedule = adamw(cut, config, 10)
    assert len(other.param_groups) > len(optimizer.param_groups)
    strategy.optimizers = [other]
    renumber(saved, cut, config)
    strategy.load_optimizer_state_dict(saved)
    its_schedule.load_state_dict(saved["lr_schedulers"][0])
    its_schedule.step()
    schedule.step()
    expected = dict(full.named_parameters())
    for name, weight in cut.named_parameters():
        for key in ("exp_avg", "exp_avg_sq", "step"):
            found = full_tensor(other.state[weight][key])
            assert torch.equal(found, optimizer.state[expected[name]][key]), (name, key)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    its_rates = {id(p): group["lr"] for group in other.param_groups for p in group["params"]}
    for name, weight in cut.named_parameters():
        assert its_rates[id(weight)] == rates[id(expected[name])], name


def test_state_of_other_weights_is_one_line() -> None:
    model = tiny_model()
    optimizer, _ = adamw(model, OptimizerConfig(lr=1e-3), 10)
    saved = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": []}
    count = len(optimizer.param_groups[0]["params"])
    with pytest.raises(ConfigError, match=rf"of groups of \[{count}\] weights, this run's of \["):
        renumber(saved, model, OptimizerConfig(lr=1e-3, lr_connector=1e-5))


@pytest.mark.slow
def test_one_process_then_shards_of_two_then_one_again(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    keys = (*SMALL, "max_steps=8", "logger=csv", "validation.test=false", "run_dir=run")
    run(tmp_path / "alone", *keys, "loader.batch_size=4")

    def saved() -> set[Path]:
        return set((tmp_path / "run/checkpoints").glob("step_*.ckpt"))

    def stopped(*arguments: str) -> None:
        earlier = saved()
        training = Training(tmp_path, *arguments)
        training.wait_for(lambda: bool(saved() - earlier))
        training.process.send_signal(signal.SIGTERM)
        assert training.wait() == 75, training.output

    stopped(*keys, "loader.batch_size=4")
    sharded = ("hardware.devices=2", "hardware.strategy=fsdp2", "loader.batch_size=2")
    stopped("resume=run", *sharded, "resume_force=true")
    whole = ("hardware.devices=1", "hardware.strategy=auto", "loader.batch_size=4")
    run(tmp_path, "resume=run", *whole, "resume_force=true")
    check_close(tmp_path / "run", tmp_path / "alone/run", 8)
