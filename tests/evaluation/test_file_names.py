"""Files of data sets and tables whose names differ in little."""

from __future__ import annotations

from pathlib import Path

from vqr1.evaluation.file_names import file_names
from vqr1.evaluation.report_writer import write_tables
from vqr1.evaluation.tables import Table
from vqr1.tracking import RunLog


def test_names_that_differ_in_what_files_cannot_hold() -> None:
    found = file_names(["Koniq", "a/b", "../b", "a@b", "koniq", "a-b", "a-b-2", "a/b"])
    assert len(set(map(str.casefold, found.values()))) == len(found) == 7
    assert found["a-b"] == "a-b"
    assert found["a-b-2"] == "a-b-2"
    assert found["a/b"] == "a-b-3"
    assert found["../b"] == "..-b"


def test_no_table_takes_the_place_of_another(tmp_path: Path) -> None:
    names = ("distortions_a/b", "distortions_a b", "distortions_a-b")
    tables = [Table("title", ("set",), ((name,),), name) for name in names]
    write_tables(tables, "Evaluation", RunLog(tmp_path))
    written = sorted((tmp_path / "tables").glob("*.csv"))
    assert sorted(path.read_text().split("\n")[1] for path in written) == sorted(names)
