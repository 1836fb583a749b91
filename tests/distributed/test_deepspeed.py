"""Weights, gradients and optimizer state sharded by DeepSpeed on a CPU, by two ranks."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.cli.test_processes import SMALL, TWO
from tests.support.commands import Training, assert_same_weights, run, state
from tests.support.tiny_models import tiny_model, tiny_prompts
from tests.support.tiny_tokenizer import tiny_tokenizer
from tools.faults.forked import run_ranks
from vqr1.config import OptimizerConfig, SamplingConfig
from vqr1.distributed.deepspeed import DeepSpeedSharding, zero_config
from vqr1.policy.packaged import tiny_policy_folder
from vqr1.policy.sampling_weights import sampling_weights
from vqr1.records import Rollout
from vqr1.rollout.local import LocalEngine
from vqr1.training.schedule import adamw

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
    ),
]

PROMPTS = tiny_prompts([(2, 2), (3, 5)], [5, 9])
METRICS = ("logger=csv", "validation.test=false", "run_dir=run")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights after four steps of one process that holds everything."""
    folder = tmp_path_factory.mktemp("alone")
    run(folder, *SMALL, *METRICS, "loader.batch_size=4")
    return state(folder / "run", 4)


in_every_way = pytest.mark.parametrize(
    "keys",
    [
        ("hardware.strategy=zero2",),
        ("hardware.strategy=zero3",),
        ("hardware.strategy=zero3", "hardware.offload=true"),
    ],
    ids=["zero2", "zero3", "zero3_offload"],
)


@in_every_way
def test_sharded_training_stopped_and_resumed_makes_the_run_of_one(
    alone: dict[str, torch.Tensor], keys: tuple[str, ...], tmp_path: Path
) -> None:
    # About one image a pass: gradients of several passes are added up.
    divided = (*SMALL, *TWO, *keys, "hardware.micro_batch_tokens=100")
    training = Training(tmp_path, *divided, *METRICS)
    training.wait_for((tmp_path / "run/checkpoints/step_00000001.ckpt").exists)
    training.process.send_signal(signal.SIGTERM)
    assert training.wait() == 75, training.output
    run(tmp_path, "resume=run")
    assert_same_weights(state(tmp_path / "run", 4), alone)
    assert (tmp_path / "run/export/model.safetensors").is_file()


@in_every_way
def test_steps_without_a_signal_change_nothing(keys: tuple[str, ...], tmp_path: Path) -> None:
    # No answer fits two tokens. Weight decay would show.
    silent = ("rollout.sampling.max_new_tokens=2", "optimizer.lr=0.01", "optimizer.weight_decay=1")
    training = Training(tmp_path, *SMALL, *TWO, *keys, *METRICS, *silent)
    assert training.wait() == 0, training.output
    assert "lr_scheduler.step()" not in training.output
    before = load_file(tiny_policy_folder() / "model.safetensors")
    after = load_file(tmp_path / "run/export/model.safetensors")
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert torch.equal(after[name], weight.float()), name


def sampling_rank(number: int, port: int, folder: str) -> None:
    """Samples under autocast by weights that ZeRO-3 has divided, and by full ones."""
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(number),
        "LOCAL_RANK": str(number), "WORLD_SIZE": "2",
    }  # fmt: skip
    torch.distributed.init_process_group("gloo")
    model = tiny_model(seed=1)
    query = model.model.language_model.layers[0].self_attn.q_proj
    half = torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False)

    def sampled(policy: nn.Module) -> Rollout:
        engine = LocalEngine(policy, tiny_tokenizer(), 10**6)
        sampling = SamplingConfig(max_new_tokens=8)
        return engine.sample(PROMPTS, group_size=3, sampling=sampling, seed=3)

    optimizer, _ = adamw(model, OptimizerConfig(lr=1e-3), 10)
    sharding = DeepSpeedSharding(model, optimizer, zero_config(3, False, None), ())
    # DeepSpeed puts its own `functional.linear` in place, which rounds otherwise under autocast:
    # the full weights go through it too.
    with half:
        expected = sampled(tiny_model(seed=1))
    before = dict(model.named_parameters())
    for _ in range(2):
        with half, sharding.unsharded():
            with sampling_weights(model):
                assert query.weight.dtype == torch.bfloat16
            assert query.weight.dtype == torch.float32
            found = sampled(model)
        assert torch.equal(found.tokens, expected.tokens)
        assert torch.equal(found.logprobs, expected.logprobs)
        # The very parameters, divided again.
        after = dict(model.named_parameters())
        assert all(after[name] is weight for name, weight in before.items())
        assert {str(weight.ds_status) for weight in after.values()} == {
            "ZeroParamStatus.NOT_AVAILABLE"
        }
        # A pass with gradients still puts them together by itself.
        rows = torch.ones(2, query.in_features)
        sharding.backward(None, query(rows).sum())
    Path(folder, f"rank_{number}").touch()
    torch.distributed.destroy_process_group()


def test_zero3_samples_by_weights_in_half(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_ranks(sampling_rank, (port, str(tmp_path)), 2)
    assert {path.name for path in tmp_path.iterdir()} == {"rank_0", "rank_1"}
