"""Times one training step of this project beside TRL's GRPOTrainer on the same machine.

Both sides load the same random weights, see the same images and prompts, draw K responses of
exactly C tokens, compare with a frozen reference and update all weights, the vision tower included.
Every contestant runs in a process of its own, one after the other, so that peak memory is its own.

    python scripts/bench_step.py --quick --json bench.json     # 448x336 only
    python scripts/bench_step.py --json bench.json             # all sizes and sweeps
    python scripts/bench_step.py --family smolvlm --no-sweep   # another family, 448x336
    python scripts/bench_step.py --shape 3b --device cuda      # shapes of the released models
    python scripts/bench_step.py --model DIR --precision bf16  # a checkpoint, 512x512
    python scripts/bench_step.py --model DIR --trl-parts 4     # TRL's step in micro-batches

`counted_ratio` is TRL's number of operations over ours, counted from shapes: what sharing alone
could gain. What is compared, and what came out: docs/performance.md. Not here: rewards that mean
anything; the text of the responses is noise.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.counts import Counts, counted
from bench.setup import CHECKPOINT_SIZE, SIZES, SUBJECTS, Checkpoint, Place, Size

from vqr1.outputs import own_json, target, write_json
from vqr1.planning.rates import peak_rates

CONTESTANTS = ("trl", "ours", "ours, PyTorch linears")
GROUPS = (2, 4, 8, 16)
PARTS = (1, 2, 4, 8)
"""All divide the rows of every size's batch; more need less memory."""
IMAGES = ((224, 168), (448, 336), (672, 504), (1024, 768))


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the first size only, no sweep")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--family", choices=SUBJECTS, default="qwen2_5_vl", help="the model's")
    parser.add_argument("--shape", help="of the model; default: the family's for CPUs")
    parser.add_argument("--model", type=Path, help="a checkpoint folder in place of random weights")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--precision", choices=["32", "bf16"], default="32", help="of both sides' passes on a CPU"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each side")
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after one warm-up")
    parser.add_argument(
        "--trl-parts", type=int, choices=PARTS, default=1, help="micro-batches of TRL's step"
    )
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--sweep-only", action="store_true", help="the sweeps without the sizes")
    parser.add_argument(
        "--no-sweep", action="store_true", help="skip the sweeps over K and image size"
    )
    parser.add_argument("--json", type=target(own_json("bench_step")), help="file for every metric")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.precision == "bf16" and options.device == "cuda":
        parser.error("--precision bf16 --device cuda: weights are bfloat16 there; leave it out")
    options.place = Place(torch.device(options.device), options.precision == "bf16")
    if options.model:
        options.subject, options.shape = Checkpoint.of(options.model), options.model.name
        return options
    options.subject = SUBJECTS[options.family]
    shapes = SUBJECTS[options.family].family.shapes
    options.shape = options.shape or shapes[0]
    if options.shape not in shapes:
        parser.error(f"--shape {options.shape}: {options.family} has {', '.join(shapes)}")
    return options


def _version(package: str) -> str | None:
    """Of an installed package, which is not imported; None: it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def work(options: argparse.Namespace) -> None:
    """Runs one contestant in this process and prints its metrics as the last line."""
    torch.set_num_threads(options.threads)
    task = json.loads(options.worker)
    size, subject = Size(**task["size"]), options.subject
    with tempfile.TemporaryDirectory() as folder:
        given = (subject, size, options.weights, Path(folder), options.place, options.steps)
        if task["contestant"] == "trl":
            from bench import peer

            result = peer.run(*given, parts=task["parts"])
        else:
            from bench import ours

            result = ours.run(*given, task["contestant"] == "ours")
    print(json.dumps(result))


def run_in_process(
    options: argparse.Namespace, contestant: str, size: Size, weights: Path, parts: int = 1
) -> Any:
    """One contestant at one size; `failed` and the reason if its process was killed or failed."""
    task = json.dumps({"contestant": contestant, "size": vars(size), "parts": parts})
    command = [sys.executable, __file__, "--worker", task, "--weights", str(weights)]
    command += ["--threads", str(options.threads), "--steps", str(options.steps)]
    command += ["--device", options.device, "--precision", options.precision]
    command += ["--model", str(options.model)] if options.model else ["--family", options.family]
    print(
        f"  {size.name}, K={size.group}: {contestant}, {options.steps + 1} steps ...",
        file=sys.stderr,
        flush=True,
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"  {contestant}: exit code {done.returncode}\n{done.stderr[-2000:]}", flush=True)
        printed = done.stderr.strip().splitlines()
        return {"failed": f"exit code {done.returncode}: {printed[-1] if printed else ''}"}
    return summarise(json.loads(done.stdout.strip().splitlines()[-1]))


def summarise(result: dict[str, Any]) -> dict[str, Any]:
    """Adds the median of every phase."""
    names = result["steps"][0]
    result["median"] = {
        name: statistics.median(step[name] for step in result["steps"]) for name in names
    }
    return result


def with_ratios(results: dict[str, Any], counts: Counts, peaks: dict[str, float]) -> dict[str, Any]:
    """Counts, ratios to TRL, and shares of the measured matrix-product rates."""
    peer = results.get("trl", {"failed": "not run"})
    for name, result in results.items():
        if "failed" in result or name == "trl":
            continue
        median = result["median"]
        result["prompt_tokens"] = counts.prompt_tokens
        result["flops"] = {
            part: getattr(counts.ours, part) for part in ("forward", "update", "step")
        }
        result["share_of_peak"] = {
            kind: {
                "step": counts.ours.step / median["total"] / rate,
                "update": counts.ours.update / median["update"] / rate,
            }
            for kind, rate in peaks.items()
        }
        if "failed" not in peer:
            result["times_faster"] = peer["median"]["total"] / median["total"]
            result["times_less_cpu"] = peer["median"]["cpu"] / median["cpu"]
            result["share_of_memory"] = result["peak_mib"] / peer["peak_mib"]
    return results


def show(size: Size, results: dict[str, Any], counts: Counts) -> None:
    """Prints the counts, and one line for each contestant."""
    shares = ", ".join(f"{part} {share:.0%}" for part, share in counts.shares.items())
    print(
        f"{size.name}: B={size.images}, K={size.group}, C={size.tokens}; prompt "
        f"{counts.prompt_tokens} tokens, {counts.image_tokens} of the image; TRL's operations: "
        f"{shares}; {counts.ratio:.2f} x ours"
    )
    for name, result in results.items():
        if "failed" in result:
            print(f"  {name:<22} no result: {result['failed']}")
            continue
        median = result["median"]
        # Ours counts image processing apart; the peer's update holds it.
        update = median["total"] - median["generation"] - median["reference"]
        line = (
            f"  {name:<22} generation {median['generation']:7.2f} s  reference "
            f"{median['reference']:6.2f} s  update {update:7.2f} s  total {median['total']:7.2f} s"
            f"  cpu {median['cpu']:7.2f} s  peak {result['peak_mib']:7.0f} MiB"
        )
        if "linear" in median:
            line += f"  linear attention {median['linear'] / median['total']:.0%}"
        if "times_faster" in result:
            reached = result["times_faster"] / counts.ratio
            line += (
                f"  {result['times_faster']:.1f} x faster ({reached:.2f} of the counted ratio), "
                f"{result['times_less_cpu']:.1f} x CPU"
            )
        for kind, share in result.get("share_of_peak", {}).items():
            line += f"  update {share['update']:.0%} of {kind} peak"
        print(line, flush=True)


def main(argv: list[str] | None = None) -> None:
    """Runs the contestants and writes the metrics."""
    options = parse_arguments(argv)
    if options.worker:
        work(options)
        return
    torch.set_num_threads(options.threads)
    place = options.place
    report: dict[str, Any] = {
        "family": options.subject.model_type,
        "shape": options.shape,
        "device": options.device,
        "precision": options.precision,
        "threads": options.threads,
        "trl_parts": options.trl_parts,
        "machine": platform.processor() or platform.machine(),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "trl": _version("trl"),
        },
        "sizes": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        weights = options.subject.weights(options.shape, place, Path(folder) / "weights")
        report["peak_rates"] = peaks = peak_rates(place.device, place.passes)
        print({name: f"{rate / 1e9:.0f} GFLOP/s" for name, rate in peaks.items()}, flush=True)
        contestants = [name for name in CONTESTANTS if name in options.only]
        if "fast_linear" not in peaks:
            contestants = [name for name in contestants if "linears" not in name]
        sizes = [SIZES[name] for name in (options.sizes[:1] if options.quick else options.sizes)]
        sizes = [CHECKPOINT_SIZE] if options.model else sizes
        for size in [] if options.sweep_only else sizes:
            report["sizes"][size.name] = measure(options, size, contestants, weights, peaks)
            save(report, options.json)
        if not (options.quick or options.no_sweep or options.model):
            sweep(options, weights, report)
    save(report, options.json)


def measure(
    options: argparse.Namespace,
    size: Size,
    contestants: Sequence[str],
    weights: Path,
    peaks: dict[str, float],
) -> dict[str, Any]:
    """Counts and measures one size, and prints it."""
    counts = counted(options.subject, options.shape, size)
    parts = options.trl_parts
    results = {side: run_in_process(options, side, size, weights, parts) for side in contestants}
    if parts > 1:
        print(f"TRL's step accumulates {parts} micro-batches")
    show(size, with_ratios(results, counts, peaks), counts)
    return {**results, "counted_ratio": counts.ratio, "counted_shares": counts.shares}


def sweep(options: argparse.Namespace, weights: Path, report: dict[str, Any]) -> None:
    """Our cost against K at the largest size, and both sides' cost against the prompt's length."""
    largest, peaks = SIZES[list(SIZES)[-1]], report["peak_rates"]
    report["sweep"] = {"group": {}, "prompt": {}}
    for group in GROUPS:
        found = measure(options, replace(largest, group=group), ["ours"], weights, peaks)
        report["sweep"]["group"][str(group)] = found["ours"]
        save(report, options.json)
    for width, height in IMAGES:
        size = replace(largest, name=f"{width}x{height}", width=width, height=height)
        sides = [side for side in ("trl", "ours") if side in options.only]
        report["sweep"]["prompt"][size.name] = measure(options, size, sides, weights, peaks)
        save(report, options.json)


def save(report: dict[str, Any], path: Path | None) -> None:
    """Writes the report so far."""
    if path is not None:
        write_json(path, report, "bench_step")


if __name__ == "__main__":
    main()
