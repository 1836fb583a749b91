"""`vqr1 sync`: send what runs could not report to the MLflow server while it was away.

    vqr1 sync RUN_DIR...

Each run directory holds a journal of everything the run logged (`tracking/journal.jsonl`) and a
mark of how far the server has it. This sends the rest. It can be stopped and repeated: what the
server has stays single. A run that is still running sends its journal itself and is left alone.

Exit codes: 0 all delivered, 1 some events are left, 2 a mistake on the command line.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import Timeout

from vqr1.cli.app import EXIT_USER_ERROR
from vqr1.errors import DataError, UserError
from vqr1.program import name_of
from vqr1.standard_streams import guard_output
from vqr1.storage_faults import storage_line
from vqr1.sweeps.folder import SweepFolder
from vqr1.sweeps.sweep_log import deliver_jobs
from vqr1.tracking.delivery import Delivery
from vqr1.tracking.journal import journal_file
from vqr1.tracking.sender import send_all, sender_lock

EXIT_LEFT = 1


def sync(run_dir: Path, tracking_uri: str | None, seconds: float, restart: bool) -> bool:
    """Send one run's journal and print what came of it.

    Args:
        run_dir: the run's folder.
        tracking_uri: the store; None takes the address that the journal names.
        seconds: how long to try again while the server does not answer.
        restart: send everything from the beginning.

    Returns:
        Whether all is delivered.

    Raises:
        DataError: no journal, or one that another process is sending.
        ConfigError: MLflow cannot use the address.
    """
    if not journal_file(run_dir).is_file():
        raise DataError(f"{run_dir}: no {journal_file(Path())} in it; name the folder of a run")
    try:
        with sender_lock(run_dir):
            delivery = Delivery(run_dir, tracking_uri)
            if restart:
                delivery.restart()
            before = delivery.left()
            reason = send_all(delivery, seconds)
            left = delivery.left()
    except Timeout as error:
        raise DataError(f"{run_dir}: its run is still running and sends its log itself") from error
    refused = delivery.delivered.refused
    print(
        f"{run_dir}: {before - left} events sent, {left} left"
        + (f" ({reason})" if left else "")
        + (f", {refused} refused in all" if refused else "")
        + f"; MLflow run {delivery.delivered.run_id}"
    )
    return left == 0


def sync_sweep(
    folder: SweepFolder, tracking_uri: str | None, seconds: float, restart: bool
) -> bool:
    """Send the journals of a sweep and of its jobs, and print what came of them.

    Args:
        folder: the sweep.
        tracking_uri: as `sync`.
        seconds: as `sync`.
        restart: as `sync`.

    Returns:
        Whether all is delivered.

    Raises:
        DataError: as `sync`.
        ConfigError: as `sync`.
    """
    complete = sync(folder.path, tracking_uri, seconds, restart)
    for attempt in folder.attempts() if complete else ():
        if journal_file(attempt.folder).is_file():
            complete &= sync(attempt.folder, tracking_uri, seconds, restart)
    record = folder.record
    if complete and record is not None and record.tracking_uri is not None:
        delivery = Delivery(folder.path, tracking_uri)
        uri = tracking_uri or record.tracking_uri
        left = deliver_jobs(folder, uri, delivery.delivered.run_id, seconds)
        if left is not None:
            print(f"{folder.path}: {left}")
        return left is None
    return complete


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `vqr1 sync`; returns the exit code."""
    guard_output(quiet=True)
    parser = argparse.ArgumentParser(
        prog=name_of("sync"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_dir", nargs="+", type=Path, help="folder of a run or of a sweep")
    parser.add_argument("--tracking-uri", help="store to send to, if not the run's own")
    parser.add_argument(
        "--seconds", type=float, default=30, help="how long to try while nothing answers (30)"
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="send everything from the beginning: the store lost the run, or refused files of it",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    complete = True
    problems = []
    for run_dir in options.run_dir:
        try:
            folder = SweepFolder(run_dir)
            given = (options.tracking_uri, options.seconds, options.restart)
            whole = folder.record is not None
            complete &= sync_sweep(folder, *given) if whole else sync(run_dir, *given)
        except UserError as error:
            problems.append(str(error))
        except OSError as error:
            disk = storage_line(error, run_dir)
            if disk is None:
                raise
            problems.append(f"{disk}, and give the command again")
    if problems:
        sys.stderr.write("".join(f"error: {problem}\n" for problem in problems))
        return EXIT_USER_ERROR
    return 0 if complete else EXIT_LEFT
