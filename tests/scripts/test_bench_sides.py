"""The benchmark's own side runs the real training step, and counts what it claims to count."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.tiny_models import tiny_model, tiny_prompts
from tools.tiny_checkpoints import smolvlm
from tools.tiny_checkpoints._folder import save_folder
from vqr1.policy.families import _qwen2_5_vl_shapes as released
from vqr1.policy.packaged import tiny_policy_folder
from vqr1.policy.prompt_state import read_prompts
from vqr1.policy.shared_prompt import pack_prompts
from vqr1.policy.vision import encode_images

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import bench_decode
import bench_memory
import bench_step
from bench import ours, peer
from bench.counts import counted
from bench.setup import (
    CHECKPOINT_SIZE,
    SIZES,
    SUBJECTS,
    Checkpoint,
    Place,
    Size,
    loaded_images,
)


@pytest.fixture
def small_weights(tmp_path, monkeypatch):
    """A folder with weights for the benchmark's processor, of a few thousand parameters."""
    from bench import setup

    text, vision = released.SHAPES["39m"]
    text = {**text, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
    vision = {**vision, "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2,
              "fullatt_block_indexes": [0]}  # fmt: skip
    monkeypatch.setitem(released.SHAPES, "39m", (text, vision))
    subject = setup.SUBJECTS["qwen2_5_vl"]
    subject.weights("39m", Place(torch.device("cpu")), tmp_path / "weights")
    return tmp_path / "weights"


@pytest.mark.medium
@pytest.mark.parametrize("mixed", [False, True])
def test_our_side_times_whole_steps_of_exactly_c_tokens(small_weights, tmp_path, mixed):
    size = Size("small", 112, 84, images=2, group=3, tokens=5)
    result = ours.run(
        SUBJECTS["qwen2_5_vl"], size, small_weights, tmp_path, Place(torch.device("cpu"), mixed),
        steps=2, linears=True,
    )  # fmt: skip
    assert len(result["steps"]) == 2
    for step in result["steps"]:
        assert {"images", "generation", "reference", "update"} <= step.keys()
        phases = sum(seconds for name, seconds in step.items() if name not in ("total", "cpu"))
        assert phases == pytest.approx(step["total"])


@pytest.mark.medium
@pytest.mark.parametrize("name", [*SUBJECTS, "a checkpoint folder"])
def test_both_sides_see_the_same_prompt_and_are_counted(name, tmp_path):
    if name in SUBJECTS:
        subject, shape = SUBJECTS[name], SUBJECTS[name].family.shapes[0]
    else:
        save_folder(smolvlm.checkpoint(), tmp_path)
        subject, shape = Checkpoint.of(tmp_path), ""
    reader, size = subject.processor(), Size("small", 180, 100, images=2, group=3, tokens=5)
    prompts = subject.builder(reader)(loaded_images(size))
    question = [{"type": "image"}, {"type": "text", "text": subject.question}]
    text = reader.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    theirs = reader(text=[text], images=[loaded_images(size)[0]], return_tensors="pt")
    assert theirs["input_ids"][0].tolist() == prompts.input_ids[0].tolist()
    counts = counted(subject, shape, size)
    assert counts.prompt_tokens == len(prompts.input_ids[0])
    assert sum(counts.shares.values()) == pytest.approx(1)
    # Three responses an image: TRL sends each prompt three times through the model, five passes;
    # ours takes the tower's forward pass of the update from the rollout.
    ours, theirs = counts.ours, counts.peer
    assert (theirs.vision, theirs.prompt) == (3 * ours.vision, 3 * ours.prompt)
    assert counts.ratio == pytest.approx(5 * theirs.forward / (5 * ours.forward - ours.vision))
    assert 1 < counts.ratio < 3.75


def test_bytes_of_a_decoding_step_by_hand():
    model = tiny_model(kv_heads=2)
    prompts = tiny_prompts([(2, 2), (3, 5)], [5, 9])
    with torch.no_grad():
        state = read_prompts(model, pack_prompts(model, prompts, encode_images(model, prompts)))
    # A layer (hidden 48, 4 heads of 12, 2 key-value heads, feed-forward 96): q 48*48 + 48,
    # k and v 24*48 + 24 each, o 48*48, gate, up and down 48*96 each, two norms of 48.
    layer = 48 * 48 + 48 + 2 * (24 * 48 + 24) + 48 * 48 + 3 * 48 * 96 + 2 * 48
    weights = 3 * layer + 48 + 48 * 96
    # Keys and values: 2 * 3 layers * 24 numbers a token; prompts of 3 + 1 + image + 1 + text.
    prompt_tokens = (5 + 4 + 5) + (5 + 15 + 9)
    own_tokens = 2 * 6 * 10 / 2
    expected = 4 * (weights + 2 * 3 * 24 * (prompt_tokens + own_tokens))
    assert bench_decode.step_bytes(model, state, slots=6, tokens=10) == expected


@pytest.mark.medium
@pytest.mark.parametrize("parts", [1, 2])
def test_trls_step_is_the_whole_batch_in_as_many_parts_as_asked(
    small_weights, tmp_path, monkeypatch, parts
):
    size = Size("small", 112, 84, images=2, group=2, tokens=3)
    sampled, updated = [], []
    generate, loss = peer._Timed._generate_single_turn, peer.GRPOTrainer.compute_loss

    def counting(self, prompts, *args, **options):
        sampled.append(len(prompts))
        return generate(self, prompts, *args, **options)

    def counting_loss(self, model, inputs, *args, **options):
        updated.append(len(inputs["completion_ids"]))
        return loss(self, model, inputs, *args, **options)

    monkeypatch.setattr(peer._Timed, "_generate_single_turn", counting)
    monkeypatch.setattr(peer.GRPOTrainer, "compute_loss", counting_loss)
    result = peer.run(
        SUBJECTS["qwen2_5_vl"], size, small_weights, tmp_path, Place(torch.device("cpu")),
        steps=1, parts=parts,
    )  # fmt: skip
    assert len(result["steps"]) == 1
    # A warm-up and a timed step: one rollout of all rows each, and one update in parts.
    assert sampled == [4, 4]
    assert updated == [4 // parts] * 2 * parts


@pytest.mark.parametrize("size", [*SIZES.values(), CHECKPOINT_SIZE], ids=lambda size: size.name)
def test_trls_batch_of_every_size_can_be_divided(size):
    assert not any(size.images * size.group % parts for parts in bench_step.PARTS)


@pytest.mark.medium
def test_a_script_that_measures_our_side_alone_has_no_option_of_trls(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "not run here")
    monkeypatch.setattr(bench_step.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SystemExit, match="exit code 1: not run here"):
        bench_memory.larger(
            SUBJECTS["qwen2_5_vl"], Size("small", 112, 84, 2, 3, 5), tiny_policy_folder()
        )
