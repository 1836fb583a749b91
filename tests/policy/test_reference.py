"""The second set of weights: where it lies, and how it follows the policy."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.support.tiny_models import tiny_model
from tools.faults.forked import run_ranks
from vqr1.distributed.sharding import full_tensor
from vqr1.policy.reference import AdapterOff, FrozenCopy, make_reference
from vqr1.training.checkpoint_shards import put_back, take_tensors, tensor_of
from vqr1.training.strategy import write_folder


def test_there_is_none_without_a_kl_term() -> None:
    assert make_reference(tiny_model(), 0.0) is None
    reference = make_reference(tiny_model(), 0.04, place="host")
    assert isinstance(reference, FrozenCopy)
    assert not isinstance(reference, AdapterOff)


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
)  # fmt: skip
def test_a_copy_on_the_host_is_on_the_device_inside_its_block_only(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    model = tiny_model(seed=1).to(device)
    reference = FrozenCopy(model, vision_frozen=False, place="host")
    kept = {name: p.data_ptr() for name, p in reference.model.named_parameters()}
    with reference.weights() as copy:
        assert {p.device.type for p in (*copy.parameters(), *copy.buffers())} == {device}
        assert not torch.is_grad_enabled()
    for (name, weight), expected in zip(
        reference.model.named_parameters(), model.parameters(), strict=True
    ):
        assert weight.data_ptr() == kept[name]
        assert weight.device.type == "cpu"
        assert torch.equal(weight, expected.cpu())
        assert not weight.requires_grad


def test_following_moves_the_share_of_the_way_and_tied_weights_once() -> None:
    model = tiny_model(seed=1)
    model.lm_head.weight = model.model.language_model.embed_tokens.weight
    reference = FrozenCopy(model, vision_frozen=False)
    start = {name: weight.clone() for name, weight in reference.state().items()}
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(8.0)
    # A quarter of the way to x + 8 is x + 2.
    reference.follow(model.state_dict().items(), 0.25)
    for name, weight in reference.state().items():
        torch.testing.assert_close(weight, start[name] + 2.0, msg=name)


def in_pieces(rank: int, port: int, folder: str) -> None:
    """One of two processes that hold a copy together."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = tiny_model(seed=1)
    reference = FrozenCopy(model, vision_frozen=False, place="sharded")
    # Between its passes there is nothing of it but half of every weight.
    assert not sum(weight.numel() for weight in reference.model.parameters())
    sharded = sum(shard.to_local().numel() for shard in reference._shards.values())
    assert sharded < 0.51 * sum(weight.numel() for weight in model.parameters())
    with reference.weights() as copy:
        assert not torch.is_grad_enabled()
        for whole, expected in zip(copy.parameters(), model.parameters(), strict=True):
            assert torch.equal(whole, expected)
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(8.0)
    reference.follow(model.state_dict().items(), 0.25)
    state = reference.state()
    assert state.keys() == start.keys()
    for name, weight in state.items():
        torch.testing.assert_close(full_tensor(weight), start[name] + 2.0, msg=name)
    # As a checkpoint of a sharded run keeps it, and gives it back.
    content, taken = take_tensors({"reference": state}, step=1)
    content["shards"] = {
        name: write_folder(tensors, Path(folder) / name) for name, tensors in taken.items()
    }
    with torch.no_grad():
        for shard in state.values():
            shard.zero_()
    kept = put_back(content, Path(folder))["reference"].items()
    reference.follow(((name, tensor_of(value)) for name, value in kept), 1.0)
    for name, weight in reference.state().items():
        torch.testing.assert_close(full_tensor(weight), start[name] + 2.0, msg=name)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_hold_half_a_copy_each(tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    run_ranks(in_pieces, (port, str(tmp_path)), 2)
