"""Numbers that passes keep, as planned and as they are: for the backward pass, and of states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.planning.test_planning import PLAIN, saved_bytes
from tests.policy.families.cases import CASES, FamilyCase
from tests.support.images import noise_image
from tools.tiny_checkpoints import build
from vqr1.config import ModelConfig, PromptConfig
from vqr1.planning.memory import states, text_rows, tower_row
from vqr1.policy.linear_attention import LinearState
from vqr1.policy.loading import load_policy
from vqr1.policy.prompt_state import read_prompts
from vqr1.policy.prompts import load_prompts
from vqr1.policy.shared_prompt import pack_prompts, response_logprobs
from vqr1.policy.vision import encode_images
from vqr1.rollout.decode import Decoder

pytestmark = pytest.mark.medium


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.model_type)
def test_activations_of_every_family(case: FamilyCase, tmp_path: Path) -> None:
    low, high = case.area
    folder = build(case.model_type, tmp_path / "model", seed=1)
    own = ModelConfig(name="m", path=str(folder), min_pixels=low, max_pixels=high)
    builder = load_prompts(own, PromptConfig(name="p", text="How good is it?"))
    policy = load_policy(own)
    model, family, config = policy.model, policy.family, policy.model.config
    prompts = builder([noise_image(number, 112, 112) for number in range(2)])
    tower = family.tower_cost(config, builder.rule, (112, 112))
    row = tower.depth * tower_row(tower, PLAIN) + tower.ends * 4
    found = saved_bytes(model, lambda: encode_images(model, prompts))
    tower_ratio = 2 * tower.rows * row / found

    features = encode_images(model, prompts).leaves()
    tokens = torch.zeros((2, 3, 40), dtype=torch.long)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    found = saved_bytes(
        model, lambda: response_logprobs(model, prompts, tokens, mask, vision=features)
    )
    text = config.get_text_config()
    rows = 2 * (len(prompts.input_ids[0]) + 3 * 39)
    row, _ = text_rows(family, config, PLAIN)
    # Of two prompts and three responses each.
    carried = 2 * (1 + 3) * states(family, config, PLAIN)
    logits = 2 * (1 + 3 * 39) * text.vocab_size * 4
    text_ratio = (rows * (row + 2 * text.hidden_size * 4) + logits + carried) / found
    print(f"\n{case.model_type}: tower {tower_ratio:.3f}, text {text_ratio:.3f}")
    assert tower_ratio == pytest.approx(1, abs=0.05)
    assert text_ratio == pytest.approx(1, abs=0.05)

    # While responses are sampled: every prompt's states, and every response's own, to the byte.
    with torch.no_grad():
        left = read_prompts(model, pack_prompts(model, prompts, features))
        decoder = Decoder(model, left, 3, 40)
    assert held(left.states) + held(decoder._states) == carried


def held(states: dict[int, LinearState]) -> int:
    """Bytes of the storages that states of all layers lie in."""
    parts = [part.untyped_storage() for one in states.values() for part in (one.inputs, one.state)]
    return sum({part.data_ptr(): part.nbytes() for part in parts}.values())
