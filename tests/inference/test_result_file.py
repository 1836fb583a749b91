"""A file of results cut off at any byte is continued without losing or repeating an image."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from tests.support.holder import hold_output
from tools.faults.forked import start
from vqr1.errors import ConfigError, DataError
from vqr1.inference import result_file
from vqr1.inference.compare import compare
from vqr1.inference.own_files import written_kind
from vqr1.inference.result import Result
from vqr1.inference.result_file import (
    ResultFile,
    RowAppender,
    held,
    partials,
    read_results,
    settings_file,
)
from vqr1.inference.resume import Partials
from vqr1.inference.writers import EARLIER_FIELDS, ResultWriter, write_pairs, write_ranking
from vqr1.row_names import row_name

RESULTS = [
    Result("plain.png", 3.25, 0.5, 0.015, valid=True, text="<answer>3.25</answer>"),
    Result('quo"te, comma.png', 1.0, None, valid=True, text='two\nlines, a "quote"\r\nand more'),
    Result("\N{GREEK SMALL LETTER ALPHA}.png", None, None, valid=False, text="no number"),
    Result("short.png", 2.0, 0.25, valid=True),
    Result("last\nline.png", 4.5, 0.125, valid=True, text="ends with a line\n"),
    Result("some.png", 2.5, 0.5, valid=True, answers=6, valid_answers=4),
    Result("large.jpg", 2.0, 0.5, valid=True, decoded_at="6000x5000"),
]
SETTINGS = {"mode.name": "expected", "model.path": None, "mode.sampling.temperature": 0.0}

Form = Literal["csv", "jsonl"]


def fill(path: Path, form: Form, results: list[Result], *, resume: bool = True) -> list[str]:
    """Score what the file does not hold yet; which paths were scored."""
    file = ResultFile(path, form, SETTINGS, resume=resume)
    left = [result for result in results if not file.holds(Path(result.path or ""))]
    with file:
        for result in left:
            file.write(result)
    return [result.path or "" for result in left]


@pytest.mark.medium
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_cut_at_every_byte(tmp_path: Path, form: Form) -> None:
    path = tmp_path / f"scores.{form}"
    fill(path, form, RESULTS)
    whole = path.read_bytes()
    assert read_results(path, form) == RESULTS
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        kept = read_results(path, form)
        assert kept == RESULTS[: len(kept)]
        scored = fill(path, form, RESULTS)
        # What was kept is not scored again; together they are all images, each once.
        assert [r.path for r in kept] + scored == [r.path for r in RESULTS]
        assert path.read_bytes() == whole
    assert fill(path, form, RESULTS) == []


def test_unreadable_images_are_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    broken = Result("b.png", error="b.png: the image does not decode")
    fill(path, "csv", [RESULTS[0], broken, RESULTS[3]])
    assert fill(path, "csv", [RESULTS[0], Result("b.png", 2.0, valid=True), RESULTS[3]]) == [
        "b.png"
    ]
    assert [r.path for r in read_results(path, "csv")] == ["plain.png", "short.png", "b.png"]


def test_file_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    odd = [Result("bad\udcff.png", 1.0, valid=True)]
    assert fill(path, "jsonl", odd) == ["bad\udcff.png"]
    json.loads(path.read_text(encoding="utf-8"))
    assert fill(path, "jsonl", odd) == []


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_pairs_with_one_image_in_common_are_told_apart(tmp_path: Path, form: Form) -> None:
    """Their names go up from the list's folder: `..` leads out of no other image's path."""
    first, second, same = (
        tuple(Path(f"{folder}/{name}.png") for name in names)
        for folder, *names in (("l/../i", "a", "r"), ("l/../i", "b", "r"), ("i", "a", "r"))
    )
    path = tmp_path / f"scores.{form}"
    with ResultFile(path, form, SETTINGS, resume=True) as file:
        file.write(Result(row_name([str(image) for image in first]), 1.0, valid=True))
    file = ResultFile(path, form, SETTINGS, resume=True)
    assert [file.holds(shown) for shown in (first, second, same)] == [True, False, True]
    with file:
        file.write(Result(row_name([str(image) for image in second]), 2.0, valid=True))
    assert [result.score for result in read_results(path, form)] == [1.0, 2.0]


def test_files_from_before_there_was_a_lost_probability_are_read(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("path,score,std,valid,text,error\na.png,1.5,,true,,\n")
    assert read_results(path, "csv") == [Result("a.png", 1.5, valid=True)]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    fill(path, "csv", RESULTS)
    before = path.read_bytes()
    other = {**SETTINGS, "mode.name": "greedy", "seed": 1}
    with pytest.raises(ConfigError) as refused:
        ResultFile(path, "csv", other, resume=True)
    assert [problem.split(":")[0] for problem in refused.value.problems] == [
        "mode.name='greedy'",
        "seed=1",
    ]
    assert path.read_bytes() == before
    with ResultFile(path, "csv", other, resume=False) as file:
        file.write(RESULTS[0])
    assert read_results(path, "csv") == RESULTS[:1]
    assert json.loads(settings_file(path).read_text()) == other


@pytest.mark.parametrize("writes", range(5))
def test_a_kill_while_a_file_is_replaced_mixes_no_settings(
    writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rows of an earlier command's ranks beside it; killed after so many writes."""
    path = tmp_path / "scores.csv"
    fill(path, "csv", RESULTS[:1])
    with RowAppender(partials(path).of(1), "csv") as rank:
        rank.write(RESULTS[1])
    done: list[str] = []

    def killed(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def write(*arguments: object) -> None:
            if len(done) == writes:
                raise KeyboardInterrupt
            call(*arguments)
            done.append(name)

        return write

    for owner, name in (
        (result_file, "remove_file"), (result_file, "write_file"), (Partials, "remove"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, killed(name, getattr(owner, name)))
    other = {**SETTINGS, "mode.name": "greedy"}
    with pytest.raises(KeyboardInterrupt):
        ResultFile(path, "csv", other, resume=False).__enter__()
    monkeypatch.undo()
    if writes < 2:  # the rows are still there, with their settings
        with pytest.raises(ConfigError, match="greedy"):
            ResultFile(path, "csv", other, resume=True)
    else:
        assert ResultFile(path, "csv", other, resume=True).kept == []


@pytest.mark.parametrize("resume", [False, True])
def test_what_killed_writers_of_a_file_left_goes_and_nothing_of_others(
    tmp_path: Path, resume: bool
) -> None:
    path = tmp_path / "scores.csv"
    fill(path, "csv", RESULTS[:1])
    names = {file.name for file in tmp_path.iterdir()}
    for name in (path.name, settings_file(path).name, "others.csv"):
        (tmp_path / f".{name}.0123456789abcdef.part").touch()
    with ResultFile(path, "csv", SETTINGS, resume=resume):
        pass
    left = {file.name for file in tmp_path.iterdir()}
    assert left == names | {".others.csv.0123456789abcdef.part"}


@pytest.mark.medium
def test_a_file_is_written_by_one_process(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    fill(path, "csv", RESULTS[:1])
    holder = start(hold_output, str(path))
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "held.log").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(ConfigError, match=r"output=.*: another process is writing this file"):
            held(path).__enter__()
    finally:
        holder.kill()
        holder.join()
    with held(path), held(tmp_path / "other.csv"):
        assert (tmp_path / ".scores.csv.lock").exists()
    assert not (tmp_path / ".scores.csv.lock").exists()
    # Nobody writes beside a terminal or a pipe.
    with held(Path("/dev/null")):
        assert not Path("/dev/.null.lock").exists()


def test_what_score_wrote_is_known(tmp_path: Path) -> None:
    results = [Result("a.png", 3.0, 0.5, valid=True), Result("b.png", 2.0, 0.25, valid=True)]
    comparison = compare(results)
    for form in ("csv", "jsonl", "table"):
        stream = io.StringIO()
        writer = ResultWriter(stream, form)
        for result in results:
            writer.write(result)
        (tmp_path / "file").write_text(stream.getvalue(), newline="")
        assert written_kind(tmp_path / "file") == "scores"
        stream = io.StringIO()
        write_ranking(stream, form, comparison)
        (tmp_path / "file").write_text(stream.getvalue(), newline="")
        assert written_kind(tmp_path / "file") == "ranking"
    stream = io.StringIO()
    write_pairs(stream, comparison)
    (tmp_path / "file").write_text(stream.getvalue(), newline="")
    assert written_kind(tmp_path / "file") == "pairs"
    # Files from before answers were counted.
    row = '{"path": "a.png", "score": 3.0, "std": null, "valid": true, "text": "", "error": null}\n'
    for earlier in ("path,score,std,valid,text,error\n", row):
        (tmp_path / "file").write_text(earlier, newline="")
        assert written_kind(tmp_path / "file") == "scores"
    for content in (b"", b"image,score,mos\n", b"[1]\n", b'{"path": "a.png"}\n', b"\xff\xd8\xff"):
        (tmp_path / "file").write_bytes(content)
        assert written_kind(tmp_path / "file") is None


def test_rows_that_other_readers_take(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    row = '{"path": "a.png", "score": 3, "std": 1, "valid": true, "text": null, "error": null}\n'
    path.write_text(row)
    assert read_results(path, "jsonl") == [Result("a.png", 3.0, 1.0, valid=True)]
    for text in (row.replace('"std": 1', '"score": 4, "std": 1'), row.replace("3", "NaN"),
                 row.replace("3", '"1_0"')):  # fmt: skip
        path.write_text(text)
        with pytest.raises(DataError, match=r"scores\.jsonl:1: not a row"):
            read_results(path, "jsonl")
    path.write_text(row + row.replace("a.png", "./a.png"))
    with pytest.raises(DataError, match=r"jsonl:2: image '\./a\.png' was already listed at line 1"):
        read_results(path, "jsonl")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,score\na.png,1\n", "scores.csv:1: not a row"),
        (
            "path,score,std,lost,valid,text,error,answers,valid_answers\na.png,1\nb.png,2,,,true,,,,\n",
            "scores.csv:2: not a row",
        ),
        ("path,score,std,valid,text,error\na.png,1,,true,,\nb.png,x,,true,,\n", "scores.csv:3"),
        ("path,score,std,valid,text,error\na.png,nan,,true,,\n", "scores.csv:2"),
        ('path,score,std,valid,text,error\n"a"b.png,1,,true,,\n', "scores.csv:2"),
    ],
)
def test_files_that_are_none_of_ours(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"no scores\.csv\.settings\.json beside it"):
        ResultFile(path, "csv", SETTINGS, resume=True)
    settings_file(path).write_text(json.dumps(SETTINGS))
    with pytest.raises(DataError, match=words):
        ResultFile(path, "csv", SETTINGS, resume=True)
    assert path.read_text() == text


@pytest.mark.parametrize("earlier", EARLIER_FIELDS)
def test_a_file_of_an_earlier_version_is_continued(
    earlier: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "scores.csv"
    row = {"path": "a.png", "score": "1.5", "valid": "true"}
    path.write_text(f"{','.join(earlier)}\n{','.join(row.get(name, '') for name in earlier)}\n")
    assert written_kind(path) == "scores"
    settings_file(path).write_text(json.dumps(SETTINGS))
    new = Result("b.png", 2.0, valid=True, answers=2, valid_answers=1)
    assert fill(path, "csv", [Result("a.png", 1.5, valid=True), new]) == ["b.png"]
    assert path.read_text() == (
        "path,score,std,lost,valid,text,error,answers,valid_answers,decoded_at\n"
        "a.png,1.5,,,true,,,,,\n"
        "b.png,2.0,,,true,,,2,1,\n"
    )


def test_a_table_states_the_answers_that_a_mean_is_not_over() -> None:
    stream = io.StringIO()
    writer = ResultWriter(stream, "table")
    writer.write(RESULTS[5])
    writer.write(Result("all.png", 2.5, 0.5, valid=True, answers=6, valid_answers=6))
    writer.write(RESULTS[6])
    assert stream.getvalue().splitlines()[1:] == [
        "  2.5000    0.5000  some.png  (mean of 4 of 6 answers; the others are invalid)",
        "  2.5000    0.5000  all.png",
        "  2.0000    0.5000  large.jpg  (decoded at 6000x5000)",
    ]
