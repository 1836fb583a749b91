"""A sweep of twelve real trainings, two at once, under faults; then the same command again.

    python scripts/sweep_faults.py FOLDER [--jobs 12] [--launcher processes]

One job raises, one dies by SIGKILL, and the launcher is killed by SIGKILL at half time. Prints the
children of every job, the parent's status and what is still open, and exits with 1 unless every job
is there exactly once as finished. `tests/sweeps/test_faults.py` is the same with fewer jobs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.faults.killed_sweep import command, kill_launcher_at, prepare, state  # noqa: E402


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="A sweep under faults, and its resumption.")
    parser.add_argument("folder", type=Path, help="working folder; must not exist")
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--launcher", default="processes", choices=["processes", "joblib"])
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    jobs = options.jobs
    prepare(options.folder, {1: "raise", 3: "kill"})
    launcher = (f"hydra/launcher={options.launcher}", "hydra.launcher.n_jobs=2")
    argv = command(jobs, *launcher)
    kill_launcher_at(options.folder, argv, ended=jobs // 2)
    before = state(options.folder)
    print(f"launcher killed; parent {before.parent.info.status}, {len(before.children)} children")
    again = subprocess.run(argv, cwd=options.folder, check=False)
    after = state(options.folder)
    for job in range(jobs):
        print(f"job {job:2d}: {', '.join(after.of_job(job))}")
    running = [run for run in [after.parent, *after.children] if run.info.status == "RUNNING"]
    print(
        f"exit code {again.returncode}; parent {after.parent.info.status}; {len(running)} running"
    )
    once = after.finished() == {str(job): 1 for job in range(jobs)}
    print("every job finished exactly once" if once else "NOT every job finished exactly once")
    sys.exit(0 if once and not running and again.returncode == 0 else 1)


if __name__ == "__main__":
    main()
