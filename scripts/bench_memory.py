"""The memory that `vqr1 plan` expects beside what real training steps take on this CPU.

    python scripts/bench_memory.py                 # the tiny policy and the 39 M model, seven sizes
    python scripts/bench_memory.py --quick         # the 39 M model's smallest size only
    python scripts/bench_memory.py --quick --family smolvlm

The tiny policy trains by `train.py` on the demo set; the 39 M model, whose answers are noise that
no reward could rank, by the same step under the benchmark's reward (`bench/ours.py`). Each line is
three steps in a process of its own: planned and measured peak, their ratio, and the ratio of what
comes on top of the program's libraries.

Not here: GPUs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.setup import SUBJECTS, Place, Size, Subject, loaded_images
from bench_step import run_in_process

from vqr1.cli.plan import libraries, load_train_config
from vqr1.planning.check import STEPS, measured_peak
from vqr1.planning.memory import MemoryPlan, plan_memory
from vqr1.planning.shape import Work, read_shape, share_of_work

TINY = ((16, 6, 48), (32, 8, 32))
"""B, K, C with the demo set's images of 112 x 112."""

LARGER = (
    Size("224x168", 224, 168, images=8, group=6, tokens=32),
    Size("448x336", 448, 336, images=4, group=6, tokens=64),
    Size("448x336", 448, 336, images=8, group=4, tokens=32),
    Size("512x384", 512, 384, images=4, group=6, tokens=128),
    Size("1024x768", 1024, 768, images=1, group=8, tokens=64),
)


def tiny(images: int, group: int, tokens: int) -> tuple[MemoryPlan, float]:
    """The plan of the tiny policy's training, and its measured peak in MiB."""
    overrides = [
        "hardware.threads=1", "loader.workers=0", f"loader.batch_size={images}",
        f"grpo.group_size={group}", f"rollout.sampling.max_new_tokens={tokens}",
    ]  # fmt: skip
    config = load_train_config(overrides)
    shape = read_shape(config.model)
    work = share_of_work(config, shape)
    found = measured_peak(config, overrides)
    return plan_memory(config, shape, work, process=libraries()), found


def larger(subject: Subject, size: Size, weights: Path) -> tuple[MemoryPlan, float]:
    """The plan of a step of a family's model for CPUs, and its measured peak in MiB."""
    config = load_train_config([f"model.path={weights}"])
    options = argparse.Namespace(
        threads=1, steps=STEPS - 1, device="cpu", precision="32", model=None,
        family=subject.model_type,
    )  # fmt: skip
    result = run_in_process(options, "ours", size, weights)
    if "failed" in result:
        sys.exit(result["failed"])
    shape, builder = read_shape(config.model), subject.builder(subject.processor())
    tower = shape.family.tower_cost(shape.config, builder.rule, (size.width, size.height))
    length = len(builder(loaded_images(replace(size, images=1))).input_ids[0])
    work = Work(size.images, size.group, tower, length - tower.tokens, size.tokens)
    plan = plan_memory(config, shape, work, process=libraries())
    return plan, result["peak_mib"]


def show(name: str, sizes: tuple[int, int, int], plan: MemoryPlan, found: float) -> None:
    """Prints one line."""
    planned, own = plan.peak / 2**20, libraries() / 2**20
    images, group, tokens = sizes
    print(
        f"{name:<15}{images:>3}{group:>3}{tokens:>5}{planned:>13,.0f}{found:>14,.0f}"
        f"{planned / found:>7.2f}{(planned - own) / (found - own):>12.2f}",
        flush=True,
    )


def main() -> None:
    """Plan, measure and print each size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the 39 M model's smallest size only")
    parser.add_argument("--family", choices=SUBJECTS, default="qwen2_5_vl", help="the model's")
    options = parser.parse_args()
    subject = SUBJECTS[options.family]
    shape = subject.family.shapes[0]
    libraries()  # before anything else is in this process
    print("                 B  K    C  planned MiB  measured MiB  ratio  on top only")
    for sizes in () if options.quick else TINY:
        show("tiny 112x112", sizes, *tiny(*sizes))
    with tempfile.TemporaryDirectory() as folder:
        weights = subject.weights(shape, Place(torch.device("cpu")), Path(folder))
        for size in LARGER[:1] if options.quick else LARGER:
            sizes = (size.images, size.group, size.tokens)
            show(f"{shape} {size.name}", sizes, *larger(subject, size, weights))


if __name__ == "__main__":
    main()
