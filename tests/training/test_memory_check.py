"""Whether a step fits a GPU, before a model loads."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from vqr1.cli.plan import load_train_config
from vqr1.planning.memory import plan_memory
from vqr1.planning.shape import read_shape, share_of_work
from vqr1.policy.quantization import quantization_problems
from vqr1.training.memory_check import memory_line, with_profile

CONFIGS = Path(__file__).resolve().parents[2] / "conf" / "experiment"
PAPERS = sorted(file.stem for file in CONFIGS.glob("paper_*.yaml"))


def test_a_step_that_does_not_fit_is_refused_in_one_line() -> None:
    keys = ["model=qwen2_5_vl_7b", "hardware=1gpu", "loader.batch_size=8"]
    config = load_train_config(keys)
    shape = read_shape(config.model)
    peak = plan_memory(config, shape, share_of_work(config, shape), process=0.0).peak
    found = memory_line(config, 80e9)
    assert found is not None
    line, refused = found
    assert refused
    assert "\n" not in line
    assert f"planned at {peak / 1e9:.1f} GB and this device has 80.0 GB free" in line
    assert "use hardware=8gpu_fsdp2" in line
    # Within 15 % of the plan a line is printed, and the run begins.
    assert memory_line(config, peak / 1.1) == (memory_line(config, peak / 1.1)[0], False)  # type: ignore[index]
    assert memory_line(config, peak) is None
    assert memory_line(config, None) is None
    warned = memory_line(load_train_config([*keys, "hardware.memory_check=warn"]), 80e9)
    assert warned is not None
    assert not warned[1]
    assert memory_line(load_train_config([*keys, "hardware.memory_check=skip"]), 80e9) is None


def test_the_smallest_change_that_fits_is_named() -> None:
    keys = ["model=qwen2_5_vl_7b", "hardware=1gpu_lora", "rollout=paper", "loader.batch_size=16"]
    config = load_train_config(keys)
    shape = read_shape(config.model)
    work = share_of_work(config, shape)
    plan = plan_memory(config, shape, work, process=0.0)
    found = memory_line(config, plan.peak * 0.8)
    assert found is not None
    assert "use hardware.gradient_checkpointing=true" in found[0]
    tiny = memory_line(config, 4e9)
    assert tiny is not None
    assert "no single key makes it fit" in tiny[0]


def test_a_recommended_profile_is_planned_with_its_own_values() -> None:
    keys = ["model=qwen2_5_vl_7b", "rollout=paper", "loader.batch_size=8"]
    config = load_train_config([*keys, "hardware=1gpu"])
    for files in (("1gpu_lora",), ("1gpu", "8gpu_fsdp2")):
        asked = load_train_config([*keys, f"hardware={files[-1]}"])
        found = with_profile(config, *files)
        assert (found.hardware, found.model) == (asked.hardware, asked.model)
    asked = load_train_config([*keys, "hardware=1gpu_lora"])
    shape = read_shape(asked.model)
    whole = plan_memory(asked, shape, share_of_work(asked, shape), process=0.0).peak
    again = replace(asked, hardware=replace(asked.hardware, gradient_checkpointing=True))
    lean = plan_memory(again, shape, share_of_work(again, shape), process=0.0).peak
    assert lean < whole
    # Nothing smaller to try: adapters are what is left.
    hardware = replace(config.hardware, micro_batch_tokens=2048, strategy="zero2")
    found_line = memory_line(replace(config, hardware=hardware), (lean + whole) / 2)
    assert found_line is not None
    # The profile by itself would be refused then.
    assert "use hardware=1gpu_lora with hardware.gradient_checkpointing=true" in found_line[0]
    found_line = memory_line(replace(config, hardware=hardware), whole)
    assert found_line is not None
    assert "use hardware=1gpu_lora, or" in found_line[0]


@pytest.mark.medium
def test_the_papers_configurations_fit_the_profiles_that_they_name() -> None:
    above = {}
    for name in PAPERS:
        keys = [f"experiment={name}"]
        for further in ((), ("hardware=1gpu_lora", "loader.global_batch_size=null")):
            config = load_train_config([*keys, *further])
            shape = read_shape(config.model)
            plan = plan_memory(config, shape, share_of_work(config, shape), process=0.0)
            if plan.peak > 80e9:
                above[name, *further] = plan.peak / 1e9
    assert above == {}


def test_seven_billion_weights_of_four_bits_on_a_card_of_24_gb() -> None:
    keys = [
        "model=qwen2_5_vl_7b", "hardware=1gpu_lora", "model.quantization=nf4", "rollout=paper",
        "hardware.gradient_checkpointing=true", "hardware.micro_batch_tokens=4096",
        "loader.batch_size=4",
    ]  # fmt: skip
    config = load_train_config(keys)
    shape = read_shape(config.model)
    work = share_of_work(config, shape, (512, 384))
    plan = plan_memory(config, shape, work, process=0.0)
    assert plan.peak < 22e9
    # 6.53e9 weights in blocks of 4 bits and their scales, one layer of them in bfloat16 for its
    # products, and 1.77e9 in bfloat16; adapters in float32.
    codes = shape.text * (0.5 + 0.127 / 8) + 2 * shape.text / 28
    expected = codes + 2 * (shape.total - shape.text) + 4 * shape.adapters
    assert plan.phases["update"]["weights"] == pytest.approx(expected)


def test_four_bits_are_refused_in_one_line_without_their_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    keys = ["model=qwen2_5_vl_7b", "hardware=1gpu_lora", "model.quantization=nf4"]
    config = load_train_config(keys)
    assert quantization_problems(config.model, config.hardware, trains=True) == [
        "model.quantization=nf4: bitsandbytes is not installed; pip install 'vqr1[bitsandbytes]', "
        "or use model.quantization=null"
    ]
    plain = load_train_config(keys[:2])
    assert quantization_problems(plain.model, plain.hardware, trains=True) == []


def test_four_bits_need_adapters_and_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        ("hardware=1gpu", "model.lora=null: weights of 4 bits do not train"),
        ("hardware=cpu", "its kernels are a GPU's"),
        ("hardware=8gpu_fsdp2", "the weights are not sharded"),
    ]
    keys = ["model=qwen2_5_vl_7b", "model.quantization=nf4"]
    configs = [load_train_config([*keys, profile]) for profile, _ in cases]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for config, (_, words) in zip(configs, cases, strict=True):
        (line,) = quantization_problems(config.model, config.hardware, trains=True)
        assert words in line
