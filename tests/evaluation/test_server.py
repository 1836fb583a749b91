"""Evaluating the model of a server: the real tiny policy after the chat protocol."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.cli.conftest import Command, run, write_kadid  # noqa: F401
from tests.support.chat_server import ChatLog, Scripted, chat_server, completion, image_in
from vqr1.cli.compose import compose_config, plain_values
from vqr1.cli.evaluate import main
from vqr1.config import EvalConfig, validate
from vqr1.evaluation.planned_images import ResizedImages
from vqr1.evaluation.prediction_file import read_predictions
from vqr1.evaluation.predictions import Predictions
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.loading import load_policy
from vqr1.policy.prompts import PromptBuilder
from vqr1.rollout.local import LocalEngine

SMALL = (
    "dataset=kadid",
    "dataset.split.by=none",
    "mode=greedy",
    "mode.sampling.max_new_tokens=48",
    "loader.batch_size=5",
    "loader.workers=0",
    "logger=none",
    "statistics.bootstrap_draws=0",
    "report.plots=false",
    "report.worst=0",
)


class Served:
    """Answers greedily, as a server with the tiny policy would; refuses one image."""

    def __init__(self) -> None:
        overrides = ["run_dir=run", "mode=greedy", "mode.sampling.max_new_tokens=48"]
        config = validate(EvalConfig, plain_values(compose_config("eval", overrides)))
        policy = load_policy(config.model)
        self._sampling = config.mode.sampling
        self._builders = [
            PromptBuilder(
                FAMILY,
                policy.processor,
                config.prompt.text,
                config.model.min_pixels,
                config.model.max_pixels,
                vision_id=vision_id,
            )
            for vision_id in (False, True)
        ]
        self._engine = LocalEngine(policy.model, policy.processor.tokenizer, 4096)
        self.refused = -1

    def __call__(self, body: dict[str, Any], number: int) -> Scripted:
        if number == self.refused:
            return Scripted({"error": {"message": "<answer>5</answer>"}}, 400)
        vision_id = body["messages"][0]["content"][0] == {"type": "text", "text": "Picture 1: "}
        builder = self._builders[vision_id or body["chat_template_kwargs"]["add_vision_id"]]
        prompts = builder.from_resized([torch.from_numpy(image_in(body).copy())])
        found = self._engine.sample(prompts, group_size=1, sampling=self._sampling, seed=0)
        return completion(found.texts[0][0])


def test_images_survive_the_loader() -> None:
    images = [torch.randint(0, 256, (h, w, 3), dtype=torch.uint8) for h, w in ((28, 56), (84, 28))]
    batch = pickle.loads(
        pickle.dumps(ResizedImages(FAMILY.resize_rule(None, 784, 10**6)).from_resized(images))
    )
    found = batch.flat_images
    assert [len(ids) for ids in batch.input_ids] == [0, 0]
    assert all(torch.equal(a, b) for a, b in zip(found, images, strict=True))


def same(a: Predictions, b: Predictions) -> bool:
    return a.images == b.images and a.texts == b.texts and bool(np.array_equal(a.mos, b.mos))


@pytest.mark.medium
def test_a_server_gives_the_metrics_of_its_model(run: Command, tmp_path: Path) -> None:  # noqa: F811
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
        served.refused = -1
        # What else decides the answers must agree; the prompt and the fields of requests do.
        others = [
            run(main, *arguments, change, "run_dir=server")
            for change in (
                "+backend.extra_body.min_tokens=9", "+backend.unsupported.seed=null",
                "prompt.vision_id=true", "mode.sampling.repetition_penalty=1.05",
            )
        ]  # fmt: skip
        unsent = [f"+backend.unsupported.{held}" for held in ("presence_penalty=null", "min_p=0.1")]
        plain = run(main, *arguments, "prompt.vision_id=true", *unsent, "run_dir=plain")
        without = log.bodies[-1]
    assert f"m at {log.url}, thinking prompt, greedy answer" in found.out
    assert "already scored" in again.out
    expected = read_predictions(tmp_path / "local/predictions.csv")
    assert same(read_predictions(tmp_path / "server/predictions.csv"), expected)
    # The image that the server refuses is invalid, with the server's words, and no other is.
    assert refused.code == 0, refused.err
    lost = read_predictions(tmp_path / "refused/predictions.csv")
    assert lost.texts[3] == ("the server refuses this image: <answer>5</answer>",)
    assert not lost.valid[3].any()
    for other, key in zip(
        others,
        ("backend.extra_body", "backend.unsupported", "prompt.vision_id=True",
         "mode.sampling.repetition_penalty=1.05"),
        strict=True,
    ):  # fmt: skip
        assert other.code == 2
        assert f"{key}" in other.err
        assert "the evaluation in run_dir='server' was started with" in other.err
        assert other.err.count("\n") == 1
    # Without "Picture 1: ", as the tiny policy's record has it, unless the command asks otherwise.
    assert plain.code == 0, plain.err
    assert [len(b["messages"][0]["content"]) for b in (log.bodies[0], without)] == [2, 3]
    assert "note: the policy was trained with prompt.vision_id=false, it is asked" in plain.out
    assert "note" not in found.out
    assert "greedy answer, the server's own presence_penalty not known" in plain.out
    settings = json.loads((tmp_path / "plain" / "evaluation.json").read_text())
    assert settings["prompt.vision_id"] is True
    assert settings["backend.unsupported"] == {"presence_penalty": None, "min_p": 0.1}
    config = (tmp_path / "plain" / "config.yaml").read_text()
    assert "vision_id: true" in config
    keep = np.arange(12) != 3
    assert same(lost.rows(keep), expected.rows(keep))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("backend=openai", "model.run=abc"), "backend=openai evaluates the server's own model"),
        (("backend=vllm",), "backend=vllm: vLLM cannot be imported"),
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


@pytest.mark.medium
def test_one_bad_reply_makes_one_image_invalid(run: Command, tmp_path: Path) -> None:  # noqa: F811
    """By the expected score, in which an empty answer has no log-probabilities."""
    root = write_kadid(tmp_path / "kadid", references=3)
    spelled = "<think>x</think><answer>3.00</answer>"
    pieces = ("<think>x</think><answer>", *"3.00", "</answer>")
    tokens = [(piece, {piece: -0.01}) for piece in pieces]
    bad = {2: completion("", []), 4: Scripted({"choices": []}), 6: completion("x", None)}

    def answer(_: dict[str, Any], number: int) -> Scripted:
        return bad.get(number, completion(spelled, tokens))

    with chat_server(answer) as log:
        found = run(
            main, *SMALL, f"dataset.root={root}", "mode=expected", "backend=openai",
            f"backend.url={log.url}", "backend.concurrency=1", "run_dir=bad",
        )  # fmt: skip
    assert found.code == 0, found.err
    predictions = read_predictions(tmp_path / "bad/predictions.csv")
    assert [number for number in range(12) if not predictions.valid[number].any()] == [2, 4, 6]


@pytest.mark.medium
def test_continued_and_repeated_evaluations_take_the_labels_of_now(
    run: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    root = write_kadid(tmp_path / "kadid", references=3)
    stated = (root / "dmos.csv").read_text().splitlines()
    raised = [
        f"{image},{reference},{float(mos) + 0.5:.2f},{rest}"
        for image, reference, mos, rest in (line.split(",") for line in stated[1:])
    ]

    def answer(_: dict[str, Any], number: int) -> Scripted:
        if number == 7:
            return Scripted({"error": {"message": "busy"}}, 503)
        return completion(f"<think>x</think><answer>{1 + number % 5}.25</answer>")

    with chat_server(answer) as log:
        arguments = (
            *SMALL, f"dataset.root={root}", "backend=openai", f"backend.url={log.url}",
            "backend.concurrency=1", "backend.retries=0", "run_dir=out",
        )  # fmt: skip
        stopped = run(main, *arguments)
        (root / "dmos.csv").write_text("\n".join([stated[0], *raised]) + "\n")
        merged = run(main, *arguments)
        assert merged.code == 0, merged.err
        merged_mos = read_predictions(tmp_path / "out/predictions.csv").mos
        (root / "dmos.csv").write_text("\n".join(stated) + "\n")
        again = run(
            main, *arguments, "metrics=observers", "metrics.different_similar.observers=20"
        )  # fmt: skip
    assert stopped.code != 0
    assert "continuing: 5 of 12 images are scored" in merged.out
    mos = np.array([float(line.split(",")[2]) for line in stated[1:]])
    np.testing.assert_allclose(merged_mos, mos + 0.5)
    assert "already scored" in again.out
    np.testing.assert_allclose(read_predictions(tmp_path / "out/predictions.csv").mos, mos)
    measured = json.loads((tmp_path / "out/summary.json").read_text())["sets"]["kadid"]
    assert measured["outlier_ratio"] is not None
    assert measured["different_similar"] is not None
