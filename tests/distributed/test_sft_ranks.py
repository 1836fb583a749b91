"""Supervised steps of 2 real processes against the same steps in one."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pandas as pd
import pytest
import torch

from tests.distributed.test_collectives import (
    SAMPLING,
    STEPS,
    Repeated,
    four_prompts,
    share,
)
from tests.evaluation.builders import THINKING
from tests.support.adamw_steps import assert_same_steps, second_moments
from tests.support.tiny_models import tiny_model
from tests.support.tiny_tokenizer import tiny_tokenizer
from tools.faults.forked import run_ranks
from vqr1.config import OptimizerConfig
from vqr1.iqa.answers import PUBLISHED, LevelAnswer
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.level_score import level_tokens
from vqr1.policy.loading import Policy
from vqr1.rollout.local import LocalEngine
from vqr1.training.stages.response_targets import CrossEntropy, ResponseTokens
from vqr1.training.stages.responses import WeightedText
from vqr1.training.stages.sft import Objective, SftModule
from vqr1.training.stages.soft_levels import SoftLevels
from vqr1.training.step import UpdateSettings
from vqr1.training.strategy import ReplicatedStrategy
from vqr1.training.validation import Validator, validation_modes

pytestmark = pytest.mark.slow

KINDS = ("responses", "soft_levels")


def objective(kind: str) -> Objective:
    tokenizer = tiny_tokenizer()
    encode = ResponseTokens(tokenizer, FAMILY)
    if kind == "responses":
        texts = ["sharp", "a", "noise everywhere", "ok then"]
        given = {("demo", row): [WeightedText(text, 1.0 + row)] for row, text in enumerate(texts)}
        return CrossEntropy(given, encode)
    table = pd.DataFrame({"mos": [1.0, 2.0, 3.5, 5.0], "std_mos": [0.5, 0.3, 0.8, 0.4]})
    form, sets = LevelAnswer(), {"demo": SimpleNamespace(table=table)}
    words = level_tokens(tokenizer, form)
    return SoftLevels(sets, form, words, encode, "lower", "pdf", 0.05, 1.0)  # type: ignore[arg-type]


def run(rank: int, world: int, kind: str) -> dict[str, Any]:
    """Two steps; weights and metrics afterwards."""
    model = tiny_model(seed=1)
    engine = LocalEngine(model, tiny_tokenizer(), 4096)
    settings = UpdateSettings(
        optimizer=OptimizerConfig(lr=1e-2, max_grad_norm=0.5), micro_batch_tokens=1, total_steps=10
    )
    validator = Validator(engine, validation_modes(SAMPLING, 0, 0, THINKING, PUBLISHED))
    module = SftModule(Policy(model, None, "none"), engine, validator, objective(kind), settings)
    trainer = L.Trainer(
        accelerator="cpu", devices=world, strategy=ReplicatedStrategy() if world > 1 else "auto",
        max_steps=STEPS, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(
        Repeated(share(rank, world, four_prompts())), batch_size=None
    )
    trainer.fit(module, loader)
    metrics = {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if "time" not in name and "memory" not in name
    }
    moments = second_moments(model, trainer.optimizers[0])
    return {"weights": model.state_dict(), "metrics": metrics, "moments": moments}


def child(rank: int, world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank),
        "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "GROUP_RANK": "0",
        "LOCAL_WORLD_SIZE": str(world), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    torch.save([run(rank, world, kind) for kind in KINDS], Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_take_the_supervised_steps_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_ranks(child, (2, port, str(tmp_path)), 2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for number, kind in enumerate(KINDS):
        alone = run(0, 1, kind)
        for results in ranks:
            assert results[number]["metrics"] == pytest.approx(alone["metrics"], rel=1e-4, abs=1e-6)
            found = results[number]["weights"]
            assert_same_steps(found, alone["weights"], alone["moments"])
