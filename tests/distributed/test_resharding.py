"""A model of 100 million weights, saved by two ranks and resumed by four; no rank has it all."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers import Qwen2_5_VLForConditionalGeneration

from tests.support.tiny_models import tiny_config
from tools.faults.forked import run_ranks
from vqr1.config import OptimizerConfig
from vqr1.distributed.sharding import FullySharded
from vqr1.policy.sharded_modules import sharded_modules
from vqr1.training.callbacks.checkpoints import AtomicCheckpointIO
from vqr1.training.checkpoint_files import load_checkpoint, newest_intact, step_name
from vqr1.training.schedule import adamw
from vqr1.training.strategy import ConnectedEnvironment, ShardedStrategy

pytestmark = pytest.mark.slow

HIDDEN, LAYERS, VOCABULARY = 768, 15, 16000
EMBEDDING = 4 * VOCABULARY * HIDDEN
"""Bytes of the embedding, and of the head: both stay full on every rank."""
WIDEST = 4 * 2 * HIDDEN * HIDDEN
"""Bytes of the largest weight that is sharded."""


class Sizes(TorchDispatchMode):
    """Bytes of every tensor that an operation makes on this rank."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        result = function(*args, **(kwargs or {}))
        for value in tree_flatten(result)[0]:
            if isinstance(value, Tensor):
                self.found.add(local(value).nbytes)
        return result


def local(value: Tensor) -> Tensor:
    return value._local_tensor if isinstance(value, DTensor) else value


def begun(world: int) -> tuple[ShardedStrategy, nn.Module, Any]:
    """A strategy as Lightning sets it up, a sharded model without numbers, and its optimiser."""
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(
            tiny_config(
                hidden=HIDDEN, layers=LAYERS, heads=12, kv_heads=4, vocabulary=VOCABULARY
            )
        )  # fmt: skip
    assert 100e6 < sum(weight.numel() for weight in model.parameters()) < 105e6
    strategy = ShardedStrategy(half_passes=False)
    strategy.parallel_devices = [torch.device("cpu")] * world
    strategy.cluster_environment = ConnectedEnvironment()
    strategy.checkpoint_io = AtomicCheckpointIO()
    holder: Any = nn.Module()
    holder.model = model
    strategy._lightning_module = holder
    torch.distributed.init_device_mesh("cpu", (world,))
    FullySharded(sharded_modules(model), half_passes=False)
    model.to_empty(device="cpu")
    optimizer, _ = adamw(model, OptimizerConfig(lr=1e-3), 10)
    strategy.optimizers = [optimizer]
    return strategy, holder, optimizer


def numbers(model: nn.Module, optimizer: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """What this rank holds of every tensor, and what it shall be: a function of its place."""
    # Repeats after a prime number of places, so that no shard begins as another does.
    pattern = torch.arange(4093.0).repeat(VOCABULARY * HIDDEN // 4093 + 2)
    for i, (name, weight) in enumerate(model.state_dict().items()):
        state = optimizer.state.get(dict(model.named_parameters()).get(name), {})
        for j, value in enumerate((weight, *state.values())):
            offset = 0
            if isinstance(value, DTensor):
                _, start = compute_local_shape_and_global_offset(
                    value.shape, value.device_mesh, value.placements
                )
                offset = start[0] * math.prod(value.shape[1:])
            held = local(value)
            places = pattern[offset % 4093 :][: held.numel()]
            yield held, (places + (7 * i + j)).view_as(held)


def save(world: int, folder: Path) -> None:
    strategy, holder, optimizer = begun(world)
    for weight in holder.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad()
    for held, expected in numbers(holder, optimizer):
        held.copy_(expected)
    with Sizes() as sizes:
        for kind, more in (("best", {}), ("step", optimizer_states(strategy, optimizer))):
            content = {"global_step": 3, "state_dict": strategy.lightning_module_state_dict()}
            strategy.save_checkpoint(content | more, folder / step_name(kind, 3))
    check_sizes(sizes, holder, world)


def optimizer_states(strategy: ShardedStrategy, optimizer: Any) -> dict[str, Any]:
    return {"optimizer_states": [strategy.optimizer_state(optimizer)]}


def check_sizes(sizes: Sizes, model: nn.Module, world: int) -> None:
    """Embedding and head are full; of everything else no rank sees more than one of two has."""
    held = {local(weight).nbytes for weight in model.state_dict().values()}
    assert max(held) == max(sizes.found) == EMBEDDING
    assert max(held - {EMBEDDING}) == WIDEST // world
    assert max(sizes.found - {EMBEDDING}) == WIDEST // 2


def load(world: int, folder: Path) -> None:
    assert newest_intact(folder, "step") == folder / step_name("step", 3)
    strategy, holder, optimizer = begun(world)
    with Sizes() as sizes:
        content = strategy.load_checkpoint(folder / step_name("step", 3))
        strategy.load_model_state_dict(content)
        strategy.load_optimizer_state_dict(content)
    check_sizes(sizes, holder, world)
    compared = 0
    for held, expected in numbers(holder, optimizer):
        assert torch.equal(held, expected)
        compared += 1
    trained = sum(1 for _ in holder.parameters())
    assert compared == len(holder.state_dict()) + 3 * trained


def rank(number: int, port: int, world: int, folder: str, task: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(number),
        "LOCAL_RANK": str(number), "WORLD_SIZE": str(world),
    }  # fmt: skip
    torch.distributed.init_process_group("gloo")
    with torch.no_grad():
        {"save": save, "load": load}[task](world, Path(folder))
    torch.distributed.destroy_process_group()


def in_ranks(world: int, folder: Path, task: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_ranks(rank, (port, world, str(folder), task), world)


def test_two_ranks_save_and_four_resume(tmp_path: Path) -> None:
    in_ranks(2, tmp_path, "save")
    # The best weights are those of the step: written once, by both ranks alike.
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        "weights_00000003", "state_00000003",
    }  # fmt: skip
    best = load_checkpoint(tmp_path / step_name("best", 3), mapped=True)["state_dict"]
    assert sum(math.prod(stored.shape) for stored in best.values()) > 100e6
    sizes = [
        sum(path.stat().st_size for path in tmp_path.glob(f"*/rank_{number:05d}_of_00002*"))
        for number in (0, 1)
    ]
    assert sum(sizes) > 12 * 100e6
    assert max(sizes) < 1.1 * min(sizes)
    in_ranks(4, tmp_path, "load")
