"""Writing `report.html`: the page rendered, and put into the run's folder as a whole.

A run's results are written before its page, and nothing that goes wrong with the page ends a run:
it gets one line of warning, with the command that makes the page again (`add_report`).

Not here: what stands on the page (`pages.py`).
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from subprocess import SubprocessError

from jinja2 import Environment, StrictUndefined, TemplateError

import vqr1
from vqr1.durable import write_file
from vqr1.errors import UserError, first_line
from vqr1.program import command_line
from vqr1.report_page.library import chart_library
from vqr1.report_page.pages import page_of
from vqr1.report_page.sections import Page, charts_of
from vqr1.storage_faults import storage_line

log = logging.getLogger(__name__)

REPORT = "report.html"

FAULTS = (
    OSError, UserError, SubprocessError, TemplateError, csv.Error,
    # What a result file of an unexpected form leads to.
    ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
)  # fmt: skip
"""What may go wrong with a page without ending the run that it reports."""


def render(page: Page, folder: Path) -> str:
    """A page as HTML.

    Args:
        page: what stands on it.
        folder: of the run, named at its end.

    Raises:
        DataError: there is no library of charts.
    """
    files = resources.files("vqr1.report_page")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((files / "template.html").read_text(encoding="utf-8"))
    charts = charts_of(page)
    return template.render(
        page=page,
        sections=page.shown(),
        charts=charts,
        css=(files / "page.css").read_text(encoding="utf-8"),
        script=(files / "page.js").read_text(encoding="utf-8"),
        library=chart_library() if charts else "",
        folder=str(folder.resolve()),
        version=vqr1.__version__,
    )


def write_report_page(folder: Path, output: Path | None = None) -> Path:
    """Write the page of a finished run.

    Args:
        folder: the run's.
        output: the file; None is `report.html` in the folder.

    Returns:
        The file.

    Raises:
        DataError: the folder holds no finished run, a file of it is damaged, or there is no
            library of charts.
        OSError: the disk does not take it.
    """
    path = folder / REPORT if output is None else output
    # What a file name or an answer holds besides characters (lone surrogates) is replaced.
    text = render(page_of(folder), folder)
    write_file(path, text.encode("utf-8", errors="replace"))
    return path


def making(folder: Path) -> str:
    """The command that makes the page of a run again."""
    return command_line("report", str(folder))


def add_report(folder: Path, keep: Callable[[str], object] | None = None) -> Path | None:
    """Write the page of a run that has just ended; what goes wrong is one line of warning.

    Args:
        folder: the run's.
        keep: makes a file of the folder an artifact of the run, by its name.

    Returns:
        The file; None where it could not be written.
    """
    try:
        path = write_report_page(folder)
    except FAULTS as error:
        reason = storage_line(error, folder / REPORT) or first_line(error)
        again = making(folder)
        log.warning(
            "no %s (%s: %s); the results themselves are written, make the page again with: %s",
            REPORT, type(error).__name__, reason, again,
        )  # fmt: skip
        return None
    if keep is not None:
        keep(REPORT)
    return path
