"""What a training will need: memory of a device in each phase, operations, and time of a step.

    vqr1 plan model=qwen2_5_vl_7b hardware=8gpu_zero3 --gpu h100 --image 512x384
    vqr1 plan experiment=paper_kadid --gpu h200 --image 512x384 --images 6125
    vqr1 plan --check                        # three real steps on this CPU beside the plan
    vqr1 plan hardware=1gpu_lora --dry-run   # the step's own code on a GPU that is not there

The configuration is that of `vqr1 train`, and nothing of it is loaded: no weights, no data set.
Sizes are the longest that the configuration admits: every response at
`rollout.sampling.max_new_tokens`, and images at `model.max_pixels` unless `--image` states how
large they are. On a CPU the rates of matrix products and of copies are measured here; a GPU's are
its vendor's numbers times two shares, which are assumptions (`--compute-share`, `--decode-share`).
What was compared with real runs, and what was not: docs/scale.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from functools import cache

import psutil
import torch

from vqr1.cli.compose import compose_config, plain_values
from vqr1.cli.options import OptionParser, positive, run_options
from vqr1.config import TrainConfig, validate
from vqr1.errors import ConfigError
from vqr1.planning.check import measured_peak
from vqr1.planning.memory import plan_memory
from vqr1.planning.rates import copy_rate, peak_rates
from vqr1.planning.report import print_memory, print_saved, print_time
from vqr1.planning.saved import plan_saved
from vqr1.planning.shape import ModelShape, Work, kinds_of_steps, read_shape, rule_of
from vqr1.planning.speed import GPUS, Assumptions, Machine
from vqr1.program import program
from vqr1.training.dry_run_report import DryRun, print_dry_run
from vqr1.training.initial_run import take_initial_run
from vqr1.training.stages import GrpoStage, build_stage

CPU_SHARES = Assumptions(compute=0.45, decode=0.5)
GPU_SHARES = Assumptions(compute=0.4, decode=0.6)


def parser() -> argparse.ArgumentParser:
    """The command's own options."""
    options = OptionParser(
        "plan",
        description=(__doc__ or "").splitlines()[0],
        epilog=f"`{program('train')} --help` explains the configuration.",
    )
    options.add_argument("--gpu", choices=list(GPUS), default="h100", help="for GPU profiles")
    options.add_argument("--image", type=_size, help="images' width x height, such as 512x384")
    options.add_argument(
        "--images", type=positive, help="training images, for max_epochs and votes"
    )
    options.add_argument("--compute-share", type=_share, help="reached share of the peak rate")
    options.add_argument("--decode-share", type=_share, help="reached share of the memory's rate")
    options.add_argument("--price", type=_price, help="of a device's hour, for the cost of the run")
    options.add_argument("--check", action="store_true", help="measure three steps on this CPU")
    options.add_argument(
        "--dry-run",
        action="store_true",
        help="run a step's own code without a device: memory, host synchronisations, launches",
    )
    return options


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.split("x"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}: write WIDTHxHEIGHT, such as 512x384"
        ) from error
    if min(width, height) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: both sides must be above 0")
    return width, height


def _share(text: str) -> float:
    return _number_up_to(text, 1.0, "a share above 0, at most 1")


def _price(text: str) -> float:
    return _number_up_to(text, sys.float_info.max, "a number above 0")


def _number_up_to(text: str, most: float, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= most:
        raise argparse.ArgumentTypeError(f"{text!r}: must be {what}")
    return number


def load_train_config(overrides: Sequence[str]) -> TrainConfig:
    """Compose and validate `conf/train.yaml`.

    Raises:
        ConfigError: every key that breaks a rule, or a chain of trainings.
    """
    # The composed folder needs a command that runs; nothing is written there.
    composed = compose_config("train", ["run_dir=plan", *overrides])
    if composed.chain is not None:
        raise ConfigError(
            [f"chain={composed.chain}: a plan is of one training; give one of them with stage="]
        )
    take_initial_run(composed, overrides)
    return validate(TrainConfig, plain_values(composed))


@cache
def libraries() -> float:
    """Bytes of a training process before it loads a model; looked at once, in this process."""
    import vqr1.training.run  # noqa: F401

    return float(psutil.Process().memory_info().rss)


def machine_of(config: TrainConfig, gpu: str) -> Machine:
    """The named GPU, or this CPU with its measured rates."""
    if config.hardware.accelerator == "gpu":
        return GPUS[gpu]
    if config.hardware.threads is not None:
        torch.set_num_threads(config.hardware.threads)
    device = torch.device("cpu")
    rates = peak_rates(device, torch.float32)
    memory = copy_rate(device, repeats=3)
    return Machine(None, max(rates.values()), memory, memory, memory, memory, memory)


def _dry_run(
    config: TrainConfig, shape: ModelShape, work: Work, size: tuple[int, int] | None
) -> DryRun:
    """A step without a device, of images of a size, or of the largest."""
    from vqr1.training.dry_run import dry_run

    edge = math.isqrt(config.model.max_pixels)
    return dry_run(config, shape, work, rule_of(config, shape), size or (edge, edge))


def plan(options: argparse.Namespace, config: TrainConfig) -> None:
    """Print the plan."""
    if not isinstance(build_stage(config.stage), GrpoStage):
        print(
            "this is the plan of stage=grpo with these keys; a stage that samples nothing and has "
            "no reference takes less time and memory"
        )
    process = libraries() if config.hardware.accelerator == "cpu" else 0.0
    shape = read_shape(config.model)
    kinds = kinds_of_steps(config, shape, options.image)
    plans = [plan_memory(config, shape, kind.work, process=process) for kind in kinds]
    memory = max(plans, key=lambda plan: plan.peak)
    trained = f" + {shape.adapters / 1e6:.1f} M in adapters" if shape.adapters else ""
    print(
        f"{config.model.name}: {shape.total / 1e6:,.1f} M weights (text {shape.text / 1e6:,.1f}, "
        f"vision {shape.vision / 1e6:,.1f}, embedding and head "
        f"{(shape.embedding + shape.head) / 1e6:,.1f}){trained}; {config.hardware.strategy} over "
        f"{config.hardware.devices * config.hardware.nodes} processes"
    )
    if options.check:
        found = measured_peak(config, options.overrides)
        print(
            f"peak of each process: planned {memory.peak / 2**20:,.0f} MiB, measured {found:,.0f} "
            f"MiB, ratio {memory.peak / 2**20 / found:.2f}"
        )
        return
    if options.dry_run:
        largest = kinds[plans.index(memory)].work
        print_dry_run(_dry_run(config, shape, largest, options.image), memory)
        return
    machine = machine_of(config, options.gpu)
    print_memory(memory, machine.memory, config.hardware.devices)
    saved = plan_saved(config, shape)
    if saved is not None:
        print_saved(saved, config.hardware.devices * config.hardware.nodes)
    gpu = config.hardware.accelerator == "gpu"
    shares = GPU_SHARES if gpu else CPU_SHARES
    assumed = Assumptions(
        options.compute_share or shares.compute, options.decode_share or shares.decode
    )
    print_time(config, shape, kinds, machine, assumed, options.images, options.price, options.image)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `vqr1 plan`; returns the exit code."""
    return run_options(parser(), plan, arguments, load_train_config)
