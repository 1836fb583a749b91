"""Questions that a training asks of its policy before and after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.conftest import Command, run, write_kadid  # noqa: F401
from tests.evaluation.test_questions import file  # noqa: F401
from vqr1.cli.compose import compose_config, plain_values
from vqr1.cli.train import main
from vqr1.config import EvalConfig, validate
from vqr1.data.questions import read_questions
from vqr1.evaluation.question_asking import ask
from vqr1.inference.request import build_request
from vqr1.inference.setup import InferenceSetup
from vqr1.iqa.answers import FreeText
from vqr1.training.checkpoint_files import read_checkpoint
from vqr1.training.questions import KEPT

SMALL = (
    "dataset=kadid", "loader.batch_size=4", "loader.workers=0", "grpo.group_size=2", "max_steps=2",
    "validation.every_steps=2", "validation.samples=1", "validation.max_images=4",
    "validation.test=false", "rollout.sampling.max_new_tokens=16", "hardware.threads=1",
    "logger=csv", "run_dir=run",
)  # fmt: skip


def answers_of(file: Path, *overrides: str) -> list[str | None]:  # noqa: F811
    """What a backend answers greedily to each question of a file, asked alone."""
    config = validate(EvalConfig, plain_values(compose_config("eval", ["mode=greedy", *overrides])))
    request = build_request(config.mode, config.prompt, FreeText(), 0)
    request = replace(request, sampling=replace(request.sampling, stop="eos"))
    backend, questions = InferenceSetup.of(config).open(), read_questions(file, file.parent)
    return [
        text
        for question in questions
        for text in ask(backend, [question], file.parent, config.prompt, request)
    ]


@pytest.mark.medium
def test_a_policy_is_asked_before_and_after(run: Command, tmp_path: Path, file: Path) -> None:  # noqa: F811
    root = write_kadid(tmp_path / "set")
    found = run(main, *SMALL, f"dataset.root={root}", f"validation.questions={file}")
    assert found.code == 0, found.err
    folder = tmp_path / "run/checkpoints"
    # The exported policy may be that of step 0, which is asked once.
    kept = [read_checkpoint(path)["texts"] for path in sorted(folder.glob(f"{KEPT}_*.ckpt"))]
    assert (folder / f"{KEPT}_00000000.ckpt").is_file()
    assert {len(texts) for texts in kept} == {11}
    before = kept[0]
    page = (tmp_path / "run/questions.md").read_text()
    assert page.count("greedy answers, before training") == 4  # one a kind
    assert page.count("greedy answers, after training") == 4
    assert page.count("change with training, of the same questions") == 4
    assert "choice questions, accuracy: " in found.out
    header = (tmp_path / "run/metrics.csv").read_text().splitlines()[0]
    for name in ("choice/accuracy", "choice/type/what/accuracy", "description/words_f1"):
        assert f"questions/{name}_before" in header
        assert f"questions/{name}_after" in header
    # The policy as it was loaded is what a backend asks.
    assert answers_of(file, "run_dir=run", "mode.sampling.max_new_tokens=16") == before


def test_a_mistake_in_the_file_is_found_first(run: Command, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "q.json").write_text("[5]")
    root = write_kadid(tmp_path / "set")
    found = run(main, *SMALL, f"dataset.root={root}", "validation.questions=q.json")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "q.json: item 1: must be a JSON object, not 5" in found.err
