"""The planner: weights and bytes by hand, activations against PyTorch's own saved tensors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.tiny_models import tiny_model, tiny_prompts
from vqr1.cli.plan import load_train_config, main
from vqr1.config import ModelConfig
from vqr1.errors import ModelError
from vqr1.planning.memory import (
    Sizes,
    held,
    plan_memory,
    response_pass,
    sampling,
    text_row,
    tower_row,
)
from vqr1.planning.shape import Work, read_shape, share_of_votes, share_of_work
from vqr1.planning.speed import (
    GPUS,
    Assumptions,
    count_operations,
    exchanged_bytes,
    expected_seconds,
)
from vqr1.policy.families import family
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.fast_layers import use_fast_layers
from vqr1.policy.shared_prompt import response_logprobs
from vqr1.policy.tower_cost import TowerCost
from vqr1.policy.vision import encode_images

pytestmark = pytest.mark.medium

REPOSITORY = Path(__file__).resolve().parents[2]
PLAIN = Sizes(weight=4, trained=4, inner=4)


def shape_of(path: str | None) -> tuple[int, ...]:
    shape = read_shape(ModelConfig(name="m", path=path, min_pixels=3136, max_pixels=12544))
    return shape.total, shape.text, shape.vision, shape.embedding, shape.head


def test_weights_of_released_models_without_a_download() -> None:
    # Totals of the tensors in the released checkpoints: 3,754,622,976 and 8,292,166,656.
    assert shape_of("Qwen/Qwen2.5-VL-3B-Instruct") == (
        3_754_622_976, 2_774_773_760, 668_684_288, 151936 * 2048, 0
    )  # fmt: skip
    total, text, vision, embedding, head = shape_of("Qwen/Qwen2.5-VL-7B-Instruct")
    assert total == 8_292_166_656 == text + vision + embedding + head
    assert embedding == head == 152064 * 3584
    with pytest.raises(ModelError, match=r"model.path=some/other: the shape of this model is not"):
        shape_of("some/other")


def tower_of(model: torch.nn.Module, size: tuple[int, int]) -> TowerCost:
    """Costs of the model's tower for an image that is resized to itself."""
    rule = FAMILY.resize_rule(None, 28 * 28, size[0] * size[1])
    return FAMILY.tower_cost(model.config, rule, size)


def saved_bytes(model: torch.nn.Module, compute: Callable[[], object]) -> int:
    """Bytes of all storages that a computation saves for its backward pass, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    # Kept alive, so that no storage is counted twice under one address.
    found: dict[int, tuple[int, torch.Tensor]] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = compute()
    del kept
    return sum(size for size, _ in found.values())


def test_kept_activations_are_those_that_pytorch_saves() -> None:
    model = tiny_model(seed=1)
    use_fast_layers(model)
    # 16 x 16 merged patches are 32 x 32 patches, which the windows of 4 x 4 patches cut evenly.
    prompts = tiny_prompts([(16, 16)] * 2, [9, 9])
    patches, length = 2 * 1024, len(prompts.input_ids[0])
    vision = model.config.vision_config
    found = saved_bytes(model, lambda: encode_images(model, prompts))
    tower = tower_of(model, (448, 448))
    assert tower.rows == 1024
    # The tower's merger keeps four widths, its first layer the patches, all in float32.
    pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    assert tower.ends == 4 * vision.hidden_size + pixels
    planned = patches * (vision.depth * tower_row(tower, PLAIN) + tower.ends * 4)
    assert planned == pytest.approx(found, rel=0.03)

    features = encode_images(model, prompts).leaves()
    tokens = torch.zeros((2, 3, 40), dtype=torch.long)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    found = saved_bytes(
        model, lambda: response_logprobs(model, prompts, tokens, mask, vision=features)
    )
    rows = 2 * (length + 3 * 39)
    layers = model.config.text_config.num_hidden_layers
    logits = 2 * (1 + 3 * 39) * model.config.text_config.vocab_size * 4
    ends = 2 * rows * model.config.text_config.hidden_size * 4
    planned = rows * layers * text_row(model.config, PLAIN) + ends + logits
    assert planned == pytest.approx(found, rel=0.03)


def test_what_eight_processes_hold_by_hand() -> None:
    options = ["model=qwen2_5_vl_7b", "hardware.reference=host"]
    shape = read_shape(load_train_config(options).model)
    total = 8_292_166_656
    ends = 2 * 152064 * 3584

    def always(name: str, *more: str) -> dict[str, float]:
        found = held(load_train_config([*options, f"hardware={name}", *more]), shape).always
        # A float32 average of the trained weights, where one is asked for.
        assert found.pop("average") == (4 * total if more else 0)
        return found

    assert always("1gpu", "optimizer.ema_decay=0.99")["weights"] == 4 * total

    # Float32 weights; two moments of each trained weight.
    assert always("1gpu") == {
        "weights": 4 * total, "reference": 0, "moments": 8 * total, "master weights": 0
    }  # fmt: skip
    # FSDP2: embedding and head whole.
    assert always("8gpu_fsdp2") == pytest.approx(
        {
            "weights": 4 * ((total - ends) / 8 + ends), "reference": 0,
            "moments": 8 * ((total - ends) / 8 + ends), "master weights": 0,
        }
    )  # fmt: skip
    assert always("8gpu_zero2") == {
        "weights": 4 * total, "reference": 0, "moments": total, "master weights": total / 2
    }  # fmt: skip
    assert always("8gpu_zero3") == {
        "weights": total / 2, "reference": 0, "moments": total, "master weights": total / 2
    }  # fmt: skip
    offloaded = held(load_train_config([*options, "hardware=8gpu_zero3_offload"]), shape)
    assert offloaded.always["moments"] == offloaded.always["master weights"] == 0
    # Its optimizer state and master weights, and the whole reference.
    # All of it in bfloat16 but the embedding, which is not of a linear layer.
    reference = 2 * total + 2 * 152064 * 3584
    assert offloaded.host == 1.5 * total + reference
    assert offloaded.visiting == reference


def test_adapters_hold_no_second_set_of_weights() -> None:
    config = load_train_config(["model=qwen2_5_vl_3b", "hardware=1gpu_lora"])
    shape = read_shape(config.model)
    # A layer: q and o 2048 x 2048, k and v 2048 x 256, gate, up, down 2048 x 11008; rank 64.
    layer = 2 * (2048 + 2048) + 2 * (2048 + 256) + 3 * (2048 + 11008)
    assert shape.adapters == 36 * 64 * layer
    own = held(config, shape)
    assert own.always["reference"] == 0
    assert own.always["weights"] == 2 * shape.total + 4 * shape.adapters
    assert own.gradients == 4 * shape.adapters == own.text_gradients


def test_a_merger_that_trains_after_a_frozen_tower() -> None:
    model = ["model=qwen2_5_vl_3b", "hardware=1gpu"]
    configs = [
        load_train_config([*model, f"model.freeze_vision={freeze}"])
        for freeze in ("false", "tower", "true")
    ]
    shape = read_shape(configs[0].model)
    # A norm of 1280; 5120 to 5120 and 5120 to 2048, with biases.
    assert shape.connector == 1280 + 5121 * (5120 + 2048)
    rest = shape.total - shape.vision
    trained = [shape.total, rest + shape.connector, rest]
    size = Sizes.of(configs[0]).trained
    assert [held(config, shape).gradients for config in configs] == [size * n for n in trained]
    work = share_of_work(configs[0], shape)
    whole, merger, frozen = (count_operations(config, shape, work) for config in configs)
    assert whole.update > merger.update > frozen.update
    # The reference's features are those of another merger.
    assert whole.reference == merger.reference > frozen.reference
    plans = [plan_memory(config, shape, work, process=0.0).peak for config in configs]
    assert plans == sorted(plans, reverse=True)


def test_rows_that_hold_features_of_several_layers() -> None:
    """Of Qwen3-VL: the embedding, and DeepStack's for three layers."""
    config = load_train_config(["model=qwen3_vl_2b", "hardware=1gpu"])
    shape = read_shape(config.model)
    work = Work(1, 2, share_of_work(config, shape).tower, text_tokens=100, response=11)
    assert work.tower.features == 4 * 2048
    narrow = replace(work, tower=replace(work.tower, features=2048))
    (wide, _, _), (plain, _, _) = (response_pass(config, shape, one) for one in (work, narrow))
    rows = work.prompt + 2 * 10
    size = Sizes.of(config).weight
    assert wide["text activations"] - plain["text activations"] == rows * 4 * 2048 * size


def test_keys_and_values_within_the_token_budget() -> None:
    config = load_train_config(["rollout.micro_batch_tokens=1000", "hardware.threads=1"])
    shape = read_shape(config.model)
    # One image: 16 + 84 prompt tokens and 6 x 50. Two of them fit 1000 tokens, three do not.
    tower = share_of_work(config, shape).tower
    work = Work(images=16, group=6, tower=tower, text_tokens=84, response=50)
    # 4 layers, 2 heads of 32, keys and values, float32.
    assert sampling(config, shape, work)["keys and values"] == 2 * 4 * 64 * 4 * 2 * 400


def test_vllm_in_the_process_has_weights_and_a_cache_of_its_own() -> None:
    keys = ["model=qwen2_5_vl_3b", "hardware=1gpu_lora", "rollout=vllm_colocated"]
    config = load_train_config([*keys, "rollout.colocated.kv_cache_gib=3"])
    shape = read_shape(config.model)
    work = share_of_work(config, shape)
    phases = plan_memory(config, shape, work, process=0.0).phases
    own = {"vLLM's weights": 2.0 * shape.total, "vLLM's cache": 3.0 * 2**30}
    assert own.items() <= phases["rollout"].items()
    assert "keys and values" not in phases["rollout"]
    assert not own.keys() & phases["update"].keys()
    awake = load_train_config([*keys, "rollout.colocated.sleep=false"])
    assert own.keys() <= plan_memory(awake, shape, work, process=0.0).phases["update"].keys()
    away = load_train_config([*keys[:2], "rollout=vllm_server"])
    there = plan_memory(away, shape, work, process=0.0).phases["rollout"]
    assert not {*own, "keys and values"} & there.keys()


def test_operations_and_bytes_on_the_way() -> None:
    two = ["hardware=cpu_2procs", "grpo.num_iterations=2"]
    config = load_train_config(two)
    shape = read_shape(config.model)
    work = share_of_work(config, shape)
    assert (work.images, work.group, work.tower.rows, work.response) == (16, 6, 64, 48)
    counted = count_operations(config, shape, work)
    text = counted.reference
    tower = counted.reading + counted.decoding
    # Reading and decoding are V + P + R, and so is the reference; two iterations are twice
    # 3 (P + R), the tower's four backward halves and its second forward pass.
    assert text == pytest.approx(tower)
    assert counted.again == 0
    # Twice the gradients, half of them on the way, both iterations.
    assert exchanged_bytes(config, shape, work) == 2 * 0.5 * shape.total * 4 * 2
    seconds = expected_seconds(config, shape, work, GPUS["h100"], Assumptions(0.5, 0.5))
    assert seconds.update == pytest.approx(counted.update / (0.5 * 989e12))
    assert seconds.total == pytest.approx(
        seconds.reading + seconds.decoding + seconds.reference + seconds.update
        + seconds.exchange + seconds.optimiser
    )  # fmt: skip
    # A reference in halves is put together once a step.
    halves = load_train_config([*two, "hardware.reference=sharded"])
    assert exchanged_bytes(halves, shape, work) == 2.5 * shape.total * 4
    assert held(halves, shape).always["reference"] == 2 * shape.total
    assert held(halves, shape).visiting == 4 * shape.total
    # Degraded copies: one more forward pass in each iteration, whose tower keeps nothing.
    copies = load_train_config([*two, "loss.perception.weight=1e-4"])
    further = count_operations(copies, shape, work)
    assert (counted.degraded, further.degraded) == (0, pytest.approx(2 * tower))
    assert further.total == pytest.approx(counted.total + 2 * tower)
    phases = plan_memory(copies, shape, work, process=0.0).phases
    assert phases["copies"].keys() >= {"one layer's rows", "copies", "tower's rows"}
    free = load_train_config([*two, "loss.kl_weight=0"])
    assert count_operations(free, shape, work).reference == 0
    assert "reference" not in plan_memory(free, shape, work, process=0.0).phases


def test_host_memory_is_reached_through_pcie() -> None:
    keys = ["model=qwen2_5_vl_7b", "loader.global_batch_size=16"]
    total, h100, half = 8_292_166_656, GPUS["h100"], Assumptions(0.5, 0.5)

    def seconds(*more: str) -> tuple[float, float]:
        config = load_train_config([*keys, *more])
        shape = read_shape(config.model)
        work = share_of_work(config, shape, (512, 384))
        found = expected_seconds(config, shape, work, h100, half)
        return found.host, found.optimiser

    # Optimizer state on the device: one kernel moves 7 float32 numbers of an eighth of the weights.
    device = 7 * 4 * total / 8 / 3.35e12
    assert seconds("hardware=8gpu_zero3") == pytest.approx((0, device))
    # The whole reference, once a step: bfloat16, its embedding float32.
    visit = (2 * total + 2 * 152064 * 3584) / 64e9
    assert visit == pytest.approx(0.276, abs=5e-4)
    on_host = ("hardware=8gpu_zero3", "hardware.reference=host")
    assert seconds(*on_host) == pytest.approx((visit, device))
    assert seconds(*on_host, "loss.kl_weight=0")[0] == 0
    # Two images in two passes: an eighth of the gradients six times, of the weights once. The eight
    # processes of the node share 614 GB/s, at which 20 numbers of all weights pass.
    two = ("hardware=8gpu_zero3_offload", "hardware.micro_batch_tokens=1")
    moved = (6 * 4 + 4) * total / 8 / 64e9
    update = 20 * 4 * total / 614e9
    assert seconds(*two) == pytest.approx((moved, update))
    assert update == pytest.approx(1.08, abs=5e-3)
    assert seconds(*two, "hardware.reference=host") == pytest.approx((moved + visit, update))
    # Both inner iterations update; the reference comes once.
    twice = (*two, "hardware.reference=host", "grpo.num_iterations=2")
    assert seconds(*twice) == pytest.approx((2 * moved + visit, 2 * update))
    adapters = ("hardware=1gpu_lora", "hardware.reference=host")
    assert seconds(*adapters)[0] == 0


def test_host_memory_of_a_node(capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["model=qwen2_5_vl_7b", "hardware=multinode_zero3", "hardware.reference=host"]
    assert main([*keys, "--image", "512x384"]) == 0
    # 2 x 8,292,166,656 bytes and 2 x 544,997,376 of the embedding are 16,856 MiB; eight of them
    # 141 GB, however many nodes there are.
    printed = capsys.readouterr().out
    assert "host memory besides: 16,856 MiB of each process, 141 GB of a node's 8\n" in printed


def test_every_image_of_a_prompt_is_counted() -> None:
    one, two = (load_train_config([f"prompt.images={count}"]) for count in (1, 2))
    shape = read_shape(one.model)
    single, double = share_of_work(one, shape), share_of_work(two, shape)
    # 112 x 112 pixels each: 16 tokens, 64 patches; what a row keeps is the same.
    assert (single.tower.tokens, double.tower.tokens) == (16, 32)
    assert (single.tower.rows, double.tower.rows) == (64, 128)
    assert double.tower.flops == 2 * single.tower.flops
    assert double.prompt > single.prompt + 16
    assert tower_row(single.tower, PLAIN) == tower_row(double.tower, PLAIN)


def test_prompts_of_votes(capsys: pytest.CaptureFixture[str]) -> None:
    votes = ["target=self_vote", "hardware=cpu_2procs", "votes.count=8", "votes.pairs_per_image=6"]
    shape = read_shape(load_train_config(votes).model)

    def share(images: int, *more: str) -> Work:
        return share_of_votes(load_train_config([*votes, *more]), shape, images, None)

    scores, pairs = share(101, "votes.by=scores"), share(101)
    # 101 images; 303 pairs in both orders. Half of each is a process's.
    assert (scores.images, scores.group) == (51, 8)
    assert (pairs.images, pairs.group) == (303, 4)
    # No more partners than there are: 6 pairs.
    assert share(4).images == 6
    # Both images are read in each order, and go through the tower once.
    assert pairs.tower.tokens == 2 * scores.tower.tokens
    assert pairs.tower.flops == scores.tower.flops
    # 7058 images, each in 16 pairs of two, in two orders: an eighth of them.
    arguments = ["experiment=paper_evoquality", "--image", "512x384", "--images", "7058"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "votes of each process: 14,116 prompts x 16 responses, prompt " in printed
    # 7058 / 128 steps.
    assert "2 rounds of 55 optimiser steps: " in printed


def test_images_that_cannot_be_shared_are_refused_as_the_training_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["hardware=cpu_2procs", "loader.global_batch_size=9"]) == 2
    assert capsys.readouterr().err == (
        "error: loader.global_batch_size=9: 2 processes (hardware.devices x hardware.nodes) cannot "
        "share it equally; use 8 or 10, or another number of processes\n"
    )


def run_plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vqr1", "plan", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_real_training_takes_what_was_planned() -> None:
    done = run_plan("--check", "hardware.threads=1", "loader.workers=0", "dataset.max_images=60")
    assert done.returncode == 0, done.stderr
    ratio = float(done.stdout.rsplit("ratio ", 1)[1])
    assert 0.85 < ratio < 1.15, done.stdout


@pytest.mark.slow
# Attention and convolutions; the others by the same script, a minute or more each.
@pytest.mark.parametrize("name", ["qwen2_5_vl", "fast_vlm"])
def test_a_step_of_40_million_weights_takes_what_was_planned(name: str) -> None:
    command = [sys.executable, str(REPOSITORY / "scripts/bench_memory.py"), "--quick"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    done = subprocess.run(
        [*command, "--family", name], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shape, size, *_, ratio, _ = done.stdout.splitlines()[-1].split()
    assert (shape, size) == (family(name, "the model").shapes[0], "224x168")
    assert 0.85 < float(ratio) < 1.15, done.stdout


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "hardware=8gpu_zero3"]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert printed.startswith(
        "error: hardware.accelerator=gpu, hardware.devices=8: --check measures"
    )
