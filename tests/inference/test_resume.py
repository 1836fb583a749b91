"""Growing files, partial files of ranks, plans that are resumed, and the order of merged rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqr1.durable import committed_mark
from vqr1.inference import resume
from vqr1.inference.result import Result
from vqr1.inference.result_file import ResultFile, RowAppender, partials, read_results
from vqr1.inference.resume import (
    GrowingFile,
    Partials,
    remaining,
    shares,
    table_order,
)

PLAN = (("a", "b"), ("c", "d"), ("e",))


def test_what_was_not_committed_is_cut_off(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "rows")
    assert file.empty
    file.append("one\n")
    file.close()
    with (tmp_path / "rows").open("a") as torn:
        torn.write("tw")
    again = GrowingFile(tmp_path / "rows")
    assert not again.empty
    again.append("two\n")
    again.close()
    assert (tmp_path / "rows").read_text() == "one\ntwo\n"
    assert committed_mark(tmp_path / "rows").read_text() == "8"


def test_partial_files_are_known_by_their_rank(tmp_path: Path) -> None:
    files = Partials(tmp_path, ".scores[1].csv.partial-")
    for rank in (0, 1, 12):
        GrowingFile(files.of(rank)).append("row\n")
    (tmp_path / ".scores[1].csv.partial-mine").write_text("not of a rank")
    (tmp_path / ".scores1.csv.partial-0").write_text("of another file")
    assert [path.name.rpartition("-")[2] for path in files.all()] == ["0", "1", "12"]
    files.remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".scores1.csv.partial-0", ".scores[1].csv.partial-mine",
    ]  # fmt: skip


def test_a_batch_with_one_row_is_done(tmp_path: Path) -> None:
    assert remaining(PLAN, set()) == [0, 1, 2]
    assert remaining(PLAN, {"d"}) == [0, 2]
    assert shares([0, 1, 2], 2) == [[0, 2], [1]]


def test_rows_come_into_the_order_of_the_plan() -> None:
    # Rank 0 had batches 0 and 2, rank 1 batch 1, whose image c did not decode.
    assert table_order(PLAN, ["a", "b", "e", "d"]) == [0, 1, 3, 2]
    with pytest.raises(ValueError, match="1 images were scored twice"):
        table_order(PLAN, ["a", "b", "a"])
    with pytest.raises(KeyError):
        table_order(PLAN, ["f"])


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_rows_of_ranks_that_were_killed_count(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"scores.{form}"
    kind = "csv" if form == "csv" else "jsonl"
    first = Result("a.png", 1.0, valid=True)
    with ResultFile(path, kind, {"seed": 0}, resume=True) as file:
        file.write(first)
    for rank, row in enumerate(("b.png", "c.png")):
        with RowAppender(partials(path).of(rank), kind) as rows:
            rows.write(Result(row, 2.0, valid=True), Result(f"bad{row}", error="cut"))
    with partials(path).of(1).open("a") as torn:
        torn.write("d.png,3.0")
    again = ResultFile(path, kind, {"seed": 0}, resume=True)
    assert [row.path for row in again.kept] == ["a.png", "b.png", "c.png"]
    assert again.holds(Path("c.png"))
    assert not again.holds(Path("badb.png"))
    with again:
        again.write(Result("e.png", 4.0, valid=True))
    assert [row.path for row in read_results(path, kind)] == ["a.png", "b.png", "c.png", "e.png"]
    assert not partials(path).all()
    # Rows beside a file that is replaced are gone with it.
    with RowAppender(partials(path).of(0), kind) as rows:
        rows.write(first)
    with ResultFile(path, kind, {"seed": 1}, resume=False):
        pass
    assert read_results(path, kind) == []
    assert not partials(path).all()


def test_rows_of_ranks_lie_beside_the_file_until_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scores.csv"
    row = Result("a.png", 1.0, valid=True)
    beside: list[int] = []
    monkeypatch.setattr(resume, "sync", lambda path: beside.append(len(partials(path).all())))

    def merge(fault: Exception | None) -> None:
        with ResultFile(path, "csv", {}, resume=True) as file:
            with RowAppender(partials(path).of(1), "csv") as rows:
                rows.write(row)
            if fault is not None:
                raise fault
            file.write(row)

    with pytest.raises(ConnectionError):
        merge(ConnectionError())
    assert len(partials(path).all()) == 1
    path.unlink()
    merge(None)
    assert beside == [1, 1]
    assert partials(path).all() == []
