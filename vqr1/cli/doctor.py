"""`vqr1 doctor`: on one screen what this machine can run, and what is missing.

    vqr1 doctor
    vqr1 doctor --tracking-uri http://mlflow:5000

Exit codes: 0, also where something optional is missing; 2 where the installation itself is broken.

Not here: what is looked at (`vqr1.doctor`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from vqr1.errors import UserError
from vqr1.program import name_of
from vqr1.standard_streams import guard_output

if TYPE_CHECKING:
    from vqr1.doctor.finding import Finding

SECONDS = 8.0
"""After which imports that have not ended are given up."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `vqr1 doctor`; returns the exit code."""
    guard_output(quiet=True)
    parser = argparse.ArgumentParser(
        prog=name_of("doctor"),
        description="What this machine can run, and what is missing.",
        epilog="Marks: `-` is not there, `!` is broken. Exit code 2 where something is broken.",
    )
    parser.add_argument("--tracking-uri", help="MLflow store to look at (default: mlflow.db here)")
    options = parser.parse_args(arguments)
    broken = 0
    for finding in findings(options.tracking_uri):
        sys.stdout.write(f"{finding.line()}\n")
        sys.stdout.flush()
        broken += finding.status == "broken"
    if broken:
        sys.stderr.write("error: the installation is broken: see the lines marked with `!`\n")
        return UserError.exit_code
    return 0


def findings(tracking_uri: str | None) -> Iterator[Finding]:
    """Everything, in the order of the screen; the machine only where the installation is whole."""
    until = time.monotonic() + SECONDS
    from vqr1.doctor import installation

    imports = installation.Imports()
    found = list(installation.package_findings(installation.requirements()))
    found += installation.packaged_findings()
    yield from found
    if any(finding.status == "broken" for finding in found):
        # What follows needs the packages themselves.
        yield from imports.findings(until)
        return
    yield from installation.extra_findings()
    yield from _machine(tracking_uri)
    yield from imports.findings(until)


def _machine(tracking_uri: str | None) -> Iterator[Finding]:
    # PyTorch takes seconds to import.
    from vqr1.cli.plan import load_train_config
    from vqr1.distributed.hardware import this_machine
    from vqr1.doctor import machine, services

    with ThreadPoolExecutor(2) as pool:
        answers = [
            pool.submit(services.store_finding, tracking_uri),
            pool.submit(services.hub_finding),
        ]
        found = this_machine()
        yield machine.processor_finding()
        yield machine.bfloat16_finding(found)
        yield from machine.gpu_findings(found)
        yield from machine.disk_findings()
        yield from (answer.result() for answer in answers)
        yield from machine.profile_findings(found, load_train_config)
