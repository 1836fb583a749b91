"""Decoding speed against the memory's: how long one token of B*K responses takes.

A decoding step has to read every weight of the text model and of the output head once, the keys and
values of B prompts once and those of B*K responses so far. Over the measured rate of large copies
that is the shortest time the memory allows; the script prints the share of it that is reached, with
steps replayed as a CUDA graph and without (on a CPU only without).

    python scripts/bench_decode.py                                  # 39 M model, CPU
    python scripts/bench_decode.py --shape 7b --device cuda         # random weights, bfloat16

Not here: sampling a token from the logits, reading the prompt, whole steps (`bench_step.py`).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.clock import now
from bench.setup import SUBJECTS, Size, loaded_images

from vqr1.outputs import own_json, target, write_json
from vqr1.planning.rates import copy_rate
from vqr1.policy.cpu_linear import packed_weights
from vqr1.policy.fast_layers import use_fast_layers
from vqr1.policy.prompt_state import PromptState, read_prompts
from vqr1.policy.shared_prompt import pack_prompts
from vqr1.policy.unwrap import parts_of
from vqr1.policy.vision import encode_images
from vqr1.rollout.cuda_graph_decode import StaticDecoder
from vqr1.rollout.decode import Decoder


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=SUBJECTS, default="qwen2_5_vl", help="the model's")
    parser.add_argument("--shape", help="of the model; default: the family's for CPUs")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--images", type=int, default=8, help="B")
    parser.add_argument("--group", type=int, default=6, help="K")
    parser.add_argument("--tokens", type=int, default=128, help="C, tokens of each response")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=768)
    parser.add_argument(
        "--json", type=target(own_json("bench_decode")), help="file for every metric"
    )
    return parser.parse_args()


def step_bytes(model: Any, prompt: PromptState, slots: int, tokens: int) -> float:
    """Bytes that the middle step of a response must read (C / 2 own tokens)."""
    parts = parts_of(model)
    layers = sum(p.nbytes for p in (*parts.text_layers.parameters(), *parts.text.norm.parameters()))
    kept = (*prompt.keys.values(), *prompt.values.values())
    keys = sum(part.nbytes for layer in kept for part in layer)
    row = sum(layer[0][0, :, 0].nbytes for layer in kept)
    # Each response has states of its own in layers of linear attention.
    row_states = sum(state.state[0].nbytes for state in prompt.states.values())
    own = prompt.last_hidden.shape[0] * slots * (row * tokens / 2 + row_states)
    return float(layers + parts.head.weight.nbytes + keys + own)


def decode_seconds(decoder: Decoder, rows: int, tokens: int, device: torch.device) -> list[float]:
    """Seconds of each step after the first, which records the graph."""
    fed: Tensor = torch.zeros(rows, dtype=torch.long, device=device)
    times = []
    for _ in range(tokens - 1):
        started = now()
        decoder.step(fed)
        times.append(now() - started)
    return times[1:]


@torch.no_grad()
def main() -> None:
    """Measures and prints."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    subject = SUBJECTS[options.family]
    options.shape = options.shape or subject.family.shapes[0]
    print(f"building a {options.shape} model on {device} ...", file=sys.stderr, flush=True)
    model, reader = subject.model(options.shape, dtype, device).eval(), subject.processor()
    model.image_encoding = subject.family.image_encoding(reader.image_processor)
    use_fast_layers(model)
    size = Size("", options.width, options.height, options.images, options.group, options.tokens)
    prompts = subject.builder(reader)(loaded_images(size)).to(device)
    state = read_prompts(model, pack_prompts(model, prompts, encode_images(model, prompts)))
    rows = options.images * options.group
    needed, rate = step_bytes(model, state, options.group, options.tokens), copy_rate(device)
    report: dict[str, Any] = {**vars(options), "bytes": needed, "copy_rate": rate}
    report["json"] = None
    print(
        f"B*K={rows}, prompt {len(prompts.input_ids[0])}, C={options.tokens}: a step reads "
        f"{needed / 1e9:.3f} GB; copies run at {rate / 1e9:.1f} GB/s: {needed / rate * 1e3:.2f} ms"
    )
    kinds: dict[str, Callable[..., Decoder]] = {"plain": Decoder}
    if device.type == "cuda":
        kinds["graph"] = StaticDecoder
    for name, kind in kinds.items():
        decoder = kind(model, state, options.group, options.tokens)
        with packed_weights(parts_of(model).text, rows):
            started = time.perf_counter()
            times = decode_seconds(decoder, rows, options.tokens, device)
            whole = time.perf_counter() - started
        median = statistics.median(times)
        share = needed / rate / median
        report[name] = {"median": median, "share_of_bandwidth": share, "whole": whole}
        print(
            f"{name:>6}: {median * 1e3:.2f} ms a step, {rows / median:.0f} tokens/s, "
            f"{share:.0%} of the memory's rate; {whole:.2f} s for {options.tokens - 1} steps"
        )
    if options.json is not None:
        write_json(options.json, report, "bench_decode")


if __name__ == "__main__":
    main()
