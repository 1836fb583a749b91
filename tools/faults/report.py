"""The record that every fault returns, and the table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from tools.faults.runs import Comparison

TRACEBACK = "traceback"


@dataclass(frozen=True)
class FaultResult:
    """How a run took a fault.

    Attributes:
        fault: what was done to it.
        recovered: it continued by itself, or stopped with one clear line and could be resumed.
        identical: weights and metrics are those of the uninterrupted run.
        lost: metrics missing or doubled in MLflow.
        printed: the line that it stopped with, or what went wrong with the recovery.
        skipped: why the fault could not be tried here; empty where it was.
    """

    fault: str
    recovered: bool = False
    identical: bool = False
    lost: int = 0
    printed: str = ""
    skipped: str = ""

    @classmethod
    def of(cls, fault: str, code: int, comparison: Comparison | None, printed: str) -> FaultResult:
        """From the end of the resumed run; code 0 and a comparison where it finished."""
        if comparison is None or printed.startswith(TRACEBACK):
            return cls(fault, printed=f"exit code {code} after resuming; {printed}")
        lost = comparison.missing + comparison.doubled
        return cls(fault, True, comparison.identical, lost, printed)

    @property
    def outcome(self) -> str:
        """In a few words."""
        if self.skipped:
            return f"not tried ({self.skipped})"
        if self.recovered and self.identical and not self.lost:
            return "identical"
        return f"NOT identical, {self.lost} metrics lost; {self.printed}"


def last_line(output: str) -> str:
    """What a run stated last; where it printed a traceback, `TRACEBACK` and the end of all that."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if "Traceback (most recent call last)" in output:
        return f"{TRACEBACK}: " + " | ".join(lines[-12:])
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1]


def table(results: Sequence[FaultResult]) -> Table:
    """One row for each kind of fault: fault, tried, recovered, identical, lost."""
    shown = Table(title="faults")
    for column in ("fault", "tried", "recovered", "identical", "lost", "printed"):
        shown.add_column(column, overflow="fold")
    for fault in dict.fromkeys(result.fault for result in results):
        rows = [result for result in results if result.fault == fault]
        tried = [row for row in rows if not row.skipped]
        shown.add_row(
            fault,
            str(len(tried)) if tried else "skipped",
            str(sum(row.recovered for row in tried)),
            str(sum(row.identical for row in tried)),
            str(sum(row.lost for row in tried)),
            rows[0].skipped or next((row.printed for row in rows if row.printed), ""),
        )
    return shown
