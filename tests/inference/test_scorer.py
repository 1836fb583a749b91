"""Scores do not depend on the company an image keeps, and are what the engine's answers state."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vqr1
from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import SamplingConfig, ScoreConfig, ServerConfig, validate
from vqr1.data.images import decoded_at, load_image
from vqr1.errors import ConfigError, DataError
from vqr1.evaluation.protocol import predictions_of
from vqr1.inference.backends.local import LocalBackend
from vqr1.inference.images import decoded_sizes, image_of_array, is_file
from vqr1.inference.metric import QualityMetric
from vqr1.inference.request import Reply, build_request
from vqr1.inference.result import Result
from vqr1.inference.scorer import Scorer
from vqr1.iqa.answers import PUBLISHED
from vqr1.policy.chat_content import chat_content
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.loading import Policy, load_policy
from vqr1.policy.prompts import PromptBuilder, prompt_builder
from vqr1.records import RankingBatch
from vqr1.rollout.chat_request import chat_body
from vqr1.rollout.local import LocalEngine

pytestmark = pytest.mark.medium

PROMPTS = ("thinking", "non_thinking", "describe")
SIZES = ((112, 112), (200, 130), (70, 260), (64, 64), (240, 150), (131, 97), (150, 150))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(settings().model)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Seven PNG files of different sizes, patterns and noise."""
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for number, (width, height) in enumerate(SIZES):
        rng = np.random.default_rng(number)
        y, x = np.mgrid[0:height, 0:width]
        waves = (np.sin(x / (5 + number)), np.cos(y / 9), np.sin((x + y) / 13))
        clean = 127 + 90 * np.stack(waves, axis=-1)
        noisy = clean + rng.normal(0, 12 * number, clean.shape)
        paths.append(folder / f"{number}.png")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(paths[-1])
    return paths


def settings(*overrides: str) -> ScoreConfig:
    return validate(ScoreConfig, plain_values(compose_config("score", overrides)))


def scorer(policy: Policy, *overrides: str) -> Scorer:
    config = settings(*overrides)
    return Scorer(
        LocalBackend(policy, config.model), config.prompt, config.answer.form, config.mode,
        seed=config.seed, batch_size=config.batch_size,
    )  # fmt: skip


def test_an_image_of_too_many_pixels_is_named_with_what_it_was_decoded_at(
    policy: Policy, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VQR1_MAX_IMAGE_PIXELS", "40000")
    with Image.open(files[0]) as image:
        image.resize((640, 480)).save(tmp_path / "large.jpg")
    large, small = scorer(policy, "mode=greedy").score([tmp_path / "large.jpg", files[0]])
    assert (large.decoded_at, small.decoded_at) == ("160x120", None)
    with Image.open(files[0]) as image:
        sizes = decoded_sizes([decoded_at(load_image(tmp_path / "large.jpg")), decoded_at(image)])
    assert sizes == "160x120 + whole"


@pytest.fixture(scope="module")
def expected(policy: Policy, files: list[Path]) -> dict[str, tuple[float, float]]:
    """Score and std by path, each image scored by itself."""
    results = scorer(policy, "batch_size=1").score(files)
    assert all(result.valid for result in results)
    return {str(r.path): (float(r.score or 0), float(r.std or 0)) for r in results}


@pytest.fixture(scope="module")
def company() -> list[Image.Image]:
    """33 images, most of other sizes than their neighbours."""
    rng = np.random.default_rng(7)
    loaded = []
    for number in range(33):
        width, height = rng.integers(40, 220, 2)
        y, x = np.mgrid[0:height, 0:width]
        waves = (np.sin(x / (5 + number % 9)), np.cos(y / 9), np.sin((x + y) / 13))
        noisy = (
            127 + 90 * np.stack(waves, -1) + rng.normal(0, 10 * (number % 8), (height, width, 3))
        )
        loaded.append(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
    return loaded


EVERY_SIZE = ("model.min_pixels=3136", "model.max_pixels=50176")
"""Images keep their sizes, so that rows of a batch differ in length."""


@pytest.mark.parametrize(
    ("asked", "images", "batches"),
    [
        (("prompt=non_thinking",), 33, (2, 7, 32)),
        (("prompt=thinking",), 9, (2, 7)),
        (("prompt=non_thinking", "mode=greedy"), 9, (2, 7)),
        (("prompt=thinking", "mode=greedy"), 9, (2, 7)),
        (("prompt=non_thinking", "mode=sampled", "mode.samples=2"), 9, (2, 7)),
        (("prompt=thinking", "mode=sampled", "mode.samples=2"), 9, (7,)),
        (("prompt=describe", "mode.sampling.max_new_tokens=12"), 9, (2, 7)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) and value and
    isinstance(value[0], str) else None,
)  # fmt: skip
def test_company_changes_no_result(
    policy: Policy, company: list[Image.Image], asked: tuple[str, ...], images: int,
    batches: tuple[int, ...],
) -> None:  # fmt: skip
    loaded = company[:images]
    alone = scorer(policy, *EVERY_SIZE, *asked, "batch_size=1").score(loaded)
    assert len({result.text for result in alone} | {result.score for result in alone}) > 2
    for batch in batches:
        order = np.random.default_rng(batch).permutation(images)
        together = scorer(policy, *EVERY_SIZE, *asked, f"batch_size={batch}")
        mixed = [loaded[i] for i in order]
        first = together.score(mixed)
        for i, result in zip(order, first, strict=True):
            assert (result.score, result.std) == pytest.approx(
                (alone[i].score, alone[i].std), abs=1e-4
            )
            assert (result.valid, result.text) == (alone[i].valid, alone[i].text)
    # Bit for bit, the last of these once more.
    assert together.score(mixed) == first


@pytest.mark.parametrize("order", [1, -1])
def test_order_changes_no_score(
    policy: Policy, files: list[Path], expected: dict[str, tuple[float, float]], order: int
) -> None:
    results = scorer(policy, "batch_size=7").score(files[::order])
    assert [result.path for result in results] == [str(path) for path in files[::order]]
    for result in results:
        assert (result.score, result.std) == pytest.approx(expected[str(result.path)], abs=1e-4)


def test_expected_scores_are_those_of_evaluation(
    policy: Policy, files: list[Path], expected: dict[str, tuple[float, float]]
) -> None:
    config = settings()
    prompts = builder(policy, config)([load_image(path) for path in files[:3]])
    batch = RankingBatch("any", (("a",), ("b",), ("c",)), prompts, torch.ones(3), torch.arange(3))
    request = build_request(config.mode, config.prompt, config.answer.form, 0)
    replies = LocalBackend(policy, config.model).reply(prompts.images, request)
    evaluated = predictions_of(batch, replies, request)
    for path, score in zip(files, evaluated.scores[:, 0].tolist(), strict=False):
        assert score == pytest.approx(expected[str(path)][0], abs=1e-4)
    results = scorer(policy, "batch_size=3").score(files[:3])
    assert evaluated.lost.tolist() == pytest.approx([result.lost for result in results], abs=1e-5)
    assert 0 < min(evaluated.lost) < max(evaluated.lost) < 0.1


def builder(policy: Policy, config: ScoreConfig) -> PromptBuilder:
    model = config.model
    return PromptBuilder(
        FAMILY,
        policy.processor,
        config.prompt.text,
        model.min_pixels,
        model.max_pixels,
        vision_id=False,
    )


def test_greedy_is_the_engines_greedy_answer(policy: Policy, files: list[Path]) -> None:
    config = settings("mode=greedy")
    engine = LocalEngine(policy.model, policy.processor.tokenizer, 16384)
    prompts = builder(policy, config)([load_image(path) for path in files[:4]])
    texts = engine.sample(prompts, group_size=1, sampling=config.mode.sampling, seed=3).texts
    results = scorer(policy, "mode=greedy", "batch_size=3").score(files[:4])
    assert [result.text for result in results] == [text for (text,) in texts]
    assert [r.score for r in results] == [PUBLISHED.parse(text).score for (text,) in texts]
    assert all(result.std is None for result in results)


def test_sampled_scores_follow_the_seed_and_the_image_only(
    policy: Policy, files: list[Path]
) -> None:
    mode = ("mode=sampled", "mode.samples=4")
    alone = scorer(policy, *mode, "seed=5", "batch_size=1").score(files[:3])
    # The first image again, in the same batch: its random numbers are the same ones.
    together = scorer(policy, *mode, "seed=5").score([*files[2::-1], files[0]])
    assert together == [*alone[::-1], alone[0]]
    other = scorer(policy, *mode, "seed=6").score(files[:3])
    assert [result.text for result in other] != [result.text for result in alone]

    config = settings(*mode)
    engine = LocalEngine(policy.model, policy.processor.tokenizer, 16384)
    prompts = builder(policy, config)([load_image(files[0])])
    (texts,) = engine.sample(prompts, group_size=4, sampling=config.mode.sampling, seed=5).texts
    scores = [s for s in (PUBLISHED.parse(text).score for text in texts) if s is not None]
    assert alone[0].score == pytest.approx(statistics.mean(scores))
    assert alone[0].std == pytest.approx(statistics.stdev(scores))


def test_answers_without_a_number_are_invalid(policy: Policy) -> None:
    def reader(*overrides: str) -> Callable[[list[str]], Result]:
        three = scorer(policy, "mode=sampled", "mode.samples=3", *overrides)
        return lambda texts: three._read(Reply(tuple(texts)), None)

    reading = reader()
    assert reading(["good", "<answer>fine</answer>", ""]).score is None
    assert not reading(["good", "<answer>fine</answer>", ""]).valid
    # Valid are 2.00 and 4.00: mean 3, std sqrt(((2-3)^2 + (4-3)^2) / 1) = sqrt(2).
    mixed = ["<answer>2.00</answer>", "?", "<answer>4.00</answer>"]
    assert reading(mixed).score == 3.0
    assert reading(mixed).std == pytest.approx(math.sqrt(2))
    assert (reading(mixed).answers, reading(mixed).valid_answers) == (3, 2)
    strict = reader("mode.score_rule=all_valid")
    assert strict(mixed).score is None
    assert (strict(mixed).answers, strict(mixed).valid_answers) == (3, 2)


def test_a_truncated_answer_gives_no_expected_score(policy: Policy, files: list[Path]) -> None:
    (result,) = scorer(policy, "mode.sampling.max_new_tokens=2").score(files[:1])
    assert (result.score, result.std, result.valid) == (None, None, False)
    assert result.lost is None
    assert result.text
    assert result.error is None


def test_other_scales_have_expected_scores(policy: Policy, files: list[Path]) -> None:
    # The packaged policy was taught 1 to 5, whatever is asked: wider grammars hold its answers.
    asked = ("prompt=non_thinking", "answer.score_range=[0,10]")
    (narrow,) = scorer(policy, "prompt=non_thinking").score(files[:1])
    (wide,) = scorer(policy, *asked).score(files[:1])
    assert wide.valid
    assert wide.lost is not None
    assert wide.lost < (narrow.lost or 0)
    assert wide.score == pytest.approx(narrow.score, abs=0.05)
    metric = QualityMetric(scorer(policy, *asked), "cpu")
    assert metric.score_range == (0.0, 10.0)


def test_broken_images_leave_their_neighbours_alone(
    policy: Policy, files: list[Path], expected: dict[str, tuple[float, float]], tmp_path: Path
) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no image at all")
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(files[0].read_bytes()[:200])
    narrow = tmp_path / "narrow.png"
    Image.new("RGB", (900, 2)).save(narrow)
    pixels = Image.new("F", (20, 20))
    empty = Image.new("RGB", (0, 5))
    broken = [text, truncated, narrow, tmp_path / "gone.png", pixels, empty]
    results = scorer(policy).score([files[0], *broken, files[1]])
    assert [result.error is None for result in results] == [True, *[False] * 6, True]
    for place, path in ((0, files[0]), (-1, files[1])):
        assert results[place].score == pytest.approx(expected[str(path)][0], abs=1e-4)
    for result, path in zip(results[1:5], broken, strict=False):
        assert str(result.error).startswith(f"{path}: ")
        assert (result.score, result.valid) == (None, False)
    assert "too narrow" in str(results[3].error)


def test_non_thinking_and_descriptions(policy: Policy, files: list[Path]) -> None:
    (short,) = scorer(policy, "prompt=non_thinking").score(files[0])
    assert short.text is None
    (described,) = scorer(
        policy, "prompt=describe", "mode.sampling.max_new_tokens=12"
    ).score(files[0])  # fmt: skip
    assert (described.score, described.std) == (None, None)
    assert described.valid == bool((described.text or "").strip())


def pixels_of(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255


def test_metric_on_path_image_and_tensor(
    files: list[Path], expected: dict[str, tuple[float, float]]
) -> None:
    metric = vqr1.create_metric("tiny", batch_size=2)
    assert (metric.lower_better, metric.score_range) == (False, (1.0, 5.0))
    path = files[3]
    pair = torch.stack([pixels_of(path), pixels_of(path).flip(2)])
    by_path, by_image, by_tensor = metric(path), metric(Image.open(path)), metric(pair)
    assert by_path.dtype == torch.float32
    assert by_path.shape == (1,)
    assert by_tensor.shape == (2,)
    assert float(by_path) == pytest.approx(expected[str(path)][0], abs=1e-4)
    torch.testing.assert_close(by_image, by_path, atol=1e-4, rtol=0)
    torch.testing.assert_close(by_tensor[:1], by_path, atol=1e-4, rtol=0)
    assert metric(str(path)).equal(by_path)
    # What other metrics take: arrays as Pillow and matplotlib give them, bytes, opened files.
    array = np.array(Image.open(path).convert("RGB"))
    for given in (array, array / 255, path.read_bytes(), path.open("rb")):
        torch.testing.assert_close(metric(given), by_path, atol=1e-4, rtol=0)
    assert metric(np.stack([array, array])).equal(torch.cat([by_image, by_image]))
    assert metric([path, files[1]]).shape == (2,)
    # Threads may share a metric: a web service's do.
    with ThreadPoolExecutor(4) as threads:
        together = torch.cat(list(threads.map(metric, [*files, *files])))
    alone = torch.tensor([expected[str(file)][0] for file in [*files, *files]])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    request = metric.scorer._request
    mute = replace(request.sampling, max_new_tokens=2)
    metric.scorer._request = replace(request, sampling=mute)
    assert metric(path).isnan().all()


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (torch.zeros(1, 4, 8, 8), "(3, H, W)"),
        (torch.zeros(8, 8), "(N, 3, H, W)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "divided by 255"),
        (torch.full((3, 8, 8), 1.5), "from 1.5 to 1.5"),
        (torch.full((3, 8, 8), math.nan), "nan"),
    ],
)
def test_tensors_that_are_no_images(policy: Policy, pixels: torch.Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words.replace("(", r"\(").replace(")", r"\)")):
        scorer(policy).score(pixels)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((3, 8, 8), np.uint8), "of shape (3, 8, 8): give (H, W, 3)"),
        (np.zeros((8, 8, 3), np.int64), "of type int64: give 8-bit numbers"),
        (np.full((8, 8, 3), 255.0), "from 255 to 255: floating numbers must lie in [0, 1]"),
        (np.zeros((0, 8, 3), np.uint8), "of shape (0, 8, 3)"),
        (7, "an image of type int: give a path, the bytes"),
        ([None], "an image of type NoneType"),
    ],
)
def test_what_is_no_image(policy: Policy, image: Any, words: str) -> None:
    with pytest.raises(DataError, match=re.escape(words)):
        scorer(policy).score(image)


def test_arrays_of_other_forms() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert image_of_array(grey).size == (4, 3)
    assert np.array(image_of_array(grey[..., None])).tolist() == np.stack([grey] * 3, 2).tolist()
    clear = np.zeros((2, 2, 4), np.uint8)
    assert np.array(image_of_array(clear)).min() == 255  # transparent pixels are shown on white
    assert not is_file(clear)
    assert is_file(b"not an image")


def test_metric_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"name='niqe': there are .*tiny, visualquality_r1"):
        vqr1.create_metric("niqe")
    with pytest.raises(ConfigError, match=r"it asks for no score(.|\n)*samples=0"):
        vqr1.create_metric("tiny", prompt="describe", samples=0)
    with pytest.raises(ConfigError, match="mode='mean'"):
        vqr1.create_metric("tiny", mode="mean")  # type: ignore[arg-type]
    metric = vqr1.create_metric("tiny", mode="greedy")
    with pytest.raises(DataError, match=r"image 0: .*gone\.png: no such image"):
        metric(tmp_path / "gone.png")


def test_prompts_are_the_published_ones(shared: Path) -> None:
    facts = (shared / "FACTS.md").read_text()
    question, thinking, non_thinking, describe = re.findall(
        r'both modes: "(.*?)" followed, thinking, by "(.*?)"; non-thinking, by "(.*?)" '
        r'Description mode: "(.*?)"',
        facts,
    )[0]
    texts = {name: settings(f"prompt={name}").prompt.text for name in PROMPTS}
    assert texts == {
        "thinking": question + thinking,
        "non_thinking": question + non_thinking,
        "describe": describe,
    }


@pytest.mark.parametrize("vision_id", [False, True])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_server_renders_the_same_prompt(policy: Policy, prompt: str, vision_id: bool) -> None:
    """What the client sends is what the template writes with and without the option."""
    asked = replace(settings(f"prompt={prompt}").prompt, vision_id=vision_id)
    config = ServerConfig(name="openai", url="http://127.0.0.1/v1")
    body = chat_body(
        config, "m", ["data:,"], asked, sampling=SamplingConfig(), seed=0, logprobs=False
    )  # fmt: skip
    rendered = policy.processor.apply_chat_template(
        body["messages"], tokenize=False, add_generation_prompt=True, **body["chat_template_kwargs"]
    )
    assert rendered == FAMILY.chat_text(policy.processor, chat_content(asked.text), vision_id)
    assert ("Picture 1: <|vision_start|>" in rendered) == vision_id


def test_several_images_of_one_prompt(policy: Policy, files: list[Path]) -> None:
    two = ("prompt.images=2", "mode.sampling.max_new_tokens=24")
    pairs = [(files[0], files[1]), (files[1], files[0]), (files[0], files[1])]
    config = settings("mode=greedy", *two)
    found = scorer(policy, "mode=greedy", *two).score(pairs)
    assert found[0].path == f"{files[0]} + {files[1]}"
    loaded = [tuple(load_image(path) for path in pair) for pair in pairs]
    prompts = prompt_builder(FAMILY, policy.processor, config.model, config.prompt)(loaded)
    engine = LocalEngine(policy.model, policy.processor.tokenizer, 16384)
    greedy = replace(config.mode.sampling, temperature=0.0)
    rollout = engine.sample(prompts, group_size=1, sampling=greedy, seed=0)
    assert [[result.text] for result in found] == rollout.texts
    assert found[0] == found[2]
    expected, _, again = scorer(policy, *two).score(loaded)
    assert (expected.path, expected.score) == (None, again.score)
    assert scorer(policy, *two).score([[files[0], Path("none.png")]])[0].error is not None
    beside = scorer(policy, *two).score([(pixels_of(files[0]), Path("none.png"))])[0].error
    assert beside is not None
    assert "none.png" in beside
    with pytest.raises(DataError, match="an image tensor of shape"):
        scorer(policy, *two).score([(files[0], torch.zeros(2))])
    with pytest.raises(DataError, match=r"^1 image for one prompt: prompt\.images=2 of them"):
        scorer(policy, *two).score(files[:1])
    with pytest.raises(DataError, match=r"^2 images for one prompt: prompt\.images=1 of them"):
        scorer(policy).score([(files[0], files[1])])
