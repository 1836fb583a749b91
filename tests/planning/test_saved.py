"""A 7B model sharded by FSDP2 on the meta device: what a rank holds and writes, as planned."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.default_planner import create_default_local_save_plan
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from vqr1.cli.plan import load_train_config
from vqr1.distributed.sharding import FullySharded
from vqr1.planning.saved import plan_saved
from vqr1.planning.shape import read_shape
from vqr1.policy.sharded_modules import sharded_modules


@pytest.fixture
def first_of_eight() -> Iterator[None]:
    """This process as rank 0 of eight, of which the others are not there."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    yield
    dist.destroy_process_group()


@pytest.mark.medium
def test_7b_on_eight_ranks(first_of_eight: None) -> None:
    config = load_train_config(["model=qwen2_5_vl_7b", "hardware=8gpu_fsdp2"])
    shape = read_shape(config.model)
    saved = plan_saved(config, shape)
    assert saved is not None
    with torch.device("meta"):
        model = shape.family.model_class()(shape.config)
    FullySharded(sharded_modules(model), half_passes=True)
    weights = dict(model.named_parameters())
    states = {
        f"{name}.{moment}": torch.zeros_like(weight)
        for name, weight in weights.items()
        for moment in ("exp_avg", "exp_avg_sq")
    }
    plans = [create_default_local_save_plan(part, True) for part in (weights, states)]
    sharded, full = [], []
    for item in plans[0].items + plans[1].items:
        tensor = {**weights, **states}[item.index.fqn]
        assert item.tensor_data is not None
        written = 4 * item.tensor_data.chunk.sizes.numel()
        # What is written is what the rank holds, never more.
        held = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        assert written == held.nbytes
        (sharded if isinstance(tensor, DTensor) else full).append(written)
    # Embedding and head, 152,064 x 3,584 in float32: 2.2 GB, and nothing else of such a size.
    ends = 4 * 152064 * 3584
    assert full == [ends] * 6
    assert saved.largest == max(full + sharded) == ends
    # Of everything that is sharded an eighth of the widest: 18,944 x 3,584.
    assert saved.sharded == max(sharded) == 4 * 18944 * 3584 // 8
    # Six full tensors for eight ranks: one each, beside the shards.
    assert saved.rank == sum(sharded) + ends
    assert saved.total == 12 * shape.total
    assert saved.rank < 0.15 * saved.total
    assert plan_saved(load_train_config(["hardware=cpu"]), shape) is None


@pytest.mark.medium
def test_of_a_frozen_tower_no_optimizer_state_is_written() -> None:
    keys = ["model=qwen2_5_vl_3b", "hardware=8gpu_fsdp2", "model.freeze_vision=tower"]
    config = load_train_config(keys)
    shape = read_shape(config.model)
    saved = plan_saved(config, shape)
    assert saved is not None
    # Weights and two states of 4 bytes each; of the tower, which is `vision` less its merger, one.
    assert saved.total == 12 * shape.total - 8 * (shape.vision - shape.connector)
    adapted = load_train_config([*keys, "model.lora={}"])
    shape = read_shape(adapted.model)
    saved = plan_saved(adapted, shape)
    assert saved is not None
    # The projector trains beside the adapters.
    assert saved.total == 4 * shape.total + 8 * shape.connector + 12 * shape.adapters
