"""Evaluating the model of a server: the real tiny policy behind the chat protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.cli.conftest import Command, run, write_kadid  # noqa: F401
from tests.support.chat_server import ChatLog, Said, chat_server, completion, picture_in
from vqr1.cli.compose import compose_config, plain_values
from vqr1.cli.evaluate import main
from vqr1.config import EvalConfig, validate
from vqr1.data.prompts import PromptBuilder
from vqr1.evaluation.prediction_file import read_predictions
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.server import PictureReader, pictures_of
from vqr1.policy.loading import load_policy
from vqr1.rollout.local import LocalEngine

SMALL = (
    "dataset=kadid",
    "dataset.split.by=none",
    "mode=greedy",
    "mode.sampling.max_new_tokens=48",
    "loader.images_per_batch=5",
    "loader.workers=0",
    "logger=none",
    "figures.bootstrap_draws=0",
    "report.plots=false",
    "report.worst=0",
)


class Served:
    """Answers greedily, as a server with the tiny policy would; refuses one picture."""

    def __init__(self) -> None:
        overrides = ["run_dir=run", "mode=greedy", "mode.sampling.max_new_tokens=48"]
        config = validate(EvalConfig, plain_values(compose_config("eval", overrides)))
        policy = load_policy(config.model)
        self._sampling = config.mode.sampling
        self._build = PromptBuilder(
            policy.processor, config.prompt.text, config.model.min_pixels, config.model.max_pixels
        )
        self._engine = LocalEngine(policy.model, policy.processor.tokenizer, 4096)
        self.refused = -1

    def __call__(self, body: dict[str, Any], number: int) -> Said:
        if number == self.refused:
            return Said({"error": {"message": "<answer>5</answer>"}}, 400)
        prompts = self._build.from_resized([torch.from_numpy(picture_in(body).copy())])
        found = self._engine.sample(prompts, group_size=1, sampling=self._sampling, seed=0)
        return completion(found.texts[0][0])


def test_pictures_survive_the_loader() -> None:
    pictures = [
        torch.randint(0, 256, (h, w, 3), dtype=torch.uint8) for h, w in ((28, 56), (84, 28))
    ]
    found = pictures_of(PictureReader(784, 10**6).from_resized(pictures))
    assert all(torch.equal(a, b) for a, b in zip(found, pictures, strict=True))


def same(a: Predictions, b: Predictions) -> bool:
    return a.images == b.images and a.texts == b.texts and bool(np.array_equal(a.mos, b.mos))


def test_a_server_gives_the_figures_of_its_model(run: Command, tmp_path: Path) -> None:  # noqa: F811
    root = write_kadid(tmp_path / "kadid", references=3)
    local = run(main, *SMALL, f"dataset.root={root}", "run_dir=local")
    assert local.code == 0, local.err
    served = Served()
    log: ChatLog
    with chat_server(served) as log:
        arguments = (
            *SMALL, f"dataset.root={root}", "backend=openai", f"backend.url={log.url}",
            "backend.concurrency=1",
        )  # fmt: skip
        found = run(main, *arguments, "run_dir=server")
        assert found.code == 0, found.err
        asked = len(log.bodies)
        again = run(main, *arguments, "run_dir=server")
        assert len(log.bodies) == asked == 12
        served.refused = asked + 3
        refused = run(main, *arguments, "run_dir=refused")
    assert f"m at {log.url}, thinking prompt, greedy answer" in found.out
    assert "already scored" in again.out
    expected = read_predictions(tmp_path / "local/predictions.csv")
    assert same(read_predictions(tmp_path / "server/predictions.csv"), expected)
    # The image that the server refuses is invalid, with the server's words, and no other is.
    assert refused.code == 0, refused.err
    lost = read_predictions(tmp_path / "refused/predictions.csv")
    assert lost.texts[3] == ("the server refuses this image: <answer>5</answer>",)
    assert not lost.valid[3].any()
    keep = np.arange(12) != 3
    assert same(lost.rows(keep), expected.rows(keep))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("backend=openai", "model.run=abc"), "backend=openai judges the server's own model"),
        (("backend=vllm",), "backend=vllm: an evaluation takes local or openai"),
        (
            ("backend=openai", "backend.url=http://127.0.0.1:9/v1", "backend.retries=0"),
            "the server cannot be reached",
        ),
    ],
)
def test_mistakes(run: Command, arguments: tuple[str, ...], message: str) -> None:  # noqa: F811
    found = run(main, *arguments, "logger=none", "run_dir=out")
    assert found.code == 2
    assert message in found.err
    assert found.err.count("\n") == 1
