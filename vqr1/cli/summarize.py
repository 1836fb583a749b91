"""`vqr1 summarize`: the table of a sweep, at any time, also while it runs.

    vqr1 summarize parent=ID             # id of the parent run in MLflow
    vqr1 summarize folder=multirun/...   # a sweep's folder

Further: `metric=val/srcc_best`, `curve=val/plcc`, `tracking_uri=sqlite:///FILE`, `output=FOLDER`.
A sweep over `method` gets a leaderboard too: several metrics on every test set with intervals over
images and seeds, cost, and published numbers (`leaderboard.md`, `.json`, `.csv`). It is made of the
predictions in the sweep's folder, so with `parent` that folder has to be on this machine.

The files go into the sweep's folder, or into `outputs/summarize/ID` where that is not on this
machine; with a parent to its artifacts too. `output` is a new folder, an empty one, or one that
holds an earlier summary of the same sweep.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from vqr1.errors import ConfigError, DataError, RunFaultError, UserError
from vqr1.outputs import check_summary_folder
from vqr1.report_page.write import add_report
from vqr1.standard_streams import guard_output
from vqr1.storage_faults import storage_line
from vqr1.sweeps.folder import SweepFolder, SweepRecord
from vqr1.sweeps.parent import FOLDER_TAG, ParentRun
from vqr1.sweeps.report import SweepReport, log_report, write_report
from vqr1.sweeps.results import read_children, read_sweep
from vqr1.tracking.outages import store_reached
from vqr1.tracking.store import default_tracking_uri, logged_run

SUMMARIES = "outputs/summarize"
"""Where the summary of a sweep goes whose folder is not on this machine, below its parent's id."""
METHOD = "method"
"""The swept key of a sweep that gets a leaderboard."""

KEYS = ("parent", "folder", "metric", "curve", "tracking_uri", "output")


def summarise(options: dict[str, str]) -> SweepReport:
    """Read, write and log one summary.

    Raises:
        ConfigError: no such sweep, a metric that no job has, or a folder that holds something else.
    """
    curve, metric = options.get("curve", "val/srcc"), options.get("metric")
    if "folder" in options:
        folder = SweepFolder(Path(options["folder"]).expanduser())
        record = folder.record
        if record is None:
            raise ConfigError([f"folder={folder.path}: holds no sweep (sweep.json is missing)"])
        output, sweep = _output(options, folder.path), str(folder.path.resolve())
        if output.resolve() != folder.path.resolve():
            check_summary_folder(output, "output", record.command, sweep)
        results = read_sweep(folder, partial(_parent, record), list(record.space), curve)
        report = SweepReport.build(record.command, results, metric, sweep)
        write_report(report, output, curve)
        if METHOD in record.space:
            print(_leaderboard(folder.path, output)[1])
        add_report(output)
        return report
    uri = options.get("tracking_uri", default_tracking_uri())
    parent = ParentRun.open(uri, options["parent"])
    run = logged_run(parent.client, parent.run_id, uri, f"parent={parent.run_id}")
    if FOLDER_TAG not in run.data.tags:
        raise ConfigError([f"parent={parent.run_id}: this run is no sweep"])
    command = run.data.tags["vqr1.command"]
    place = Path(run.data.tags[FOLDER_TAG])
    here = SweepFolder(place).record is not None
    own = place if here else Path(SUMMARIES) / parent.run_id
    sweep = str(place.resolve()) if here else parent.run_id
    output = _output(options, own)
    if not here or output.resolve() != place.resolve():
        check_summary_folder(output, "output", command, sweep)
    results = read_children(parent, list(run.data.params), curve)
    report = SweepReport.build(command, results, metric, sweep)
    files = write_report(report, output, curve)
    if METHOD in run.data.params:
        folder = SweepFolder(Path(run.data.tags[FOLDER_TAG]))
        if folder.record is None:
            print(f"no leaderboard: the sweep's folder {folder.path} is not on this machine")
        else:
            made, page = _leaderboard(folder.path, output)
            files = [*files, *made]
            print(page)
    report_file = add_report(output)
    files = files if report_file is None else [*files, report_file]
    with store_reached(uri, f"parent={parent.run_id}", "the summary itself is written"):
        log_report(report, files, parent)
    return report


def _output(options: dict[str, str], own: Path) -> Path:
    """The folder of the summary.

    Raises:
        ConfigError: a file has its name, or that of a folder above it.
    """
    output = Path(options["output"]).expanduser() if "output" in options else own
    if not next(place for place in (output, *output.parents) if place.exists()).is_dir():
        raise ConfigError([f"output={output}: not a folder; give a new one, or leave it out"])
    return output


def _parent(record: SweepRecord) -> ParentRun | None:
    """The parent run of a sweep; None without MLflow."""
    if record.parent_run_id is None or record.tracking_uri is None:
        return None
    return ParentRun.open(record.tracking_uri, record.parent_run_id)


def _leaderboard(folder: Path, output: Path) -> tuple[list[Path], str]:
    """Files of a sweep's leaderboard, and its Markdown; a line where it cannot be made yet."""
    # They import pandas and scipy, which the one-metric summary of a running sweep does without.
    from vqr1.evaluation.set_metrics import MetricOptions
    from vqr1.sweeps.leaderboard import build_boards, read_costs, write_boards
    from vqr1.sweeps.predictions import read_settings

    options = MetricOptions()
    try:
        boards = build_boards(read_settings(folder), options)
    except DataError as error:
        return [], f"no leaderboard: {error}"
    return write_boards(boards, read_costs(folder), options, output)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `vqr1 summarize`; returns the exit code."""
    texts = sys.argv[1:] if arguments is None else arguments
    guard_output(quiet=True)
    if {"-h", "--help"} & set(texts):
        print(__doc__)
        return 0
    options = dict(text.partition("=")[::2] for text in texts)
    unknown = [key for key in options if key not in KEYS]
    if unknown or ("parent" in options) == ("folder" in options):
        wrong = f"{', '.join(unknown)}: unknown; " if unknown else ""
        sys.stderr.write(f"error: {wrong}give parent=ID or folder=FOLDER, one of them\n")
        return UserError.exit_code
    try:
        print(summarise(options).markdown())
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except OSError as error:
        disk = storage_line(error, options.get("output", "output"))
        if disk is None:
            raise
        sys.stderr.write(f"error: {disk}, and give the command again\n")
        return RunFaultError.exit_code
    return 0
