"""`vqr1 report FOLDER`: the report of a finished run as one HTML page, made again.

    vqr1 report outputs/train/DATE               # FOLDER/report.html
    vqr1 report outputs/eval/DATE output=a.html

A training, an evaluation, a comparison and a sweep write it themselves at their end. It is made of
the files in the folder alone: no data set, no model and no server is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vqr1.errors import ConfigError, DataError, RunFaultError, UserError
from vqr1.outputs import check_file
from vqr1.standard_streams import guard_output
from vqr1.storage_faults import storage_line

_OWN = b'<meta name="generator" content="vqr1 '


def is_own(path: Path) -> bool:
    """Whether a file is a report of ours, which may be written over."""
    with path.open("rb") as file:
        return _OWN in file.read(4096)


def read_arguments(arguments: Sequence[str]) -> tuple[Path, Path | None]:
    """The folder, and the file to write; None for the one in the folder.

    Raises:
        ConfigError: not one folder.
    """
    output, folders = None, []
    for argument in arguments:
        if argument.startswith("output="):
            output = Path(argument.removeprefix("output=")).expanduser()
        else:
            folders.append(argument)
    if len(folders) != 1:
        raise ConfigError(["name one folder, that of a finished run"])
    return Path(folders[0]).expanduser(), output


def write(arguments: Sequence[str]) -> Path:
    """Write the page that a command line asks for.

    Raises:
        ConfigError: no folder, or an output that this command did not write.
        DataError: the folder holds no finished run.
    """
    folder, output = read_arguments(arguments)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give that of a finished run")
    # Its libraries take a moment to import.
    from vqr1.report_page.write import REPORT, write_report_page

    target = folder / REPORT if output is None else output
    if target.is_dir():
        raise ConfigError([f"output={target}: a folder; name a file in it, such as report.html"])
    if not target.parent.is_dir():
        raise ConfigError([f"output={target}: no such folder {target.parent}; make it first"])
    check_file(target, "output", is_own)
    return write_report_page(folder, target)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `vqr1 report`; returns the exit code."""
    texts = sys.argv[1:] if arguments is None else arguments
    guard_output(quiet=True)
    if {"-h", "--help"} & set(texts):
        print(__doc__)
        return 0
    try:
        print(write(texts))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except OSError as error:
        disk = storage_line(error, "report.html")
        if disk is None:
            raise
        sys.stderr.write(f"error: {disk}, and give the command again\n")
        return RunFaultError.exit_code
    return 0
