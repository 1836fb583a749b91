"""A 7B model sharded by FSDP2 on the meta device: what a rank holds and writes, as planned."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.default_planner import create_default_local_save_plan
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from vqr1.cli.plan import load_train_config
from vqr1.config import ReferencePlace
from vqr1.distributed.sharding import FullySharded
from vqr1.planning.saved import plan_saved
from vqr1.planning.shape import read_shape
from vqr1.policy.loading import load_policy
from vqr1.policy.reference import FrozenCopy
from vqr1.policy.sharded_modules import sharded_modules
from vqr1.training.checkpoint_shards import take_tensors


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


@pytest.mark.parametrize("place", ["device", "sharded"])
def test_a_reference_that_moves_is_written_as_planned(place: ReferencePlace) -> None:
    keys = ["hardware=8gpu_fsdp2", "model.dtype=float32", f"hardware.reference={place}"]
    config = load_train_config([*keys, "grpo.reference_sync_every=10"])
    shape = read_shape(config.model)
    saved, still = plan_saved(config, shape), plan_saved(load_train_config(keys), shape)
    assert saved is not None
    assert still is not None
    model = load_policy(config.model).model
    weights = dict(model.named_parameters())
    content = {
        "state_dict": model.state_dict(keep_vars=True),
        "optimizer_states": [{"state": {
            name: {moment: torch.zeros_like(weight) for moment in ("exp_avg", "exp_avg_sq")}
            for name, weight in weights.items()
        }}],
        "reference": FrozenCopy(model, vision_frozen=False).state(),
    }  # fmt: skip
    _, taken = take_tensors(content, 10)
    written = [tensor.nbytes for folder in taken.values() for tensor in folder.values()]
    assert saved.total == sum(written)
    assert saved.total - still.total == 4 * shape.total
    # Of each weight an eighth, or the whole of it on one of the ranks.
    parts = [4 * w[0].numel() * math.ceil(len(w) / 8) for w in weights.values()]
    if place == "sharded":
        assert saved.rank - still.rank == sum(parts)
        assert saved.sharded == max(parts)
    else:
        assert saved.largest == max(4 * w.numel() for w in weights.values())
        assert saved.sharded == still.sharded


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
