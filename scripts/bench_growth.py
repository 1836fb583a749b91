"""How cost grows: time and memory over the sizes of a problem, with the exponent of each.

    python scripts/bench_growth.py --json growth.json --plot growth.png     # all
    python scripts/bench_growth.py --axes labels runs --largest 10000

Of a training step (model of 39 M random weights): images of a batch, responses an image, pixels,
tokens of a response. Of everything else (`bench/growth.py`): label rows up to the first training
batch, images scored, runs in the tracking store under the summary of their sweep, jobs of a sweep.
Every size runs in a process of its own, which does the smallest size first, so that imports are not
counted (but those of commands that it starts). Time is that of the processor, which other work on
the machine does not lengthen much; memory is the peak.

The exponent e is that of `cost - cost of the smallest size = a n^e`, read off the two largest
sizes, so that what does not grow does not hide what does; 1 is proportional.

Not here: comparisons with others (`bench_step.py`, `bench_score.py`).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.growth import AXES
from bench.setup import SUBJECTS, Place, Size

from vqr1.outputs import own_json, own_png, png_metadata, target, write_json

BASE = Size("base", 224, 168, images=4, group=4, tokens=32)
RESULT = "result.json"
"""What a worker writes: commands print what they like."""
FIRST, MEASURED = "first", "measured"
"""Folders of the smallest size, which every worker does first, and of the one that is timed."""
STEP_AXES: dict[str, tuple[str, dict[int, dict[str, Any]]]] = {
    "batch": ("images of a batch", {n: {"images": n} for n in (2, 4, 8, 16)}),
    "group": ("responses an image", {n: {"group": n} for n in (2, 4, 8, 16)}),
    "pixels": (
        "pixels of an image",
        {w * h: {"width": w, "height": h} for w, h in ((224, 168), (448, 336), (896, 672))},
    ),
    "tokens": ("tokens of a response", {n: {"tokens": n} for n in (16, 32, 64, 128)}),
}
"""By axis its unit, and what each size changes."""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    names = [*STEP_AXES, *AXES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--axes", nargs="+", choices=names, default=names)
    parser.add_argument("--largest", type=int, default=10**9, help="leave larger sizes out")
    parser.add_argument("--json", type=target(own_json("bench_growth")), help="file for all values")
    parser.add_argument("--plot", type=target(own_png("bench_growth")), help="file for the plot")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def work(task: dict[str, Any]) -> None:
    """Measures one size in this process and writes it into its folder."""
    import torch

    torch.set_num_threads(1)
    axis, folder = AXES[task["axis"]], Path(task["folder"])
    # Imports, and what only the first call does.
    axis.measure(axis.sizes[0], folder / FIRST)
    first, wall = _used()[0], time.perf_counter()
    axis.measure(task["size"], folder / MEASURED)
    cpu, mib = _used()
    result = {"cpu": cpu - first, "wall": time.perf_counter() - wall, "mib": mib}
    (folder / RESULT).write_text(json.dumps(result))


def _used() -> tuple[float, float]:
    """Processor seconds and peak MiB of this process and of children that have ended."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(use.ru_utime + use.ru_stime for use in uses)
    return cpu, max(use.ru_maxrss for use in uses) / 2**10


def in_process(axis: str, size: int) -> dict[str, float]:
    """Makes and measures one size."""
    with tempfile.TemporaryDirectory() as folder:
        for name, count in ((FIRST, AXES[axis].sizes[0]), (MEASURED, size)):
            (Path(folder) / name).mkdir()
            AXES[axis].make(count, Path(folder) / name)
        task = json.dumps({"axis": axis, "size": size, "folder": folder})
        command = [sys.executable, __file__, "--worker", task]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode:
            sys.exit(f"{axis}, {size}: exit code {done.returncode}\n{done.stderr[-2000:]}")
        result: dict[str, float] = json.loads((Path(folder) / RESULT).read_text())
        return result


def of_a_step(changes: dict[str, Any], weights: Path) -> dict[str, float]:
    """A training step of one size."""
    from bench_step import run_in_process

    options = argparse.Namespace(
        threads=1, steps=2, device="cpu", precision="32", model=None, family="qwen2_5_vl"
    )
    result = run_in_process(options, "ours", replace(BASE, **changes), weights)
    if "failed" in result:
        sys.exit(result["failed"])
    median = result["median"]
    return {"cpu": median["cpu"], "wall": median["total"], "mib": result["peak_mib"]}


def exponent(points: dict[int, float]) -> float:
    """Of cost by size; see the module's header. NaN where nothing grows, or of fewer than three."""
    sizes = sorted(points)
    if len(sizes) < 3:
        return math.nan
    below, above = (points[size] - points[sizes[0]] for size in sizes[-2:])
    if min(below, above) <= 0:
        return math.nan
    return math.log(above / below) / math.log((sizes[-1] - sizes[0]) / (sizes[-2] - sizes[0]))


def measure(axis: str, largest: int, weights: Path) -> dict[int, dict[str, float]]:
    """All sizes of an axis, printed as they come."""
    step = STEP_AXES.get(axis)
    unit, sizes = step if step else (AXES[axis].unit, {n: {} for n in AXES[axis].sizes})
    found = {}
    for size, changes in sizes.items():
        if size <= largest:
            found[size] = of_a_step(changes, weights) if step else in_process(axis, size)
            values = found[size]
            print(
                f"{unit:<22}{size:>9,}{values['cpu']:>9.2f} s{values['mib']:>8.0f} MiB", flush=True
            )
    return found


def plot(report: dict[str, Any], file: Path) -> None:
    """Time over size, one line an axis, both relative to the smallest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    for axes, value, label in zip(
        figure.subplots(1, 2), ("cpu", "mib"), ("processor time", "peak memory"), strict=True
    ):
        for number, (axis, found) in enumerate(report["axes"].items()):
            sizes = sorted(map(int, found["points"]))
            points = [found["points"][str(size)][value] for size in sizes]
            relative = [size / sizes[0] for size in sizes]
            axes.loglog(
                relative, [p / points[0] for p in points], "o-", color=f"C{number}", label=axis
            )
        ends = axes.get_xlim()
        axes.loglog(ends, ends, "--", color="grey", label="proportional")
        axes.set_xlabel("size (the smallest is 1)")
        axes.set_ylabel(f"{label} (the smallest is 1)")
    figure.axes[1].legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=110, metadata=png_metadata("bench_growth"))


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints exponents, writes and draws."""
    options = parse_arguments(argv)
    if options.worker:
        work(json.loads(options.worker))
        return
    report: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "axes": {}}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder)
        if set(options.axes) & set(STEP_AXES):
            import torch

            SUBJECTS["qwen2_5_vl"].weights("39m", Place(torch.device("cpu")), weights)
        for axis in options.axes:
            points = measure(axis, options.largest, weights)
            exponents = {
                value: exponent({size: found[value] for size, found in points.items()})
                for value in ("cpu", "mib")
            }
            print(f"  exponent: time {exponents['cpu']:.2f}, memory {exponents['mib']:.2f}")
            report["axes"][axis] = {
                "points": {str(size): found for size, found in points.items()},
                "exponent": exponents,
            }
            if options.json:
                write_json(options.json, report, "bench_growth")
    if options.plot:
        plot(report, options.plot)


if __name__ == "__main__":
    main()
