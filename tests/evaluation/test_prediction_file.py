"""Predictions to files and back, and what is refused in files that users bring."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqr1.config import DatasetConfig, PredictionColumns, SplitConfig
from vqr1.durable import committed_mark
from vqr1.errors import DataError
from vqr1.evaluation.labels import EvalSplit, label_tables
from vqr1.evaluation.prediction_file import (
    PredictionStream,
    read_predictions,
    write_predictions,
)
from vqr1.evaluation.predictions import Predictions
from vqr1.inference.resume import cut_to_committed

GOOD = "image,score,mos\na.png,3.5,4.0\nb.png,,2.0\nc.png,1.25,1.0\n"


def make(
    texts: list[list[str]], scores: list[list[float]], names: list[str] | None = None
) -> Predictions:
    n = len(texts)
    array = np.array(scores, dtype=float)
    return Predictions(
        images=tuple(names or [f"{i}.png" for i in range(n)]),
        datasets=("demo",) * n,
        index=np.arange(n),
        mos=np.linspace(1, 5, n),
        scores=array,
        valid=np.isfinite(array),
        format_compliant=np.isfinite(array),
        texts=tuple(tuple(row) for row in texts),
        references=tuple(f"I{i // 2}" for i in range(n)),
        distortions=tuple("blur" if i % 2 else None for i in range(n)),
        lost=np.array([i / 7 if i % 2 else np.nan for i in range(n)]),
        decoded_at=tuple("6000x5000" if i % 3 == 1 else None for i in range(n)),
    )


def assert_equal(first: Predictions, second: Predictions) -> None:
    for name in ("images", "datasets", "texts", "references", "distortions", "decoded_at"):
        assert getattr(first, name) == getattr(second, name), name
    for name in ("index", "mos", "scores", "valid", "format_compliant", "lost"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), name)


@pytest.mark.medium
@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=4))
def test_any_text_survives_a_file(
    tmp_path_factory: pytest.TempPathFactory, words: list[str]
) -> None:
    texts = [[word, words[0]] for word in words]
    scores = [[1.1, np.nan] if i % 2 else [np.nan, 1 / 3] for i in range(len(words))]
    predictions = make(texts, scores)
    for suffix in ("csv", "parquet"):
        path = tmp_path_factory.mktemp("file") / f"predictions.{suffix}"
        write_predictions(predictions, path)
        assert_equal(read_predictions(path), predictions)


def test_a_stream_gives_the_same_file(tmp_path: Path) -> None:
    predictions = make([["a\r\nb"], ['"x", y'], ["\r"], ["<answer>3"]], [[1.0], [2], [3], [4]])
    stream = PredictionStream(tmp_path / "partial.csv")
    stream.append(predictions.rows(np.array([0, 1])))
    stream.append(predictions.rows(np.array([2, 3])))
    stream.close()
    assert_equal(read_predictions(tmp_path / "partial.csv"), predictions)


def test_a_file_without_the_column_lost_continues_without_it(tmp_path: Path) -> None:
    path = tmp_path / "partial.csv"
    predictions = make([["a"], ["b"]], [[1.0], [2.0]])
    stream = PredictionStream(path)
    stream.append(predictions.rows(np.array([0])))
    stream.close()
    table = pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns="lost")
    table.to_csv(path, index=False, quoting=csv.QUOTE_ALL)
    committed_mark(path).write_text(str(path.stat().st_size))
    again = PredictionStream(path)
    again.append(predictions.rows(np.array([1])))
    again.close()
    assert_equal(read_predictions(path), replace(predictions, lost=np.full(2, np.nan)))


def test_what_a_killed_process_left_half_written_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "partial.csv"
    predictions = make([["a"], ["b"]], [[1.0], [2.0]])
    stream = PredictionStream(path)
    stream.append(predictions.rows(np.array([0])))
    stream.close()
    with path.open("ab") as file:
        file.write(b'"demo","1.png","1","0","2.0","1","1","5.0","I0","blur","half a te')
    again = PredictionStream(path)
    again.append(predictions.rows(np.array([1])))
    again.close()
    assert_equal(read_predictions(path), predictions)
    with path.open("ab") as file:
        file.write(b'"demo"')
    cut_to_committed(path)
    assert_equal(read_predictions(path), predictions)


def test_a_user_file(tmp_path: Path) -> None:
    path = tmp_path / "livec.csv"
    path.write_text(GOOD)
    found = read_predictions(path)
    assert found.images == ("a.png", "b.png", "c.png")
    assert set(found.datasets) == {"livec"}
    np.testing.assert_array_equal(found.image_scores(), [3.5, np.nan, 1.25])
    assert found.clusters() is None


def test_other_columns_and_directions(tmp_path: Path) -> None:
    path = tmp_path / "niqe.csv"
    path.write_text("name,niqe,dmos,ref\na,3.5,10,r\nb,2.5,20,r\n")
    columns = PredictionColumns(
        image="name",
        score="niqe",
        mos="dmos",
        reference="ref",
        score_lower_is_better=True,
        mos_lower_is_better=True,
    )
    found = read_predictions(path, columns)
    np.testing.assert_array_equal(found.scores[:, 0], [-3.5, -2.5])
    np.testing.assert_array_equal(found.mos, [-10, -20])
    assert found.clusters() == ("r", "r")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,mos\na,1\n", "no column 'score' (found: image, mos); name it with columns.score"),
        ("image,score\na,1\n", "no column 'mos' (found: image, score)"),
        ("image,score,mos\na,1,1\nb,good,2\n", ":3: score 'good' of image 'b': must be a number"),
        ("image,score,mos\na,1,\n", ":2: mos '' of image 'a': must be a number (1 such rows)"),
        ("image,score,mos\na,inf,1\n", ":2: score 'inf' of image 'a': must be a number"),
        ('image,score,mos,text\na,1,1,"x\ny"\nb,q,2,z\n', ":4: score 'q' of image 'b'"),
        ("image,score,mos\na,1,1\nb,1,1\na,2,1\n", ":4: 1 rows repeat an image and sample: a;"),
        (
            "image,score,mos,sample\na,1,1,0\na,1,1,1\nb,1,1,0\n",
            "1 images have fewer than 2 answers: b;",
        ),
        ("image,score,mos,sample\na,1,1,0\na,1,2,1\n", "image 'a' has two MOS"),
        ("image,score,mos\n", "no rows"),
        ("", "the file is empty"),
        # Decimal commas without quotes: the old reader took the first column for row names.
        ("image,score,mos\na.png,1,5,1.2\nb.png,2,5,3.4\n", ":2: 4 columns, expected 3"),
        ("image,score,mos\na.png,1,5\nb.png,1\n", ":3: 2 columns, expected 3"),
        ("image,score,mos\na.png,1,5,\n", ":2: 4 columns, expected 3"),
        ("image,score,mos,\na.png,1,5,1.2\n", ":2: '1.2' in column 4, which has no name"),
        ("image,mos,score,mos\na,1,2,3\n", ":1: column 'mos' stands 2 times (columns 2, 4)"),
        ("image,score,score,mos\na,1,2,3\n", ":1: column 'score' stands 2 times"),
        ("image;score;mos\na;1,5;1,2\n", "separated by semicolons"),
        ('image,score,mos\na,"1,5",2\n', ":2: score '1,5' of image 'a': must be a number"),
        ("image,score,mos\na,1_000,2\n", "score '1_000'"),
        ("image,score,mos\na,1,0x10\n", "mos '0x10'"),
        ("image,score,mos\na,1,\u0663\n", "mos '\u0663'"),
        ("image,score,mos\na,1,nan\n", "mos 'nan' of image 'a': must be a number"),
        ("image,score,mos\n,1,2\n", ":2: no image name in this row"),
        ('image,score,mos\na,1,2\n"b,3,4\nc,5,6\n', ":3: not readable as CSV (unexpected end"),
        (
            "image,score,mos,format_compliant\na,1,2,maybe\n",
            ":2: format_compliant 'maybe' of image 'a'",
        ),
    ],
)
def test_refused_with_the_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_predictions(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_spreadsheets_and_pandas_write_is_read(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    # A byte order mark, row numbers without a heading, empty columns, blank lines, Windows' ends.
    path.write_bytes(
        ("\ufeff,image , score,mos,,\r\n0,a,1.5,5,,\r\n\r\n,,,,,\r\n1,b,2,1e0,,\r\n").encode()
    )
    found = read_predictions(path)
    assert found.images == ("a", "b")
    np.testing.assert_array_equal(found.scores[:, 0], [1.5, 2])
    np.testing.assert_array_equal(found.mos, [5, 1])


def test_answers_longer_than_the_csv_module_takes(tmp_path: Path) -> None:
    predictions = make([["x" * 200_000]], [[2.0]])
    write_predictions(predictions, tmp_path / "long.csv")
    assert_equal(read_predictions(tmp_path / "long.csv"), predictions)


def test_parquet_with_a_column_twice(tmp_path: Path) -> None:
    names = ["image", "score", "mos", "mos"]
    columns = [pa.array(["a", "b"]), *(pa.array([1.0, 2.0]) for _ in range(3))]
    pq.write_table(pa.Table.from_arrays(columns, names), tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="column 'mos' stands 2 times"):
        read_predictions(tmp_path / "twice.parquet")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_predictions(tmp_path / "none.csv")


def labels(images: list[str]) -> pd.DataFrame:
    mos = np.arange(1, len(images) + 1)
    return pd.DataFrame(
        {"image": images, "mos": mos, "std_mos": mos / 10, "reference": None, "distortion": None}
    )


def test_mos_from_labels(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("image,score\nb,2\na,1\n")
    found = read_predictions(path, labels={"livec": labels(["a", "b"])})
    assert found.images == ("b", "a")
    np.testing.assert_array_equal(found.mos, [2, 1])
    np.testing.assert_array_equal(found.std, [0.2, 0.1])
    np.testing.assert_array_equal(found.index, [1, 0])
    assert set(found.datasets) == {"livec"}


def test_rows_of_several_sets_are_those_of_their_own_tables(tmp_path: Path) -> None:
    path = tmp_path / "both.csv"
    path.write_text("dataset,image,score\nx,a.png,1\ny,b.png,2\ny,a.png,3\n")
    found = read_predictions(path, labels={"x": labels(["a.png"]), "y": labels(["a.png", "b.png"])})
    assert list(zip(found.datasets, found.images, found.index.tolist(), strict=True)) == [
        ("x", "a.png", 0), ("y", "b.png", 1), ("y", "a.png", 0),
    ]  # fmt: skip


def test_only_the_evaluated_labels_need_predictions(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("image,score\nd,4\nb,2\na,1\n")
    table = labels(["a", "b", "c", "d"]).assign(evaluated=[True, False, False, True])
    found = read_predictions(path, labels={"livec": table})
    assert found.images == ("d", "a")
    np.testing.assert_array_equal(found.mos, [4, 1])
    np.testing.assert_array_equal(found.index, [3, 0])
    path.write_text("image,score\nd,4\nb,2\n")
    with pytest.raises(DataError, match="1 labelled images have no prediction: a"):
        read_predictions(path, labels={"livec": table})


def test_label_tables_know_the_part(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(10)]
    lines = ["image,mos", *(f"{name},{number}" for number, name in enumerate(names))]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "test.txt").write_text("3.png\n7.png\n")
    (tmp_path / "train.txt").write_text("1.png\n")
    config = DatasetConfig(
        name="csv",
        root=str(tmp_path),
        label_file="labels.csv",
        split=SplitConfig(by="files", files={"train": "train.txt", "test": "test.txt"}),
    )

    def evaluated(part: EvalSplit, dataset: DatasetConfig = config) -> list[str]:
        table = label_tables(dataset, part)["csv"]
        assert len(table) == 10
        return table["image"][table["evaluated"]].tolist()

    assert evaluated("test") == ["3.png", "7.png"]
    assert evaluated("train") == ["1.png"]
    assert evaluated("all") == names
    # `printf 0:test:9.png | sha256sum` gives 2321ce81..., 7.png 2496ada8..., 8.png 35006175...
    assert evaluated("all", replace(config, max_images=2)) == ["7.png", "9.png"]
    assert evaluated("all", replace(config, max_images=3)) == ["7.png", "8.png", "9.png"]
    with pytest.raises(DataError, match=r"dataset\.split: no val images"):
        evaluated("val")


def test_labels_that_do_not_match(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("image,score\nb,2\nx,1\ny,1\n")
    with pytest.raises(DataError) as caught:
        read_predictions(path, labels={"livec": labels(["a", "b"])})
    assert "2 images without a label: x, y" in str(caught.value)
    assert "1 labelled images have no prediction: a" in str(caught.value)


def test_paths_of_the_score_command_are_those_of_labels(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("image,score\n/data/set/images/a.png,1\nset\\sub\\b.png,2\nc.png,3\n")
    found = read_predictions(path, labels={"livec": labels(["a.png", "sub/b.png", "c.png"])})
    assert found.images == ("a.png", "sub/b.png", "c.png")
    # The longest end counts, and no two images are one.
    path.write_text("image,score\nx/sub/b.png,1\nx/b.png,2\n")
    found = read_predictions(path, labels={"livec": labels(["sub/b.png", "b.png"])})
    assert found.images == ("sub/b.png", "b.png")
    path.write_text("image,score\nx/b.png,1\ny/b.png,2\n")
    with pytest.raises(DataError, match=r"x/b\.png and y/b\.png are both b\.png of livec"):
        read_predictions(path, labels={"livec": labels(["b.png"])})


def test_letter_case_and_unicode_form_are_not_needed_to_match_labels(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("image,score\n/tid/I01_01_1.BMP,1\ni02.bmp,2\nx\\cafe\u0301.png,3\n")
    table = labels(["i01_01_1.bmp", "I02.bmp", "i02.bmp", "caf\u00e9.png"])
    table["evaluated"] = [True, False, True, True]
    found = read_predictions(path, labels={"tid": table})
    # The exact name goes before one that differs in letter case.
    assert found.images == ("i01_01_1.bmp", "i02.bmp", "caf\u00e9.png")
    np.testing.assert_array_equal(found.mos, [1, 3, 4])
    path.write_text("image,score\nx/A.png,1\n")
    with pytest.raises(DataError, match=r"x/A\.png may be a\.PNG or a\.png of tid, which differ"):
        read_predictions(path, labels={"tid": labels(["a.png", "a.PNG"])})
    path.write_text("image,score\nx/A.png,1\na.png,1\n")
    with pytest.raises(DataError, match=r"x/A\.png and a\.png are both a\.png of tid"):
        read_predictions(path, labels={"tid": labels(["a.png"])})
