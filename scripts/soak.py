"""Does a long training stay as small as it started? Memory, open files and threads over many steps.

    python scripts/soak.py                       # 2,000 steps of the tiny policy, small batches
    python scripts/soak.py --steps 500 seed=2    # fewer; overrides of train.py at the end

Runs `train.py` in a process of its own and looks at it from outside several times a second. Within
a step memory goes up and down by what the step computes with, so that what is held is the lowest
metric between two reports of progress: memory of the process and its loader workers, open file
descriptors, threads. Memory is what they have written (anonymous and shared pages, each shared page
once): pages of program files, which the kernel drops and reads again as it likes, are shown but do
not count. Prints the slope of each over the part after the warm-up. Linux only.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from scipy.stats import theilslopes

from vqr1.outputs import own_json, target, write_json

SMALL = (
    "loader.batch_size=4", "grpo.group_size=3", "dataset.max_images=200",
    "validation.every_steps=250", "validation.samples=2", "validation.max_images=40",
    "validation.test=false", "callbacks.checkpoint.every_steps=100",
)  # fmt: skip
_SHARE = re.compile(r"^Pss_(Anon|File|Shmem): +(\d+) kB$", re.MULTILINE)
_STEP = re.compile(r"^step (\d+)/", re.MULTILINE)
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Sample:
    """The process at a step.

    Attributes:
        step: optimiser steps done.
        memory_mib: memory that the process and its children have written, shared pages once.
        programs_mib: pages of files, most of them code of libraries, that are in memory just now.
        files: open file descriptors of the process.
        threads: threads of the process.
    """

    step: int
    memory_mib: float
    programs_mib: float
    files: int
    threads: int


def take(process: psutil.Process, step: int) -> Sample:
    """Look at a process now."""
    family = [process, *process.children(recursive=True)]
    parts: Counter[str] = Counter()
    for member in family:
        with suppress(OSError):  # a loader worker that ends meanwhile
            parts.update(shares(Path(f"/proc/{member.pid}/smaps_rollup").read_text()))
    written, programs = parts["Anon"] + parts["Shmem"], parts["File"]
    return Sample(step, written / 1024, programs / 1024, process.num_fds(), process.num_threads())


def shares(rollup: str) -> dict[str, int]:
    """KiB by kind (Anon, File, Shmem), shared pages in parts: a `smaps_rollup` of proc(5)."""
    return {kind: int(size) for kind, size in _SHARE.findall(rollup)}


def lowest(samples: Sequence[Sample]) -> Sample:
    """The least of each metric, at the step of the first."""
    return Sample(
        samples[0].step,
        min(sample.memory_mib for sample in samples),
        min(sample.programs_mib for sample in samples),
        min(sample.files for sample in samples),
        min(sample.threads for sample in samples),
    )


def slope(samples: Sequence[Sample], metric: str) -> float:
    """Change of a metric in 100 steps: the median over all pairs of samples (Theil and Sen).

    A look in a moment in which a loader worker was not listed bends a least-squares line.
    """
    values = [getattr(sample, metric) for sample in samples]
    return float(theilslopes(values, [sample.step for sample in samples]).slope * 100)


def watch(arguments: Sequence[str], folder: Path) -> list[Sample]:
    """Train, and take the lowest metrics between every two reports of progress.

    Raises:
        RuntimeError: the training failed.
    """
    root = Path(__file__).resolve().parents[1]
    samples: list[Sample] = []
    between: list[Sample] = []
    step = 0
    output = folder / "output.txt"
    with output.open("w") as sink:
        child = subprocess.Popen(
            [sys.executable, str(root / "train.py"), *arguments], cwd=folder, stdout=sink
        )
    process = psutil.Process(child.pid)
    while child.poll() is None:
        with suppress(psutil.NoSuchProcess):
            between.append(take(process, step))
        reported = _STEP.findall(output.read_text())
        if reported and int(reported[-1]) != step:
            if step:
                samples.append(lowest(between))
                print(samples[-1], flush=True)
            between, step = [], int(reported[-1])
        time.sleep(POLL_SECONDS)
    if child.returncode:
        raise RuntimeError(f"train.py exited with {child.returncode}: {output.read_text()[-500:]}")
    return samples


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps")
    parser.add_argument("--warm-up", type=int, default=500, help="steps excluded from the slopes")
    parser.add_argument(
        "--json", type=target(own_json("soak")), help="also write samples and slopes to this file"
    )
    parser.add_argument("overrides", nargs="*", help="overrides of train.py")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        samples = watch(
            [*SMALL, f"max_steps={options.steps}", "run_dir=run", *options.overrides], Path(folder)
        )
    warm = [sample for sample in samples if sample.step >= options.warm_up]
    print(f"{len(warm)} samples from step {warm[0].step} to {warm[-1].step}:")
    slopes = {metric: slope(warm, metric) for metric in ("memory_mib", "files", "threads")}
    for metric, change in slopes.items():
        first, last = getattr(warm[0], metric), getattr(warm[-1], metric)
        print(f"{metric:12} {first:9.1f} -> {last:9.1f}   {change:+.3f} per 100 steps")
    if options.json is not None:
        content = {"samples": [asdict(sample) for sample in samples], "slopes": slopes}
        write_json(options.json, content, "soak")


if __name__ == "__main__":
    main()
