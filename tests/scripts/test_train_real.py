"""`make train-real`: what it asks for, and the trainings that its script composes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import TrainConfig, validate
from vqr1.rewards.build import build_rewards
from vqr1.sweeps.chain_plan import links_of
from vqr1.training.checks import check_training

ROOT = Path(__file__).resolve().parents[2]
RECORDER = """#!/bin/sh
printf '%s\\0' "$@" > "$RECORD"
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_without_the_data_it_states_what_to_place(tmp_path: Path) -> None:
    command = ["make", "--no-print-directory", "-C", str(ROOT), "train-real", f"DATA={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    (line,) = done.stdout.splitlines()
    assert line.startswith("make train-real DATA=DIR: DIR must hold BIQ2021")


@pytest.mark.medium
def test_the_script_trains_a_warm_start_and_ranks_from_it(tmp_path: Path) -> None:
    out, data = tmp_path / "out folder", tmp_path / "the data"
    for made in (out / "model" / "config.json", out / "warm" / "labels.csv"):
        made.parent.mkdir(parents=True)
        made.write_text("{}", encoding="utf-8")
    data.mkdir()
    recorder, record = tmp_path / "python", tmp_path / "record"
    recorder.write_text(RECORDER, encoding="utf-8")
    recorder.chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / "experiments" / "real_vlm" / "train.sh"), str(data), "seed=7"],
        env={**os.environ, "PYTHON": str(recorder), "OUT": str(out), "RECORD": str(record)},
        capture_output=True,
        text=True,
        check=True,
    )
    script, *arguments = record.read_text(encoding="utf-8").split("\0")[:-1]
    assert script == str(ROOT / "train.py")
    warm, rank = (
        validate(TrainConfig, plain_values(compose_config("train", [*link.overrides, "run_dir=x"])))
        for link in links_of(arguments)
    )
    assert warm.stage.target.endswith("SftStage")
    assert warm.stage.arguments["answers"] == str(out / "warm" / "answers.jsonl")
    assert warm.dataset.root == str(out / "warm")
    assert rank.stage.target.endswith("GrpoStage")
    assert rank.dataset.root == str(data)
    for config, adapters, connector in ((warm, 2e-4, 5e-4), (rank, 7e-5, 3.5e-4)):
        check_training(config, build_rewards(config.reward))
        assert (config.seed, config.model.freeze_vision, config.prompt.name) == (
            7,
            "tower",
            "short",
        )
        assert (config.optimizer.lr, config.optimizer.lr_connector) == (adapters, connector)
        assert config.hardware.vision_cache_dir == str(out / "features")
    # The second training's own length and batch, those of its file.
    assert (warm.max_steps, rank.max_steps) == (200, 310)
    assert (warm.loader.batch_size, rank.loader.batch_size) == (16, 24)
    assert f"The trained model: {out}/run/2_grpo/export" in done.stdout
    assert "eval.py dataset=csv" in done.stdout
