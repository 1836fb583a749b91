"""`python score.py`: what it finds, writes, states and returns."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.cli.conftest import Command
from tests.support.chat_server import Scripted, chat_server, completion, image_in
from tests.support.images import noise_image
from tools.faults.forked import start_command
from vqr1.cli.compose import compose_config, plain_values
from vqr1.cli.score import MODES, main
from vqr1.config import ScoreConfig, config_dir, validate
from vqr1.errors import DataError
from vqr1.inference.arguments import split_arguments
from vqr1.inference.files import find_images

pytestmark = pytest.mark.medium

ROOT = Path(__file__).resolve().parents[2]

PASSED_OVER = "2 files in folders are no images by their names (1 hidden, 1 .txt)"
"""What is printed of the folder `photos`."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, one of them a folder below, beside files that are none."""
    place = tmp_path / "photos"
    (place / "below").mkdir(parents=True)
    noise_image(1).save(place / "one.png")
    noise_image(2).save(place / "below" / "two.JPG")
    (place / "notes.txt").write_text("not an image")
    noise_image(3).save(place / ".hidden.png")
    return place


def test_table_on_standard_output(run: Command, folder: Path) -> None:
    outcome = run(main, "photos", "mode=greedy")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["score", "std", "image"]
    assert [line.split()[-1] for line in lines[1:]] == ["photos/one.png", "photos/below/two.JPG"]
    for line in lines[1:]:
        assert re.fullmatch(r" +\d\.\d{4} +-  photos/\S+", line)
    assert outcome.err == f"{PASSED_OVER}\n2 scored, 0 unreadable, 0 invalid\n"


def test_csv_and_jsonl_hold_the_same(run: Command, folder: Path) -> None:
    (folder / "text.jpg").write_text("this is text")
    (folder / "cut.png").write_bytes((folder / "one.png").read_bytes()[:100])
    by_csv = run(main, "photos", "output=scores.csv", "batch_size=1")
    by_jsonl = run(main, "photos", "output=scores.jsonl", "batch_size=3")
    assert (by_csv.code, by_jsonl.code) == (1, 1)
    assert by_csv.out == ""
    passed_over, *errors = by_csv.err.splitlines()
    assert passed_over == PASSED_OVER
    assert [error.split(": ")[:2] for error in errors[:2]] == [
        ["unreadable", "photos/cut.png"],
        ["unreadable", "photos/text.jpg"],
    ]
    assert errors[2:] == ["2 scored, 2 unreadable, 0 invalid"]

    rows = list(csv.DictReader(Path("scores.csv").read_text().splitlines(keepends=True)))
    records = [json.loads(line) for line in Path("scores.jsonl").read_text().splitlines()]
    names = ["photos/cut.png", "photos/one.png", "photos/text.jpg", "photos/below/two.JPG"]
    assert [row["path"] for row in rows] == [record["path"] for record in records] == names
    for row, record in zip(rows, records, strict=True):
        assert list(row) == list(record) == [
            "path", "score", "std", "lost", "valid", "text", "error", "answers", "valid_answers",
            "decoded_at",
        ]  # fmt: skip
        if record["error"]:
            assert (row["score"], row["valid"], row["error"]) == ("", "false", record["error"])
            assert (record["score"], record["std"], record["text"]) == (None, None, None)
        else:
            assert float(row["score"]) == pytest.approx(record["score"], abs=1e-4)
            assert float(row["std"]) == pytest.approx(record["std"], abs=1e-4)
            assert 1.0 <= record["score"] <= 5.0
            assert record["text"] == row["text"]
            assert record["valid"] is True
            assert row["valid"] == "true"


def test_invalid_answers_are_counted_and_never_numbers(run: Command, folder: Path) -> None:
    outcome = run(
        main, "photos/one.png", "format=jsonl", "mode=sampled", "mode.samples=2",
        "mode.sampling.max_new_tokens=3",
    )  # fmt: skip
    assert outcome.code == 0
    record = json.loads(outcome.out)
    assert (record["score"], record["std"], record["valid"]) == (None, None, False)
    assert outcome.err == "0 scored, 0 unreadable, 1 invalid\n"
    shown = run(main, "photos/one.png", "mode=greedy", "mode.sampling.max_new_tokens=3")
    assert shown.out.splitlines()[1].split() == ["-", "-", "photos/one.png", "(invalid", "answer)"]


def test_descriptions(run: Command, folder: Path) -> None:
    outcome = run(main, "photos/one.png", "prompt=describe", "mode.sampling.max_new_tokens=16")
    assert outcome.code == 0
    assert re.fullmatch(r"photos/one\.png: .+\n", outcome.out)
    assert outcome.err == "1 described, 0 unreadable, 0 invalid\n"


def test_a_mistake_leaves_an_earlier_result_alone(run: Command, folder: Path) -> None:
    Path("scores.csv").write_text("kept")
    assert run(main, "photos", "output=scores.csv", "model.path=nomodel").code == 2
    assert Path("scores.csv").read_text() == "kept"


def test_paths_and_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("seed=1.png").write_bytes(b"")
    arguments = ["a.png", "seed=1.png", "seed=2", "x/k=v.png", "model.path=a/b", "+mode.x=1"]
    assert split_arguments(arguments) == (
        ["a.png", "seed=1.png", "x/k=v.png"],
        ["seed=2", "model.path=a/b", "+mode.x=1"],
    )


def test_files_folders_and_globs(folder: Path) -> None:
    one, two = folder / "one.png", folder / "below" / "two.JPG"
    notes = folder / "notes.txt"
    assert find_images([str(folder)]) == [one, two]
    assert find_images([str(folder / "*")]) == [two, one]
    assert find_images([str(folder / "**" / "*.JPG")]) == [two]
    assert find_images([str(two), str(folder), str(one)]) == [two, one]
    # A file that is named itself is tried whatever its ending.
    assert find_images([str(notes)]) == [notes]
    with pytest.raises(DataError, match="gone: no such file or folder"):
        find_images([str(one), str(folder / "gone")])


@pytest.mark.parametrize(
    "choice",
    [
        f"{group}={file.stem}"
        for group in ("model", "prompt", "mode", "backend", "comparison", "hardware")
        for file in sorted((config_dir() / group).glob("*.yaml"))
    ],
)
def test_every_choice_composes(choice: str) -> None:
    validate(ScoreConfig, plain_values(compose_config("score", [choice])))


def test_the_script_is_the_command(run: Command) -> None:
    Image.new("RGB", (60, 40), "gray").save("gray image.png")

    def script() -> None:
        runpy.run_path(str(ROOT / "score.py"), run_name="__main__")

    outcome = run(script, "gray image.png", "mode=greedy", "format=csv")
    assert outcome.code == 0
    header, row = outcome.out.splitlines()
    assert header == "path,score,std,lost,valid,text,error,answers,valid_answers,decoded_at"
    assert row.startswith("gray image.png,")


def test_lists_and_names_on_standard_input(
    run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("list.csv").write_text("number,file\n1,photos/one.png\n2,gone.png\n")
    listed = run(main, "list.csv", "column=file", "mode=greedy", "format=csv")
    assert listed.code == 1
    rows = list(csv.DictReader(listed.out.splitlines()))
    assert [row["path"] for row in rows] == ["photos/one.png", "gone.png"]
    assert listed.err.startswith("unreadable: gone.png: no such image\n")
    names = io.StringIO("photos/below/two.JPG\nphotos/one.png\n")
    monkeypatch.setattr(sys, "stdin", names)
    piped = run(main, "-", "mode=greedy", "format=jsonl")
    assert piped.code == 0
    paths = [json.loads(line)["path"] for line in piped.out.splitlines()]
    assert paths == ["photos/below/two.JPG", "photos/one.png"]


def test_an_output_is_continued(run: Command, folder: Path) -> None:
    ask = ("mode=greedy", "output=scores.csv")
    assert run(main, "photos/one.png", *ask).err == "1 scored, 0 unreadable, 0 invalid\n"
    (folder / "cut.png").write_bytes((folder / "one.png").read_bytes()[:100])
    first = Path("scores.csv").read_text()
    more = run(main, "photos", *ask)
    assert more.code == 1
    assert more.err.splitlines()[:2] == [
        PASSED_OVER, "continuing scores.csv: 1 image is in it"
    ]  # fmt: skip
    assert more.err.splitlines()[-1] == "1 scored, 1 unreadable, 0 invalid"
    assert Path("scores.csv").read_text().startswith(first)
    noise_image(4).save(folder / "cut.png")
    assert run(main, "photos", *ask).err.splitlines()[-1] == "1 scored, 0 unreadable, 0 invalid"
    rows = list(csv.DictReader(Path("scores.csv").read_text().splitlines()))
    assert sorted(row["path"] for row in rows) == [
        "photos/below/two.JPG", "photos/cut.png", "photos/one.png",
    ]  # fmt: skip
    assert all(row["score"] and not row["error"] for row in rows)
    # Nothing is left, so that no model is needed; other settings are refused.
    done = run(main, "photos", *ask)
    assert done.err.splitlines()[-1] == "0 scored, 0 unreadable, 0 invalid"
    other = run(main, "photos", "mode=expected", "output=scores.csv")
    assert (other.code, "mode.name='expected': output=scores.csv was begun with 'greedy'" in
            other.err) == (2, True)  # fmt: skip
    assert run(main, "photos/one.png", "output=scores.csv", "resume=false").code == 0
    assert len(Path("scores.csv").read_text().splitlines()) == 2


def test_comparison_of_images_and_of_results(run: Command, folder: Path) -> None:
    noise_image(5, 90, 200).save(folder / "three.png")
    table = run(main, "photos", "--mode", "compare", "pairs=pairs.csv")
    assert (table.code, table.err) == (0, f"{PASSED_OVER}\n3 compared, 0 excluded\n")
    lines = table.out.splitlines()
    assert lines[0].split() == ["rank", "ranks", "wins", "score", "std", "image"]
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    matrix = [[float(number) for number in line.split()[1:4]] for line in lines[7:10]]
    for i in range(3):
        for j in range(3):
            assert matrix[i][j] + matrix[j][i] == pytest.approx(1, abs=1.1e-3)
    pairs = list(csv.DictReader(Path("pairs.csv").read_text().splitlines()))
    assert len(pairs) == 3

    assert run(main, "photos", "output=scores.jsonl").code == 0
    again = run(main, "--mode", "compare", "results=scores.jsonl", "format=jsonl")
    assert (again.code, again.err) == (0, "3 compared, 0 excluded\n")
    ranking = [json.loads(line) for line in again.out.splitlines()]
    assert [entry["path"] for entry in ranking] == [line.split()[-1] for line in lines[1:4]]
    scores = {r["path"]: r for r in map(json.loads, Path("scores.jsonl").read_text().splitlines())}
    first, second = (scores[pairs[0][name]] for name in ("first", "second"))
    std = math.sqrt(first["std"] ** 2 + second["std"] ** 2 + 1e-6)
    z = (first["score"] - second["score"]) / std
    assert float(pairs[0]["first_better"]) == pytest.approx(
        0.5 * math.erfc(-z / math.sqrt(2)), abs=1e-4
    )


@pytest.mark.slow
def test_what_it_wrote_is_replaced_and_nothing_else(run: Command, folder: Path) -> None:
    asks = (
        ("photos", "mode=greedy", "output=table.txt"),
        ("photos", "--mode", "compare", "output=ranking.txt", "pairs=pairs.csv"),
    )
    for ask in (*asks, *asks):
        found = run(main, *ask)
        assert found.code == 0, found.err
    # A ranking is no file of scores to continue, and a description has no mark of its own.
    mixed = run(main, "photos", "output=pairs.csv")
    assert (mixed.code, "no pairs.csv.settings.json beside it" in mixed.err) == (2, True)
    describe = ("photos", "prompt=describe", "mode=greedy", "output=words.txt")
    assert run(main, *describe).code == 0
    again = run(main, *describe)
    assert again.err == (
        "error: output=words.txt: the file exists, and this command did not write it; choose "
        "another file, or remove it first\n"
    )
    scores = ("photos", "output=scores.csv")
    assert run(main, *scores).code == 0
    refused = run(main, "photos", "--mode", "compare", "output=scores.csv")
    assert "output=scores.csv: holds scores, which a comparison would replace" in refused.err
    for resume in ("false", "true"):
        compared = run(main, "photos", "--mode", "compare", "output=scores.csv", f"resume={resume}")
        assert compared.code == 0, compared.err


def test_words_of_the_mode_option(run: Command, folder: Path) -> None:
    for word, override in MODES.items():
        key, choice = override.split("=")
        config = compose_config("score", [override])
        assert (config.task if key == "task" else config[key].name) == choice, word
    described = run(main, "photos/one.png", "--mode", "describe", "mode.sampling.max_new_tokens=4")
    assert described.err == "1 described, 0 unreadable, 0 invalid\n"


@pytest.mark.slow
def test_killed_and_started_again(tmp_path: Path) -> None:
    """A real process, a real SIGKILL, in the middle of a batch; no image is lost or repeated."""
    for number in range(12):
        noise_image(number, 60, 60).save(tmp_path / f"{number:02d}.png")
    reached, release = threading.Event(), threading.Event()

    def answer(body: dict[str, Any], number: int) -> Scripted:
        if number >= 7 and not release.is_set():
            reached.set()
            release.wait(240)
        return completion(f"<answer>{1 + int(image_in(body).mean()) % 4}.00</answer>")

    with chat_server(answer) as log:
        arguments = (
            ".", "output=scores.csv", "mode=greedy", "backend=openai", f"backend.url={log.url}",
            "batch_size=3", "backend.concurrency=2", "prompt=non_thinking",
        )  # fmt: skip
        killed = start_command("vqr1.cli.score", tmp_path, *arguments)
        assert reached.wait(240)
        killed.kill()
        killed.join(120)
        assert killed.exitcode == -signal.SIGKILL
        output = tmp_path / "scores.csv"
        before = output.read_text()
        assert len(before.splitlines()) == 1 + 6
        # Killed between two rows; now as if within the sixth.
        output.write_text(before[:-9])
        release.set()
        asked = len(log.bodies)
        printed = tmp_path / "output.txt"
        printed.unlink()
        again = start_command("vqr1.cli.score", tmp_path, *arguments)
        again.join(120)
    assert again.exitcode == 0, printed.read_text()
    assert "continuing scores.csv: 5 images are in it\n" in printed.read_text()
    assert len(log.bodies) - asked == 7
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert sorted(row["path"] for row in rows) == [f"{number:02d}.png" for number in range(12)]
    assert output.read_text().startswith("".join(before.splitlines(keepends=True)[:6]))


def test_one_bad_reply_costs_one_image(run: Command, folder: Path) -> None:
    tokens = [(piece, {piece: -0.01}) for piece in ("<answer>", *"3.00", "</answer>")]
    good = completion("<answer>3.00", tokens)
    for bad, error in (
        (completion("", []), ""),
        (Scripted({"choices": []}), "no chat completion"),
        (Scripted({"error": "too large"}, 413), "the server refuses this image"),
    ):

        def answer(_: dict[str, Any], number: int, bad: Scripted = bad) -> Scripted:
            return bad if number == 1 else good

        with chat_server(answer) as log:
            outcome = run(
                main, "photos", "prompt=non_thinking", "backend=openai", f"backend.url={log.url}",
                "batch_size=1", "output=scores.csv", "resume=false",
            )  # fmt: skip
        assert outcome.code == (1 if error else 0), outcome.err
        rows = list(csv.DictReader(Path("scores.csv").read_text().splitlines()))
        assert [bool(row["score"]) for row in rows] == [n != 1 for n in range(len(rows))]
        assert error in rows[1]["error"]


def test_what_a_server_is_asked_must_agree(run: Command, folder: Path) -> None:
    good = completion("<answer>3.00</answer>")
    with chat_server(lambda *_: good) as log, chat_server(lambda *_: good, "other") as other:
        ask = ("photos", "mode=greedy", "backend=openai", "output=scores.csv")
        assert run(main, *ask, f"backend.url={log.url}").code == 0
        asked = len(log.bodies)
        assert run(main, *ask, f"backend.url={log.url}").code == 0
        for changes, key in (
            # The server's own model, where the command names none.
            ((f"backend.url={other.url}",), "backend.model='other'"),
            ((f"backend.url={log.url}", "+backend.extra_body.a=1"), "backend.extra_body={'a': 1}"),
            (
                (f"backend.url={log.url}", "+backend.unsupported.seed=null"),
                "backend.unsupported={'seed': None}",
            ),
            ((f"backend.url={log.url}", "prompt.vision_id=true"), "prompt.vision_id=True"),
            (
                (f"backend.url={log.url}", "mode.sampling.repetition_penalty=1.2"),
                "mode.sampling.repetition_penalty=1.2",
            ),
        ):
            refused = run(main, *ask, *changes)
            assert (refused.code, key in refused.err) == (2, True), refused.err
            assert "output=scores.csv was begun with" in refused.err
        assert len(log.bodies) + len(other.bodies) == asked
        unsent = "+backend.unsupported.presence_penalty=null"
        plain = run(main, "photos", "mode=greedy", "backend=openai", f"backend.url={log.url}",
                    "prompt.vision_id=true", unsent)  # fmt: skip
    assert "note: the policy was trained with prompt.vision_id=false, it is asked" in plain.err
    assert "note: answers are drawn with the server's own presence_penalty not known" in plain.err


def test_a_file_of_before_the_keys_counts_as_they_did_then(run: Command, folder: Path) -> None:
    ask = ("photos", "mode=greedy", "prompt=non_thinking", "output=scores.csv")
    assert run(main, *ask).code == 0
    settings = Path("scores.csv.settings.json")
    kept = json.loads(settings.read_text())
    for key in ("prompt.vision_id", "mode.sampling.repetition_penalty"):
        del kept[key]
    settings.write_text(json.dumps(kept))
    # The tiny policy was asked with it then.
    assert run(main, *ask, "prompt.vision_id=true").code == 0
    refused = run(main, *ask)
    assert "prompt.vision_id=False: output=scores.csv was begun with True" in refused.err


def test_a_server_that_fails_in_the_middle(run: Command, folder: Path) -> None:
    def answer(_: dict[str, Any], number: int) -> Scripted:
        return completion("<answer>2.00</answer>") if number == 0 else Scripted("<html>")

    with chat_server(answer) as log:
        ask = ("photos", "mode=greedy", "backend=openai", f"backend.url={log.url}", "batch_size=1")
        outcome = run(main, *ask, "output=scores.csv")
    assert outcome.code == 2
    assert "the server's answer is no chat completion ('<html>')" in outcome.err
    assert "scores.csv holds what was scored until now; the same command" in outcome.err
    assert len(Path("scores.csv").read_text().splitlines()) == 2


def test_mistakes_are_found_before_torch_loads() -> None:
    code = "import sys, vqr1, vqr1.cli.score; print('torch' in sys.modules)"
    light = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert light.stdout.split() == ["False"]


@pytest.mark.slow
def test_a_reader_who_has_seen_enough(tmp_path: Path) -> None:
    for number in range(40):
        noise_image(number).save(tmp_path / f"{number}.png")
    command = [sys.executable, str(ROOT / "score.py"), ".", "format=csv", "batch_size=1"]
    with subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("path,")
        process.stdout.close()
        printed = process.stderr.read()
    assert process.returncode == 141, printed
    assert "Traceback" not in printed
    assert "Exception ignored" not in printed
