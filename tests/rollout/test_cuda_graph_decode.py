"""Decoding with fixed shapes against decoding with growing ones; the graph itself needs a GPU."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny_models import tiny_model, tiny_prompts
from tests.support.tiny_tokenizer import tiny_tokenizer
from vqr1.config import SamplingConfig
from vqr1.policy.prompt_state import read_prompts
from vqr1.policy.shared_prompt import pack_prompts
from vqr1.policy.vision import encode_images
from vqr1.rollout import cuda_graph_decode as static_decode
from vqr1.rollout.cuda_graph_decode import StaticDecoder
from vqr1.rollout.decode import Decoder
from vqr1.rollout.local import LocalEngine

# Images of three sizes: prompts of three lengths, in runs of 2, 1 and 1.
PROMPTS = tiny_prompts([(2, 2), (2, 2), (3, 5), (4, 2)], [5, 5, 9, 1])
SLOTS, LIMIT = 3, 11


@torch.no_grad()
def both(model, dtype=torch.float32):
    model = model.to(dtype)
    state = read_prompts(model, pack_prompts(model, PROMPTS, encode_images(model, PROMPTS)))
    return Decoder(model, state, SLOTS, LIMIT), StaticDecoder(model, state, SLOTS, LIMIT)


@torch.no_grad()
@pytest.mark.parametrize("width", [4, 128])
def test_logits_equal_those_of_growing_shapes(monkeypatch, width):
    # At width 4 the own keys are read at widths 4, 8 and 11: across the borders of the graphs.
    monkeypatch.setattr(static_decode, "WIDTH", width)
    growing, fixed = both(tiny_model())
    generator = torch.Generator().manual_seed(0)
    rows = 4 * SLOTS
    torch.testing.assert_close(fixed.first_logits(), growing.first_logits())
    for step in range(LIMIT):
        tokens = torch.randint(0, 90, (rows,), generator=generator)
        expected = growing.step(tokens)
        torch.testing.assert_close(fixed.step(tokens), expected, rtol=1e-5, atol=1e-5)
        # Some responses end: singly, a whole image (slots 3 to 5), and many together.
        kept = {2: [r for r in range(rows) if r not in (0, 3, 4, 5)], 5: [1, 4]}.get(step)
        if kept is not None:
            growing.keep(kept)
            fixed.keep(kept)
            rows = len(kept)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_replayed_graphs_give_the_tokens_of_plain_steps(dtype):
    model = tiny_model(dtype=dtype).to("cuda")
    sampling = SamplingConfig(max_new_tokens=30, stop="answer")
    results = [
        LocalEngine(model, tiny_tokenizer(), 10**6, cuda_graph=graph).sample(
            PROMPTS.to("cuda"), group_size=6, sampling=sampling, seed=3
        )
        for graph in (True, False)
    ]
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    same = results[0].tokens == results[1].tokens
    # In bfloat16 a rounding may turn a draw and with it the rest of that response.
    assert float(same.float().mean()) > (0.999 if dtype == torch.float32 else 0.8)
    if dtype == torch.float32:
        torch.testing.assert_close(
            results[0].logprobs, results[1].logprobs, rtol=tolerance, atol=tolerance
        )
