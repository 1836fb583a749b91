"""`python eval.py questions=FILE`: accuracies by hand, mixed prompts, resuming, mistakes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from tests.cli.conftest import Command, run  # noqa: F401
from tests.support.chat_server import Scripted, chat_server, completion, images_in
from vqr1.cli.compose import compose_config, plain_values
from vqr1.cli.evaluate import main
from vqr1.config import EvalConfig, validate
from vqr1.data.questions import read_questions
from vqr1.evaluation.question_asking import ask, plan_of
from vqr1.evaluation.questions import ANSWERS
from vqr1.inference.request import build_request
from vqr1.inference.setup import InferenceSetup
from vqr1.iqa.answers import FreeText

OPTIONS = (
    "logger=none", "loader.batch_size=2", "mode.sampling.max_new_tokens=12", "hardware.threads=1",
    "statistics.bootstrap_draws=50", "run_dir=out",
)  # fmt: skip


def choice(question: str, kind: int, concern: int, image: str = "a.png") -> dict[str, Any]:
    return {
        "img_path": image, "question": question, "candidates": ["Yes", "No", "Both"],
        "correct_ans": "No", "type": kind, "concern": concern,
    }  # fmt: skip


def depict(query: str, answer: str, image_b: str | None = None) -> dict[str, Any]:
    return {
        "image_ref": None, "image_A": "a.png", "image_B": image_b, "task_type": "t",
        "query": query, "answer": answer,
    }  # fmt: skip


# By the question, what the scripted server answers.
ANSWERED = {
    "q0": "B",  # right
    "q1": "The answer is No.",  # right
    "q2": "A",  # wrong
    "q3": "It depends on the part of the image.",  # invalid
    "q4": "B. No",  # right
    "q5": "Image B",  # right
    "q6": "Image A",  # wrong
    "q7": "Noise and blur",  # right: noise, blur
    "q8": "Noise",  # one of two
    "q9": "None",  # wrong: noise
    "q10": "The photo is blurry and dark.",
}
ITEMS = [
    choice("q0", 0, 0), choice("q1", 0, 1), choice("q2", 1, 0), choice("q3", 1, 3),
    choice("q4", 2, 0, "b.png"),
    depict("q5", "Image B", "b.png"), depict("q6", "Image B", "b.png"),
    depict("q7", "Blur and noise"), depict("q8", "Noise and pixelation"), depict("q9", "Noise"),
    {"img_path": "b.png", "question": "q10", "description": "A blurry, noisy photo."},
]  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 255, (56, 56, 3), dtype=np.uint8)).save(tmp_path / name)
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(ITEMS))
    return path


def asked_of(body: dict[str, Any]) -> str:
    """The question of a request, without what stands around it."""
    parts = [part["text"] for part in body["messages"][-1]["content"] if part["type"] == "text"]
    return next(line for line in "".join(parts).splitlines() if line.startswith("q"))


@pytest.mark.medium
def test_accuracies_by_hand(run: Command, tmp_path: Path, file: Path) -> None:  # noqa: F811
    failing = {"q4"}

    def answer(body: dict[str, Any], _: int) -> Scripted:
        name = asked_of(body)
        assert body["temperature"] == 0
        if name in failing:
            return Scripted({"error": {"message": "no"}}, 503)
        return completion(ANSWERED[name])

    with chat_server(answer) as log:
        arguments = (
            f"questions={file}", *OPTIONS, "backend=openai", f"backend.url={log.url}",
            "backend.retries=0", "backend.concurrency=1",
        )  # fmt: skip
        stopped = run(main, *arguments)
        assert stopped.code != 0
        failing.clear()
        # Batches of another size leave nothing unasked.
        found = run(main, *arguments, "loader.batch_size=3")
        assert found.code == 0, found.err
        # The two batches before that of q4 were committed.
        assert "continuing: 4 of 11 questions are answered" in found.out
        asked = len(log.bodies)
        again = run(main, *arguments)
        assert (again.code, len(log.bodies)) == (0, asked)
        other = run(main, *arguments, "mode.sampling.max_new_tokens=9")
    pairs = [body for body in log.bodies if asked_of(body) in ("q5", "q6")]
    assert {len(images_in(body)) for body in pairs} == {2}
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "max_new_tokens=9: the evaluation in run_dir='out' was started with 12" in other.err
    values = json.loads((tmp_path / "out/metrics.json").read_text())["questions"]
    # 3 of 5 right, 1 of them invalid; yes-or-no 2 of 2, what 0 of 2, how 1 of 1; distortion 2 of 3.
    whole = values["choice"]
    assert (whole["questions"], whole["invalid"], whole["accuracy"][0]) == (5, 1, 0.6)
    wilson = stats.binomtest(3, 5).proportion_ci(method="wilson")
    assert whole["accuracy"][1:] == pytest.approx([wilson.low, wilson.high])
    assert whole["chance"] == pytest.approx(1 / 3)
    by_group = {name: value["accuracy"][0] for name, value in values.items() if "choice/" in name}
    assert by_group == pytest.approx(
        {
            "choice/type/yes-or-no": 1.0, "choice/type/what": 0.0, "choice/type/how": 1.0,
            "choice/concern/distortion": 2 / 3, "choice/concern/other": 1.0,
            "choice/concern/in-context other": 0.0,
        }
    )  # fmt: skip
    assert values["comparison"]["accuracy"][0] == 0.5
    # Whole lists 1 of 3; names 1, 1/2 and 0 of 1: .5; F1 1, 2/3 and 0: 5/9.
    lists = values["identification"]
    assert [lists[name][0] for name in ("accuracy", "names", "names_f1")] == pytest.approx(
        [1 / 3, 0.5, 5 / 9]
    )
    # Blur of blur and darkness, and of blur and noise: 1/2. Words: photo blurry, of photo is
    # blurry and dark, and of blurry noisy photo: 2 * 2 / (5 + 3).
    words = values["description"]
    assert (words["distortions_f1"][0], words["words_f1"][0], words["words"]) == (0.5, 0.5, 6.0)
    rows = [json.loads(line) for line in (tmp_path / "out" / ANSWERS).read_text().splitlines()]
    assert [row["text"] for row in rows] == list(ANSWERED.values())
    assert (rows[3]["stated"], rows[1]["stated"], rows[0]["type"]) == (None, "No", "yes-or-no")
    report = (tmp_path / "out/report.md").read_text()
    assert "| type: what | 2 | 0.000 [0.000, 0.658]" in report
    assert not list((tmp_path / "out").glob("answers.partial*"))
    assert json.loads((tmp_path / "out/summary.json").read_text())["questions"] == values


@pytest.mark.medium
def test_the_tiny_policy_answers_each_question_as_if_alone(
    run: Command,  # noqa: F811
    tmp_path: Path,
    file: Path,
) -> None:
    found = run(main, f"questions={file}", *OPTIONS, "prompt=describe")
    assert found.code == 0, found.err
    rows = [json.loads(line) for line in (tmp_path / "out" / ANSWERS).read_text().splitlines()]
    assert all(isinstance(row["text"], str) for row in rows)
    config = validate(
        EvalConfig, plain_values(compose_config("eval", [f"questions={file}", *OPTIONS]))
    )
    questions = read_questions(file, file.parent)
    assert [len(batch) for batch in plan_of(questions, 2)] == [2, 2, 2, 2, 1, 2]
    backend = InferenceSetup.of(config).open()
    request = build_request(replace(config.mode, name="greedy"), config.prompt, FreeText(), 0)
    for number in (0, 4, 5):
        (alone,) = ask(backend, [questions[number]], file.parent, config.prompt, request)
        assert alone == rows[number]["text"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("consistency=true",), "consistency: questions are asked alone"),
        (("predictions=x.csv",), "predictions: questions are asked alone"),
        (("questions=none.json",), "none.json: no such file"),
        (("questions_root=nowhere",), "the folder of its images, nowhere, does not exist"),
    ],
)
def test_mistakes(
    run: Command,  # noqa: F811
    file: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    found = run(main, f"questions={file}", *OPTIONS, *arguments)
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert message in found.err


@pytest.mark.parametrize("given", ["path", "run"])
def test_a_student_is_asked_no_questions(
    run: Command,  # noqa: F811
    file: Path,
    tmp_path: Path,
    given: str,
) -> None:
    (tmp_path / "trained/export").mkdir(parents=True)
    (tmp_path / "trained/export/config.json").write_text('{"model_type": "vqr1_student"}')
    (tmp_path / "trained/config.yaml").write_text("stage: {name: distill}\n")
    model = "model.run=trained" if given == "run" else "model.path=trained/export"
    found = run(main, f"questions={file}", *OPTIONS, model)
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "trained/export: a student gives scores and answers no questions; name the" in found.err
    assert not list((tmp_path / "out").glob("answers*"))
