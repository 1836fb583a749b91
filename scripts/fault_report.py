"""Hurt real trainings in every way we know, resume them, and compare them with an unhurt one.

    python scripts/fault_report.py                    # 20 kills and every other fault
    python scripts/fault_report.py --kills 3 --seed 7 --json faults.json
    python scripts/fault_report.py --ranks 2 --kills 20 --folder DIR   # kills of a rank alone
    python scripts/fault_report.py --ranks 2 --kinds others            # its other faults

With `--ranks 2` every training has two processes, N kills for each of `--kinds`: replicated, fsdp2,
server, and an evaluation by two processes. Results are kept in `--folder`: the same command again
continues, and counts them all.

Every training is the demo one, small, in a process of its own. Compared are the bits of the
exported policy, of the last saved weights and optimizer state, and every metric at every step in
MLflow's database. The exit code is 1 if a fault was not recovered from or something differs.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

# The harness is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.faults import evaluations, kills, ranks, storage, surroundings
from tools.faults.evaluations import EvaluationWorkshop
from tools.faults.ranks import RankWorkshop
from tools.faults.report import FaultResult, table
from tools.faults.runs import Workshop
from vqr1.outputs import own_json, target, write_json

Fault = Callable[[Workshop], FaultResult]

EVALUATION = "evaluation"

KINDS = (*ranks.KINDS, EVALUATION)
"""What processes are killed of."""


def all_faults(
    kill_count: int, seed: int, locked_seconds: float, late_seconds: float
) -> list[Fault]:
    """Every fault, in the order in which they are tried."""
    return [
        *(partial(kills.kill_at_random, number=i, seed=seed) for i in range(kill_count)),
        *(
            partial(kills.stop_by_signal, number=number)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
        ),
        partial(kills.stop_by_signal, number=signal.SIGUSR1, phase="validation"),
        kills.stop_twice,
        partial(storage.damaged, name="truncated checkpoint", damage=storage.truncate),
        partial(storage.damaged, name="bit-flipped checkpoint", damage=storage.flip_bit),
        storage.full_disk,
        storage.file_limit,
        storage.read_only,
        surroundings.deleted_image,
        surroundings.server_killed,
        partial(surroundings.slow_server, seconds=late_seconds),
        partial(surroundings.locked_database, seconds=locked_seconds),
        surroundings.clock_jump,
        surroundings.worker_out_of_memory,
        *(
            partial(surroundings.worker_killed, phase=phase)
            for phase in ("rollout", "update", "logging", "checkpoint", "validation")
        ),
    ]


def rank_faults(options: argparse.Namespace, console: Console) -> list[FaultResult]:
    """Faults of a rank, those that an earlier start has tried included."""
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "results.json"
        tried: dict[str, FaultResult] = {}
        if file.is_file():
            kept = json.loads(file.read_text(encoding="utf-8"))["results"]
            known = {name: FaultResult(**result) for name, result in kept.items()}
            tried = {name: result for name, result in known.items() if not result.skipped}
        for kind in options.kinds:
            faults = _faults_of(kind, options.kills, options.seed)
            left = {name: fault for name, fault in faults.items() if name not in tried}
            if not left:
                continue
            for name, fault in _opened(kind, folder, left, stack).items():
                tried[name] = fault()
                console.print(f"{name}: {tried[name].outcome}", markup=False)
                results = {key: asdict(result) for key, result in tried.items()}
                write_json(file, {"results": results}, "fault_report")
        return list(tried.values())


def _opened(
    kind: str, folder: Path, faults: dict[str, Callable[[Any], FaultResult]], stack: ExitStack
) -> dict[str, Callable[[], FaultResult]]:
    """The faults, each with the workshop of its kind."""
    workshop: RankWorkshop | EvaluationWorkshop
    if kind == EVALUATION:
        workshop = EvaluationWorkshop(folder / kind)
    else:
        named = "replicated" if kind == "others" else kind
        workshop = stack.enter_context(closing(RankWorkshop(folder / named, named)))
    return {name: partial(fault, workshop) for name, fault in faults.items()}


def _faults_of(kind: str, kills_of_each: int, seed: int) -> dict[str, Callable[[Any], FaultResult]]:
    if kind == "others":
        return {fault.__name__: fault for fault in ranks.OTHERS}
    kill = evaluations.kill_at_random if kind == EVALUATION else ranks.kill_at_random
    return {
        f"{kind} {seed}:{number}": partial(kill, number=number, seed=seed)
        for number in range(kills_of_each)
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs at random moments")
    parser.add_argument("--seed", type=int, default=1, help="of these moments")
    parser.add_argument("--locked-seconds", type=float, default=60.0, help="lock of the database")
    parser.add_argument("--late-seconds", type=float, default=30.0, help="a slow server's answers")
    parser.add_argument(
        "--json", type=target(own_json("fault_report")), help="also write every result to this file"
    )
    parser.add_argument("--ranks", type=int, choices=(1, 2), default=1, help="processes of a run")
    parser.add_argument(
        "--kinds", nargs="+", choices=(*KINDS, "others"), default=list(KINDS),
        help="with --ranks 2: what is tried",
    )  # fmt: skip
    parser.add_argument("--folder", type=Path, help="with --ranks 2: keeps runs and results")
    options = parser.parse_args(arguments)
    console = Console()
    if options.ranks == 2:
        return _report(rank_faults(options, console), options.json, console)
    results: list[FaultResult] = []
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Path(folder))
        for fault in all_faults(
            options.kills, options.seed, options.locked_seconds, options.late_seconds
        ):
            results.append(fault(workshop))
            console.print(f"{results[-1].fault}: {results[-1].outcome}", markup=False)
    return _report(results, options.json, console)


def _report(results: Sequence[FaultResult], json_file: Path | None, console: Console) -> int:
    console.print(table(results))
    if json_file is not None:
        content = {"results": [asdict(result) for result in results]}
        write_json(json_file, content, "fault_report")
    tried = [result for result in results if not result.skipped]
    return 0 if all(r.recovered and r.identical and not r.lost for r in tried) else 1


if __name__ == "__main__":
    sys.exit(main())
