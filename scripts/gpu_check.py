"""What only a GPU can answer, in about eight minutes on one: kernels, precision, graphs, memory.

    python scripts/gpu_check.py                      # all parts
    python scripts/gpu_check.py --only kernels graphs
    python scripts/gpu_check.py --device cpu         # what a CPU can, at tiny sizes

Needs torch and transformers; peft for the parts with adapters, which are skipped without it and
report that. Every part prints its results and a verdict as it ends, so that a run cut short has
printed what it found. Weights are random: nothing is downloaded. The exit code counts the parts
that failed.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.bare import MISSING
from bench.gpu import QWEN, Check, error

from vqr1.device import passes_in
from vqr1.policy import flash
from vqr1.policy.prompt_state import read_prompts
from vqr1.policy.sampling_weights import half_weights
from vqr1.policy.shared_prompt import pack_prompts, response_logprobs
from vqr1.policy.unwrap import family_of, parts_of, unwrap
from vqr1.policy.vision import encode_images, encoding_of
from vqr1.records import PromptBatch
from vqr1.rollout.cuda_graph_decode import StaticDecoder
from vqr1.rollout.decode import Decoder

LORA = {"r": 64, "lora_alpha": 128, "init_lora_weights": False}


def versions(check: Check) -> None:
    """1. What is installed."""
    import transformers

    name = torch.cuda.get_device_name() if check.gpu else "CPU"
    cudnn = torch.backends.cudnn.version()
    check.line(f"torch {torch.__version__}, transformers {transformers.__version__}, {name}")
    check.line(f"cuDNN {cudnn}; missing, and not needed: {', '.join(MISSING) or 'nothing'}")
    for package in ("peft", "flash_attn"):
        there = importlib.util.find_spec(package) is not None
        check.line(f"{package}: {'installed' if there else 'not installed'}")


def kernels(check: Check) -> None:
    """2. The flash kernels against the definition, forwards and backwards."""
    dtype = torch.bfloat16 if check.gpu else torch.float32
    limit = 0.02 if check.gpu else 1e-5
    for length in (1, 7, 1300 if check.gpu else 65):
        for causal in (False, True):
            q, grad = (torch.randn(2, 28, length, 128, device=check.device) for _ in range(2))
            # Views of packed rows, as the passes have them.
            k, v = (
                torch.randn(2, length, 4, 128, device=check.device).transpose(1, 2)
                for _ in range(2)
            )
            out, lse = flash.math_forward(q, k, v, causal=causal, scale=0.09)
            expected = flash.math_backward(
                grad, q, k, v, out=out, lse=lse, causal=causal, scale=0.09
            )
            low = (q.to(dtype), k.to(dtype), v.to(dtype))
            found, found_lse = flash.forward(*low, causal=causal, scale=0.09)
            gradients = flash.backward(
                grad.to(dtype), *low, found, found_lse, causal=causal, scale=0.09
            )
            errors = [error(found, out), float((found_lse - lse).abs().max())]
            errors += [error(a, b) for a, b in zip(gradients, expected, strict=True)]
            # Of one key the probability is 1, and the gradients of query and key are 0.
            worst = max(errors[:2] + errors[4 if length == 1 else 2 :])
            check.line(f"S={length}, causal={causal}: worst error {worst:.1e}", worst <= limit)
    used(check, dtype, limit)


def used(check: Check, dtype: torch.dtype, limit: float) -> None:
    """The kernel that reads as many keys of a cache as a tensor states."""
    n, heads, group, places, held = 6, 4, 7, 128, 37
    q = torch.randn(n, heads, group, 128, device=check.device, dtype=dtype)
    k, v = (
        torch.randn(n, places, heads, 128, device=check.device, dtype=dtype).transpose(1, 2)
        for _ in range(2)
    )
    if not flash.reads_used(k):
        check.line("keys counted on the device: no such kernel for this device and type")
        return
    rows = flash.UsedRows.of(n, group, places, check.device)
    counts = torch.full((n,), held, dtype=torch.int32, device=check.device)
    out, lse = flash.used_forward(q, k, v, counts, rows, scale=0.09)
    wanted, wanted_lse = flash.math_forward(
        q, k[:, :, :held], v[:, :, :held], causal=False, scale=0.09
    )
    worst = max(error(out, wanted), float((lse - wanted_lse).abs().max()))
    check.line(f"keys counted on the device: worst error {worst:.1e}", worst <= limit)


def plain_logprobs(model: Any, prompts: PromptBatch, tokens: Tensor) -> Tensor:
    """[B, K, C] by the library's own pass: every response with its prompt and image."""
    core, encoding, rows = unwrap(model), encoding_of(model), []
    token = family_of(model).image_token(core.config)
    for b, ids in enumerate(prompts.input_ids):
        patches, grid = encoding.encode(prompts.images[b])
        for response in tokens[b]:
            row = torch.cat([ids.to(tokens.device), response])[None]
            logits = core(
                input_ids=row,
                attention_mask=torch.ones_like(row),
                mm_token_type_ids=(row == token).int(),
                pixel_values=patches,
                image_grid_thw=grid.to(tokens.device),
            ).logits[0, len(ids) - 1 : -1]
            rows.append(logits.float().log_softmax(-1).gather(1, response[:, None])[:, 0])
    return torch.stack(rows).view(tokens.shape)


def gradients(check: Check) -> None:
    """3. The shared pass against the plain one under autocast, with checkpointing."""
    model = check.model(check.shape, layers=4)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    prompts = check.prompts(model, 2, 224)
    tokens = torch.randint(10, 200, (2, 3, 12), device=check.device)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    # The exact ones are those of the plain pass in float32.
    found = {}
    for name, mixed, shared in (("exact", 0, 0), ("plain", 1, 0), ("shared", 1, 1)):
        model.zero_grad(set_to_none=True)
        with check.mixed() if mixed else passes_in("32-true", check.device):
            values = (
                response_logprobs(model, prompts, tokens, mask).logprobs
                if shared
                else plain_logprobs(model, prompts, tokens)
            )
        values.sum().backward()
        found[name] = [p.grad for p in model.parameters() if p.grad is not None]
    errors = {
        name: float(
            torch.stack(
                [(a - b).norm() for a, b in zip(found[name], found["exact"], strict=True)]
            ).norm()
            / torch.stack([b.norm() for b in found["exact"]]).norm()
        )
        for name in ("plain", "shared")
    }
    check.line(
        f"gradients against float32: shared {errors['shared']:.1e}, plain {errors['plain']:.1e}",
        errors["shared"] <= 1.5 * errors["plain"] + 1e-4,
    )


def with_adapters(model: Any) -> Any:
    """The model with adapters; None without peft."""
    if importlib.util.find_spec("peft") is None:
        return None
    from peft import LoraConfig, get_peft_model

    from vqr1.policy.adapters import lean_adapters

    adapted = get_peft_model(
        model, LoraConfig(**LORA, target_modules=QWEN.adapter_targets(["q_proj", "up_proj"]))
    )
    lean_adapters(adapted)
    return adapted.eval()


@torch.no_grad()
def graphs(check: Check) -> None:
    """4. Recorded decoding steps against plain ones, in the modes that a training has."""
    kinds: list[tuple[str, torch.dtype, bool]] = [
        ("bfloat16", torch.bfloat16, False),
        ("float32 under autocast", torch.float32, False),
        ("adapters", torch.bfloat16, True),
    ]
    for name, dtype, adapters in kinds:
        model = check.model(check.shape, dtype, layers=4)
        policy = with_adapters(model) if adapters else model
        if policy is None:
            check.line(f"{name}: skipped, peft is not installed")
            continue
        prompts = check.prompts(policy, 4, 224)
        with check.mixed(), half_weights(policy):
            state = read_prompts(
                policy, pack_prompts(policy, prompts, encode_images(policy, prompts))
            )
            # On a GPU 384 rows, of which 192 are computed once as many have ended.
            slots = 96 if check.gpu else 3
            plain = Decoder(policy, state, slots, 150)
            fixed = StaticDecoder(policy, state, slots, 150)
            worst, rows = 0.0, 4 * slots
            for step in range(140):
                tokens = torch.full((rows,), 10 + step, device=check.device)
                expected, logits = plain.step(tokens), fixed.step(tokens)
                worst = max(worst, error(logits, expected))
                if step in (9, 20):
                    kept = list(range(0, rows, 2))
                    plain.keep(kept)
                    fixed.keep(kept)
                    rows = len(kept)
        check.line(
            f"{name}: worst error of logits {worst:.1e}, {len(fixed._graphs)} graphs",
            worst < 0.05,
        )


def sharded(check: Check) -> None:
    """5. FSDP2 of one rank: train, validate in both orders, gather."""
    import torch.distributed as dist

    from vqr1.distributed.sharding import FullySharded, Replicated
    from vqr1.policy.sharded_modules import sharded_modules

    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29591")
    dist.init_process_group("cpu:gloo,cuda:nccl" if check.gpu else "gloo", rank=0, world_size=1)
    try:
        whole = check.model(check.shape, layers=4)
        whole.gradient_checkpointing_enable({"use_reentrant": False})
        prompts = check.prompts(whole, 2, 224)
        tokens = torch.randint(10, 200, (2, 2, 8), device=check.device)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        full = copy.deepcopy(whole)
        with check.mixed():
            loss = response_logprobs(full, prompts, tokens, mask).logprobs.mean()
        loss.backward()
        expected = Replicated().finish_gradients(full, 1.0)
        for first in ("train", "validate"):
            model = copy.deepcopy(whole)
            sharding = FullySharded(sharded_modules(model), half_passes=True)
            if first == "validate":
                with sharding.unsharded(), check.mixed():
                    response_logprobs(model, prompts, tokens, mask)
            with check.mixed():
                loss = response_logprobs(model, prompts, tokens, mask).logprobs.mean()
            loss.backward()
            norm = sharding.finish_gradients(model, 1.0)
            with sharding.unsharded(), check.mixed():
                response_logprobs(model, prompts, tokens, mask)
            gathered = sum(value.numel() for _, value in sharding.full_weights(model))
            total = sum(value.numel() for value in whole.state_dict().values())
            check.line(
                f"{first} first: gradient norm {norm:.3e}, unsharded {expected:.3e}; {gathered:,} "
                "weights gathered",
                abs(norm - expected) < 0.02 * expected and gathered == total,
            )
    finally:
        dist.destroy_process_group()


def tower(check: Check) -> None:
    """7. The tower over many image sizes: cuDNN's attention and flash attention."""
    model = check.model(check.shape, torch.bfloat16, layers=1)
    sides = range(224, 224 + 28 * (30 if check.gpu else 3), 28)
    batches = [check.prompts(model, 2, side) for side in sides]
    for cudnn in (True, False):
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        with torch.no_grad():
            cold = check.seconds(lambda: [encode_images(model, b) for b in batches], times=1)
            warm = check.seconds(lambda: [encode_images(model, b) for b in batches], times=2)
        check.line(
            f"{len(batches)} sizes, cuDNN {'on' if cudnn else 'off'}: first {cold:.2f} s, then "
            f"{warm:.2f} s"
        )


def step(check: Check) -> None:
    """6. and 8. Memory of an update: 3B with all weights and one fused AdamW; 7B with adapters."""
    model = check.model(check.shape, layers=0 if check.gpu else 2)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    fused = True if check.gpu else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=fused)
    for number in range(2):
        prompts = check.prompts(model, 2, 448)
        tokens = torch.randint(10, 200, (2, 6, 64), device=check.device)
        with check.peak(f"{check.shape} update {number + 1}"):
            update(check, model, prompts, tokens)
        with check.peak(f"{check.shape} optimiser {number + 1}"):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    del model, optimizer
    empty(check)
    adapted = with_adapters(check.model(check.large, torch.bfloat16).requires_grad_(False))
    if adapted is None:
        check.line("adapters: skipped, peft is not installed")
        return
    tokens = torch.randint(10, 200, (2, 6, 600 if check.gpu else 20), device=check.device)
    with check.peak(f"{check.large} adapters, {tokens.numel()} response tokens"):
        update(check, adapted, check.prompts(adapted, 2, 448), tokens)


def update(check: Check, model: Any, prompts: PromptBatch, tokens: Tensor) -> None:
    """A forward and a backward pass."""
    mask = torch.ones_like(tokens, dtype=torch.bool)
    with check.mixed():
        loss = response_logprobs(model, prompts, tokens, mask).logprobs.mean()
    loss.backward()
    value = float(loss.detach())
    check.line(f"loss {value:.3f}", math.isfinite(value))


@torch.no_grad()
def decoding(check: Check) -> None:
    """9. A decoding step of 48 responses against the time in which memory gives what it reads."""
    from vqr1.planning.rates import copy_rate

    model = check.model(check.large, torch.bfloat16)
    rate = copy_rate(check.device, repeats=3)
    prompts = check.prompts(model, 8 if check.gpu else 2, 448)
    with check.mixed():
        state = read_prompts(model, pack_prompts(model, prompts, encode_images(model, prompts)))
        parts = parts_of(model)
        read = sum(p.nbytes for p in parts.text_layers.parameters()) + parts.head.weight.nbytes
        for slots in (6, 96) if check.gpu else (2,):
            decoder = StaticDecoder(model, state, slots, 64)
            tokens = torch.full((len(prompts) * slots,), 9, device=check.device)
            decoder.step(tokens)
            taken = check.seconds(lambda d=decoder, t=tokens: d.step(t), times=8)  # type: ignore[misc]
            check.line(
                f"{len(tokens)} responses: {taken * 1e3:.2f} ms a token, "
                f"{read / rate / taken:.0%} of the memory's rate"
            )


def empty(check: Check) -> None:
    """Give freed memory back."""
    gc.collect()
    if check.gpu:
        torch.cuda.empty_cache()


PARTS = (versions, kernels, gradients, graphs, sharded, step, tower, decoding)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts; returns how many failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--only", nargs="+", choices=[part.__name__ for part in PARTS])
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: PyTorch finds no GPU on this machine; use --device cpu")
        return 2
    failed = 0
    for part in PARTS:
        if options.only and part.__name__ not in options.only:
            continue
        check, started = Check(options.device), time.perf_counter()
        print((part.__doc__ or "").splitlines()[0], flush=True)
        try:
            part(check)
        except RuntimeError as problem:  # out of memory, a kernel that does not exist
            check.line(f"{type(problem).__name__}: {str(problem).splitlines()[0]}", good=False)
        empty(check)
        failed += not check.good
        print(
            f"{part.__name__}: {'good' if check.good else 'FAILED'} "
            f"({time.perf_counter() - started:.0f} s)",
            flush=True,
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())
