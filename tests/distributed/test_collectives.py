"""Steps of 2 and of 4 real processes against the same steps in one."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from tests.evaluation.builders import THINKING
from tests.support.adamw_steps import assert_same_steps, second_moments
from tests.support.images import noise_image
from tests.support.tiny_models import tiny_model, tiny_prompts
from tests.support.tiny_tokenizer import tiny_tokenizer
from tools.faults.forked import run_ranks
from tools.tiny_checkpoints import build
from vqr1.config import GrpoConfig, ModelConfig, OptimizerConfig, PromptConfig, SamplingConfig
from vqr1.distributed.sharding import full_tensor
from vqr1.iqa.answers import PUBLISHED
from vqr1.policy.loading import Policy, load_policy
from vqr1.policy.prompts import prompt_builder
from vqr1.records import PromptBatch, RankingBatch
from vqr1.rewards import RewardInputs, WeightedRewards
from vqr1.rollout.local import LocalEngine
from vqr1.training.advantages import GroupNormalised
from vqr1.training.losses import GrpoLoss
from vqr1.training.stages.grpo import GrpoModule
from vqr1.training.step import StepSettings
from vqr1.training.strategy import ReplicatedStrategy, ShardedStrategy
from vqr1.training.task import RANKING, Task
from vqr1.training.validation import Validator, validation_modes

pytestmark = pytest.mark.slow

Cases = Sequence[tuple[Any, ...]]
"""(averaging, pool), or (averaging, pool, checkpoint), of each run."""
K, STEPS = 3, 2
SAMPLING = SamplingConfig(max_new_tokens=8, stop="eos")
MOS = torch.tensor([1.0, 2.0, 3.5, 5.0])


class RankPositionReward:
    """Depends on the whole pool: MOS less the pool's mean, times a number of each response.

    The two best images of the pool get the same reward for all their responses: zero variance
    there, so that with four processes two of them have nothing to update from.
    """

    ranks = True

    def __call__(self, inputs: RewardInputs) -> torch.Tensor:
        above = inputs.mos - inputs.mos.mean()
        responses = torch.arange(inputs.scores.shape[1], dtype=torch.float32)
        rewards = above[:, None] * (1.0 + responses)
        rewards[inputs.mos > 3.0] = 1.0
        return rewards


def rows_of(rank: int, world: int) -> slice:
    """The step's images that a process has: as `plan_epoch` deals them."""
    return slice(rank * 4 // world, (rank + 1) * 4 // world)


def four_prompts() -> PromptBatch:
    """Of the step, with images of four sizes."""
    return tiny_prompts([(2, 2), (2, 4), (4, 2), (3, 3)], [3, 5, 4, 2])


def share(rank: int, world: int, prompts: PromptBatch) -> RankingBatch:
    """This process's part of the step."""
    own = rows_of(rank, world)
    names = (("a",), ("b",), ("c",), ("d",))[own]
    return RankingBatch(
        "demo", names, prompts.select(own.start, own.stop), MOS[own], torch.arange(4)[own]
    )


def loaded_pairs(folder: str) -> tuple[Policy, PromptBatch]:
    """A checkpoint whose tower is frozen, its projector not; prompts of two images each."""
    config = ModelConfig(
        name="m", path=folder, min_pixels=32 * 32, max_pixels=64 * 64, freeze_vision="tower"
    )
    prompt = PromptConfig(name="two", text="Which?", images=2)
    policy = load_policy(config)
    builder = prompt_builder(policy.family, policy.processor, config, prompt)
    a, b, c = (noise_image(seed, *size) for seed, size in enumerate([(60, 60), (84, 56), (40, 90)]))
    # One image stands twice in a prompt, another one in prompts of several processes.
    return policy, builder([(a, b), (b, c), (c, c), (a, c)])


class Repeated(torch.utils.data.Dataset[RankingBatch]):
    def __init__(self, batch: RankingBatch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> RankingBatch:
        return self.batch


def run(
    rank: int, world: int, averaging: Any, pool: Any, checkpoint: str | None = None
) -> dict[str, Any]:
    """Two steps; weights, metrics and this process's advantages afterwards.

    A checkpoint is asked about two images each, its weights are sharded, and its tower is frozen.
    """
    if checkpoint is None:
        model, tokenizer, prompts = tiny_model(seed=1), tiny_tokenizer(), four_prompts()
        strategy = ReplicatedStrategy()
    else:
        policy, prompts = loaded_pairs(checkpoint)
        model, tokenizer = policy.model, policy.processor.tokenizer
        strategy = ShardedStrategy(half_passes=False)
    engine = LocalEngine(model, tokenizer, 4096)
    settings = StepSettings(
        grpo=GrpoConfig(group_size=K, pool=pool),
        loss=GrpoLoss(kl_weight=0.3, averaging=averaging),
        advantage=GroupNormalised(),
        sampling=SAMPLING,
        optimizer=OptimizerConfig(lr=1e-2, weight_decay=0.1, max_grad_norm=0.5),
        # One image a micro-batch: with two processes, ranks 0 and 1 make two passes and none.
        micro_batch_tokens=1,
        total_steps=10,
        seed=3,
    )
    validator = Validator(engine, validation_modes(SAMPLING, 0, 0, THINKING, PUBLISHED))
    rewards = WeightedRewards({"position": (1.0, RankPositionReward())})
    tasks = {RANKING: Task(rewards, PUBLISHED)}
    module = GrpoModule(Policy(model, None, "none"), engine, tasks, validator, settings)
    kept: list[torch.Tensor] = []
    sample = module._sample

    def keep(*args: Any) -> Any:
        vision, scored, metrics = sample(*args)
        kept.append(scored.advantages)
        return vision, scored, metrics

    module._sample = keep  # type: ignore[method-assign]
    trainer = L.Trainer(
        accelerator="cpu", devices=world, strategy=strategy if world > 1 else "auto",
        max_steps=STEPS, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(Repeated(share(rank, world, prompts)), batch_size=None)
    trainer.fit(module, loader)
    metrics = {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if "time" not in name and "memory" not in name
    }
    weights = {name: full_tensor(weight) for name, weight in model.state_dict().items()}
    moments = second_moments(model, trainer.optimizers[0]) if world == 1 else {}
    advantages = torch.cat(kept)
    return {"weights": weights, "moments": moments, "metrics": metrics, "advantages": advantages}


def child(rank: int, world: int, port: int, folder: str, cases: Cases) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank),
        "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "GROUP_RANK": "0",
        "LOCAL_WORLD_SIZE": str(world), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    results = [run(rank, world, *case) for case in cases]
    torch.save(results, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def in_processes(world: int, folder: Path, cases: Cases) -> list[list[dict[str, Any]]]:
    """By rank, the result of every case."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_ranks(child, (world, port, str(folder), cases), world)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def assert_advantages_of_one(results: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    for rank, result in enumerate(results):
        own = [step[rows_of(rank, len(results))] for step in alone["advantages"].split(4)]
        torch.testing.assert_close(result["advantages"], torch.cat(own), rtol=1e-5, atol=1e-6)


def assert_steps_of_one(results: list[dict[str, Any]], averaging: str, *checkpoint: str) -> None:
    alone = run(0, 1, averaging, "global", *checkpoint)
    assert_advantages_of_one(results, alone)
    for result in results:
        assert result["metrics"] == pytest.approx(alone["metrics"], rel=1e-4, abs=1e-6)
        assert_same_steps(result["weights"], alone["weights"], alone["moments"])
    model = loaded_pairs(*checkpoint)[0].model if checkpoint else tiny_model(seed=1)
    start = model.state_dict()
    moved = [float((alone["weights"][name] - weight).abs().max()) for name, weight in start.items()]
    assert max(moved) > 1e-3
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    assert all(torch.equal(alone["weights"][name], start[name]) for name in frozen)
    assert bool(frozen) is bool(checkpoint)


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    cases = [("response_mean", "global"), ("token_mean", "global"), ("response_mean", "rank")]
    ranks = in_processes(2, tmp_path, cases)
    for number in (0, 1):
        assert_steps_of_one([results[number] for results in ranks], cases[number][0])
    # pool=rank: rank 0 holds MOS 1 and 2 (mean 1.5), so its rewards are -.5 and +.5 times 1, 2, 3;
    # centred +-.5 (1, 0, -1), over the unbiased std .5 (+ 1e-4). In the global pool both are below
    # the mean and point the same way.
    found = ranks[0][2]["advantages"][:2] * (0.5 + 1e-4) / 0.5
    expected = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (ranks[0][0]["advantages"][:2, 0] > 0).all()


def test_four_processes_of_which_two_have_nothing_to_learn(tmp_path: Path) -> None:
    # Pools of two images: each has its images on two of the processes.
    ranks = in_processes(4, tmp_path, [("response_mean", "global"), ("response_mean", 2)])
    assert_steps_of_one([results[0] for results in ranks], "response_mean")
    assert_advantages_of_one([results[1] for results in ranks], run(0, 1, "response_mean", 2))
    # MOS 2 is below the mean of all four, 2.875, and above that of its pool, 1.5.
    assert ranks[1][0]["advantages"][0, 0] > 0 > ranks[1][1]["advantages"][0, 0]


def test_processes_with_unequal_numbers_of_images_take_the_steps_of_one(tmp_path: Path) -> None:
    # A set of four images is smaller than a step of three processes: they get 1, 1 and 2.
    ranks = in_processes(3, tmp_path, [("response_mean", "global")])
    assert [len(results[0]["advantages"]) for results in ranks] == [STEPS, STEPS, 2 * STEPS]
    assert_steps_of_one([results[0] for results in ranks], "response_mean")


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "smolvlm"])
def test_sharded_pairs_of_images_with_a_frozen_tower_take_the_steps_of_one(
    model_type: str, tmp_path: Path
) -> None:
    """Projector and tower are one module, and two."""
    folder = str(build(model_type, tmp_path / "model", seed=1))
    ranks = in_processes(2, tmp_path, [("response_mean", "global", folder)])
    assert_steps_of_one([results[0] for results in ranks], "response_mean", folder)
