"""Tables as records, and their forms: terminal, Markdown, CSV, LaTeX and JSON.

Not here: what stands in the cells (`vqr1.evaluation.report`).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich import box
from rich.table import Table as RichTable
from rich.text import Text


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: what it shows; the caption in print.
        columns: heads.
        rows: cells, as many in each row as there are columns.
        notes: sentences under the table.
        rules: numbers of the rows above which a line separates groups.
        name: short name for file names and labels.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    name: str
    notes: tuple[str, ...] = ()
    rules: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{len(row)} cells for {len(self.columns)} columns: {row}")


def to_rich(table: Table) -> RichTable:
    """For the terminal: the first column flush left, numbers flush right.

    Names, answers and paths stand in it as they are: nothing is read as Rich's markup.
    """
    rich = RichTable(
        title=Text(table.title, style="bold"),
        caption=Text("\n".join(table.notes), style="table.caption") if table.notes else None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for number, column in enumerate(table.columns):
        rich.add_column(Text(column), justify="left" if not number else "right", overflow="fold")
    for number, row in enumerate(table.rows):
        rich.add_row(*map(Text, row), end_section=number + 1 in table.rules)
    return rich


def to_markdown(table: Table) -> str:
    """A Markdown table under its title, with its notes as a list."""

    def line(cells: tuple[str, ...]) -> str:
        escaped = (cell.replace("|", "\\|") for cell in cells)
        return f"| {' | '.join(escaped)} |"

    marks = ("---", *("---:" for _ in table.columns[1:]))
    lines = [f"**{table.title}**", "", line(table.columns), f"|{'|'.join(marks)}|"]
    lines += [line(row) for row in table.rows]
    if table.notes:
        lines += ["", *(f"- {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """Heads and cells as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return text.getvalue()


def to_json(tables: Sequence[Table]) -> str:
    """All fields of tables, which the report's page reads (`vqr1.report_page.files`)."""
    return json.dumps([asdict(table) for table in tables], indent=1) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "†": r"\dag{}",
}


def latex_text(text: str) -> str:
    """`text` with the characters that LaTeX reads as commands escaped."""
    return "".join(_LATEX.get(character, character) for character in text)


def to_latex(table: Table) -> str:
    """A floating table with booktabs rules; its notes stand under it."""
    heads = " & ".join(latex_text(column) for column in table.columns)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_text(table.title)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        rf"{heads} \\",
        r"\midrule",
    ]
    for number, row in enumerate(table.rows):
        if number in table.rules:
            lines.append(r"\midrule")
        # A row that begins with [ would be read as an option of the line break before it.
        cells = " & ".join(latex_text(cell) for cell in row)
        lines.append(rf"{{}}{cells} \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\footnotesize {latex_text(note)}" for note in table.notes]
    lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"
