"""A dry run of a small shape: how often a step may wait for a device.

A change that adds a host synchronisation to the step, or a tensor on the wrong device, fails here.
`python -m tests.support.dry_runs` prints the same counts of all families.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.tiny_checkpoints import build
from vqr1.cli.plan import _dry_run, load_train_config
from vqr1.planning.shape import read_shape, share_of_work

REPOSITORY = Path(__file__).resolve().parents[2]
C = 24


def dry_runs(*names: str) -> dict[str, Any]:
    """Of a process of its own: the device stays registered in PyTorch."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.dry_runs", *names], cwd=REPOSITORY, check=False,
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {name: run for name, run in found.items() if run}


@pytest.mark.medium
def test_the_device_counts_what_a_few_lines_ask_of_it() -> None:
    device = dry_runs("device")["device"]
    assert device["known"] == [6, 4]
    assert device["types"] == ["torch.bfloat16", "torch.float32"]
    # The rows and the numbers are sent; the mask is counted, and the result fetched.
    assert sorted(place.split(" @ ")[0] for place in device["syncs"]) == [
        "device to host", "host to device", "host to device", "index by a mask",
    ]  # fmt: skip
    assert sum(device["syncs"].values()) == 4
    # Rows on the host for weights on the device.
    assert sum(device["mixed"].values()) == 1
    # Autocast casts rows, weight and bias, and the backward pass their gradients.
    assert device["launches"]["cast"] >= 5
    # The weight [16, 8] and the bias in float32, in blocks of 512 bytes, and more.
    assert device["peak"] >= 512 + 512


@pytest.mark.medium
@pytest.mark.parametrize(
    ("model_type", "size"), [("fast_vlm", (64, 64)), ("llava", (42, 42)), ("smolvlm", (128, 96))]
)
def test_images_are_resized_as_the_checkpoint_asks(
    model_type: str, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build(model_type, tmp_path / "model", seed=1)
    keys = [f"model.path={folder}", "model.min_pixels=1", "model.max_pixels=4194304"]
    config = load_train_config([*keys, "hardware=1gpu"])
    shape = read_shape(config.model)
    rules: list[Any] = []
    monkeypatch.setattr(
        "vqr1.training.dry_run.dry_run", lambda config, shape, work, rule, size: rules.append(rule)
    )
    _dry_run(config, shape, share_of_work(config, shape), None)
    assert [rule.size(640, 480) for rule in rules] == [size]


@pytest.mark.slow
def test_a_step_waits_for_the_device_a_few_times_only() -> None:
    run = dry_runs("qwen2_5_vl")["qwen2_5_vl"]
    phases = run["phases"]
    assert not any(phase["mixed"] for phase in phases.values())
    # The images' sizes are not asked for again, whatever the number of layers.
    assert phases["vision"]["waits"] <= 4, phases["vision"]["syncs"]
    for phase in ("prefill", "drawing", "capture", "decoding step", "optimiser"):
        assert phases[phase]["waits"] == 0, phases[phase]["syncs"]
    for phase in ("reference", "update"):
        assert phases[phase]["waits"] <= 8, phases[phase]["syncs"]
    # A look every eight tokens.
    assert run["tokens"] == C - 1
    assert phases["decoding"]["waits"] <= C // 8, phases["decoding"]["syncs"]
    assert run["captures"] == 1
    # Keys are read where they lie.
    step = phases["decoding step"]
    assert step["bytes"]["copy"] < 0.03 * step["traffic"], step["bytes"]
    # One kernel for all weights.
    assert sum(phases["optimiser"]["launches"].values()) <= 3


@pytest.mark.slow
def test_turns_of_one_shape_replay_one_graph() -> None:
    run = dry_runs("two turns")["two turns"]
    assert (run["tokens"], run["captures"]) == (2 * (C - 1), 1)


@pytest.mark.slow
def test_one_of_eight_ranks_of_sharded_weights() -> None:
    run = dry_runs("one of eight")["one of eight"]
    phases, exchanged = run["phases"], run["exchanged"]
    assert not any(phase["mixed"] for phase in phases.values())
    # The library sends the images' sizes to a tower that is sharded.
    assert phases["vision"]["waits"] <= 4, phases["vision"]["syncs"]
    for phase in ("reference", "update"):
        assert phases[phase]["waits"] <= 8, phases[phase]["syncs"]
    for phase, planned in run["planned"].items():
        assert 0.85 < planned / run["peaks"][phase] < 1.15, phase
    # Bytes: the reference is gathered once, linear layers in bfloat16; the policy's tower and text
    # for each pass in bfloat16, their gradients scattered in float32; embedding and head are full.
    weights = run["weights"]
    text, tower = weights["text"], weights["vision"]
    ends = weights["embedding"] + weights["head"]
    assert exchanged["reference"] == pytest.approx(2 * (text + tower + 1.5 * ends), rel=0.01)
    assert exchanged["vision"] == pytest.approx(2 * tower, rel=0.01)
    update = 2 * (2 * text + tower) + 4 * (text + tower + ends)
    assert exchanged["update"] == pytest.approx(update, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["7b", "8b", "3b"])
def test_a_step_at_a_released_models_size(name: str) -> None:
    """What a GPU will be asked, at the bars that this code was built to."""
    run = dry_runs(name)[name]
    phases = run["phases"]
    assert not any(phase["mixed"] for phase in phases.values())
    # A token of all responses: one recorded graph, nothing waited for, each weight read once.
    step = phases["decoding step"]
    assert (run["tokens"], run["captures"], step["waits"]) == (63, 1, 0)
    assert phases["decoding"]["waits"] <= 64 // 8, phases["decoding"]["syncs"]
    assert sum(step["launches"].values()) <= 40 * run["layers"], step["launches"]
    assert run["text_bytes"] < step["traffic"] < 1.15 * run["text_bytes"]
    assert step["traffic"] < 16e9
    assert phases["vision"]["waits"] <= 4
    for phase in ("reference", "update"):
        assert phases[phase]["waits"] <= 8, phases[phase]["syncs"]
    for phase, planned in run["planned"].items():
        assert 0.85 < planned / run["peaks"][phase] < 1.15, phase


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "limit"), [("3b, 16 images", 0.9 * 80e9), ("one of eight, 7b", 55e9)]
)
def test_all_weights_and_the_papers_images_fit(name: str, limit: float) -> None:
    run = dry_runs(name)[name]
    for phase, planned in run["planned"].items():
        assert 0.85 < planned / run["peaks"][phase] < 1.15, phase
    context = 2**30
    assert max(run["peaks"].values()) + context < limit
