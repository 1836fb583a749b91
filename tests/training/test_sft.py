"""The supervised step against plain forward passes, and the responses that it is given."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.evaluation.builders import THINKING
from tests.support.plain_logprobs import plain_logprobs
from tests.training.test_grpo import fit
from vqr1.config import (
    LoraConfig,
    ModelConfig,
    OptimizerConfig,
    SamplingConfig,
    read_choice,
    validate,
)
from vqr1.errors import ConfigError, DataError, ModelError
from vqr1.iqa.answers import PUBLISHED, AnswerForm, JsonAnswer, LevelAnswer, TaggedAnswer
from vqr1.iqa.levels import soft_labels
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.level_score import level_tokens
from vqr1.policy.loading import Policy, _add_adapters, load_policy
from vqr1.policy.prompts import PromptBuilder
from vqr1.policy.unwrap import unwrap
from vqr1.policy.vision import VisionCache, encoding_of
from vqr1.records import PromptBatch, RankingBatch
from vqr1.rollout.levels import level_answers
from vqr1.rollout.local import LocalEngine
from vqr1.training.stages.response_targets import CrossEntropy, ResponseTokens
from vqr1.training.stages.responses import (
    WeightedText,
    responses_from_file,
    responses_from_labels,
)
from vqr1.training.stages.sft import Objective, SftModule
from vqr1.training.stages.soft_levels import SoftLevels
from vqr1.training.step import UpdateSettings
from vqr1.training.validation import Validator, validation_modes

B = 5
MOS = [1.0, 2.0, 3.5, 4.25, 5.0]
STD = [0.3, 0.6, 0.5, 0.8, 0.1]
LEVELS = LevelAnswer(stem="The quality of the image is")
END = "<|im_end|>"


def labelled(mos: list[float] = MOS, std: list[float] = STD, scale: str = "minmax") -> Any:
    """A set of images a0.png, a1.png, ... with MOS from 0 to 100, all in the training split."""
    names = [f"a{number}.png" for number in range(len(mos))]
    table = pd.DataFrame(
        {"image": names, "label_name": names, "mos_scaled": mos, "std": std,
         "mos": [25 * (m - 1) for m in mos], "std_mos": [25 * s for s in std]}
    )  # fmt: skip
    config = SimpleNamespace(mos_scale=scale)
    return SimpleNamespace(
        name="demo", key="dataset", table=table, rows=lambda _: table, config=config
    )


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(validate(ModelConfig, read_choice("model", "tiny", "model")))


@pytest.fixture(scope="module")
def batch(policy: Policy) -> RankingBatch:
    sizes = [(112, 112), (112, 56), (112, 112), (56, 112), (112, 112)]
    rng = np.random.default_rng(0)
    builder = PromptBuilder(
        FAMILY, policy.processor, "How good is it?", 56 * 56, 112 * 112, vision_id=False
    )
    prompts = builder(
        [Image.fromarray(rng.integers(0, 255, (*s, 3), dtype=np.uint8)) for s in sizes]
    )
    names = tuple((f"a{number}.png",) for number in range(B))
    return RankingBatch("demo", names, prompts, torch.tensor(MOS), torch.arange(B))


def one_step(policy: Policy, batch: RankingBatch, objective: Objective, budget: int) -> SftModule:
    """A step on a copy of the policy; the gradients stay."""
    module = make_module(policy, copy.deepcopy(policy.model), objective, budget)
    fit(module, batch, 1)  # type: ignore[arg-type]
    return module


def make_module(policy: Policy, model: Any, objective: Objective, budget: int) -> SftModule:
    own = Policy(model, policy.processor, "none")
    engine = LocalEngine(model, policy.processor.tokenizer, 4096)
    sampling = SamplingConfig(max_new_tokens=8)
    settings = UpdateSettings(
        optimizer=OptimizerConfig(lr=1e-3, max_grad_norm=None),
        micro_batch_tokens=budget,
        total_steps=3,
    )
    validator = Validator(engine, validation_modes(sampling, 0, 0, THINKING, PUBLISHED))
    return SftModule(own, engine, validator, objective, settings, VisionCache())


def check_gradients(module: SftModule, plain: torch.nn.Module) -> None:
    for (name, own), other in zip(module.model.named_parameters(), plain.parameters(), strict=True):
        assert own.grad is not None, name
        scale = float(other.grad.abs().max())
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-4, atol=2e-5 * scale + 1e-8)


@pytest.mark.parametrize("budget", [4096, 130], ids=["one pass", "micro-batches"])
def test_cross_entropy_is_the_weighted_token_mean(
    policy: Policy, batch: RankingBatch, budget: int
) -> None:
    texts = ["<answer>3.40</answer>", "<answer>1</answer>", "a sharp image", "ok", "<answer>"]
    given = {("demo", row): [WeightedText(text)] for row, text in enumerate(texts)}
    # Two responses to one image, and another weight.
    given["demo", 1] = [WeightedText("blurry", 2.0), WeightedText("noise in the sky", 0.5)]
    encode = ResponseTokens(policy.processor.tokenizer, FAMILY)
    module = one_step(policy, batch, CrossEntropy(given, encode), budget)
    tokenizer, plain = policy.processor.tokenizer, copy.deepcopy(policy.model)
    ids = [
        [tokenizer.encode(r.text + END, add_special_tokens=False) for r in given["demo", row]]
        for row in range(B)
    ]
    longest = max(len(one) for group in ids for one in group)
    tokens = torch.zeros(B, 2, longest, dtype=torch.long)
    weights = torch.zeros(B, 2, longest)
    for b, group in enumerate(ids):
        for k, one in enumerate(group):
            tokens[b, k, : len(one)] = torch.tensor(one)
            weights[b, k, : len(one)] = given["demo", b][k].weight
    logprobs = plain_logprobs(plain, batch.prompts, tokens, weights > 0).logprobs
    loss = -(weights * logprobs).sum() / weights.sum()
    loss.backward()
    assert module.last_step is not None
    assert module.last_step.metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    check_gradients(module, plain)


def test_adapters_learn_and_the_frozen_tower_sees_every_image_once(
    policy: Policy, batch: RankingBatch
) -> None:
    given = {("demo", row): [WeightedText(f"<answer>{row}</answer>")] for row in range(B)}
    adapted = _add_adapters(copy.deepcopy(policy.model), LoraConfig(rank=4, alpha=64.0))
    before = {name: weight.clone() for name, weight in adapted.named_parameters()}
    images: list[int] = []
    unwrap(adapted).model.visual.register_forward_hook(
        lambda _m, args, kwargs, _o: images.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    encode = ResponseTokens(policy.processor.tokenizer, FAMILY)
    module = make_module(policy, adapted, CrossEntropy(given, encode), 4096)
    losses: list[float] = []
    log = module._log
    module._log = lambda m, size=1: (losses.append(m["train/loss"]), log(m, size))[1]  # type: ignore[method-assign, func-returns-value]
    fit(module, batch, 4)  # type: ignore[arg-type]
    assert sum(images) == B
    assert losses[-1] < losses[0]
    changed = {n for n, weight in adapted.named_parameters() if not weight.equal(before[n])}
    assert changed == {n for n, p in adapted.named_parameters() if p.requires_grad}
    assert changed
    assert all("lora_" in name for name in changed)


def plain_logits(model: Any, prompts: PromptBatch, b: int, response: list[int]) -> torch.Tensor:
    """[C, V] logits that predict each of a response's tokens, by the model's own forward."""
    ids = torch.cat([prompts.input_ids[b], torch.tensor(response)])[None]
    patches, grids = encoding_of(model).encode(list(prompts.images[b]))
    output = model(
        input_ids=ids, pixel_values=patches, image_grid_thw=grids, use_cache=False,
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
    )  # fmt: skip
    first = len(prompts.input_ids[b]) - 1
    return output.logits[0, first:-1].float()  # type: ignore[no-any-return]


def deqa_loss(
    model: Any, batch: RankingBatch, tokenizer: Any, words: list[str]
) -> tuple[torch.Tensor, dict[str, float]]:
    """DeQA-Score's loss of pairs (0, 1), (2, 3) and of image 4 alone, as its paper writes it."""
    stem = tokenizer.encode(LEVELS.stem or "", add_special_tokens=False)
    named = [
        tokenizer.encode(f"{LEVELS.stem} {w}", add_special_tokens=False) for w in LEVELS.levels
    ]
    levels = torch.tensor([one[len(stem)] for one in named])
    values = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    scores: list[torch.Tensor] = []
    sides: dict[int, dict[str, list[torch.Tensor]]] = {
        0: {"ce": [], "kl": []},
        1: {"ce": [], "kl": []},
    }
    for b in range(B):
        ids = tokenizer.encode(f"{LEVELS.stem} {words[b]}.{END}", add_special_tokens=False)
        logits = plain_logits(model, batch.prompts, b, ids)
        logprobs = logits.log_softmax(dim=-1)
        place = len(stem)
        for c, token in enumerate(ids):
            if c != place:
                sides[b % 2]["ce"].append(-logprobs[c, token])
        q = torch.tensor(soft_labels(MOS[b], STD[b])).float()
        target = torch.zeros(logits.shape[1])
        target[levels] = q
        kl = torch.special.xlogy(target, target) - target * logprobs[place]
        sides[b % 2]["kl"].append(kl.sum())
        scores.append(logits[place, levels].softmax(dim=-1) @ values)
    fidelity = torch.zeros(())
    for a, b in ((0, 1), (2, 3)):
        p = torch.special.ndtr((scores[a] - scores[b]) / math.sqrt(2))
        gap = (MOS[a] - MOS[b]) / math.sqrt(STD[a] ** 2 + STD[b] ** 2)
        g = 0.5 * (1 + math.erf(gap / math.sqrt(2)))
        fidelity = fidelity + (1 - (p * g).sqrt() - ((1 - p) * (1 - g)).sqrt()) / 2
    means: dict[str, Any] = {
        term: sum(torch.stack(side[term]).mean() for side in sides.values())
        for term in ("ce", "kl")
    }
    loss = fidelity + 0.05 * (means["ce"] + means["kl"])
    return loss, {"fidelity_loss": fidelity.item(), "level_kl": float(means["kl"].detach())}


@pytest.mark.parametrize("budget", [4096, 110], ids=["one pass", "micro-batches"])
def test_soft_levels_are_deqas_loss(policy: Policy, batch: RankingBatch, budget: int) -> None:
    tokenizer = policy.processor.tokenizer
    objective = SoftLevels(
        {"demo": labelled()}, LEVELS, level_tokens(tokenizer, LEVELS),
        ResponseTokens(tokenizer, FAMILY), "lower", "pdf", 0.05, 1.0,
    )  # fmt: skip
    module = one_step(policy, batch, objective, budget)
    plain = copy.deepcopy(policy.model)
    # Bins of [1, 5]: 2 is in the second one, 3.5 in the fourth, 4.25 in the fifth.
    loss, terms = deqa_loss(
        plain, batch, tokenizer, ["bad", "poor", "good", "excellent", "excellent"]
    )
    loss.backward()
    assert module.last_step is not None
    found = module.last_step.metrics
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert {name: found[name] for name in terms} == pytest.approx(terms, rel=1e-4)
    check_gradients(module, plain)


def test_scores_of_level_words_are_those_of_the_plain_logits(
    policy: Policy, batch: RankingBatch
) -> None:
    tokenizer = policy.processor.tokenizer
    tokens = level_tokens(tokenizer, LEVELS)
    found = level_answers(LocalEngine(policy.model, tokenizer, 120), batch.prompts, LEVELS)
    for b in range(B):
        with torch.no_grad():
            logits = plain_logits(policy.model, batch.prompts, b, [*tokens.stem, 0])[-1]
        p = logits.double()[list(tokens.words)].softmax(dim=-1)
        score = float(p @ torch.tensor([5.0, 4, 3, 2, 1], dtype=torch.float64))
        mass = float(logits.double().softmax(dim=-1)[list(tokens.words)].sum())
        assert float(found.score[b]) == pytest.approx(score, abs=1e-5)
        assert float(found.lost[b]) == pytest.approx(1 - mass, abs=1e-5)
        assert float(found.std[b]) == pytest.approx(
            math.sqrt(
                float(p @ torch.tensor([(v - score) ** 2 for v in (5, 4, 3, 2, 1)]).double())
            ),
            abs=1e-5,
        )


def test_words_that_begin_alike_are_refused(policy: Policy) -> None:
    tokenizer = policy.processor.tokenizer
    form = LevelAnswer(levels={"poor": 1.0, "poor one": 2.0, "good": 3.0}, stem=LEVELS.stem)
    with pytest.raises(ModelError, match=r"mode=levels, answer\.levels: 'poor' and 'poor one' "):
        level_tokens(tokenizer, form)
    # In tags this tokenizer joins the bracket with some of the words, so that they differ.
    found = level_tokens(tokenizer, LevelAnswer(tag="answer"))
    assert tokenizer.convert_ids_to_tokens(found.stem) == ["<answer"]
    assert len(set(found.words)) == 5


@pytest.mark.parametrize(
    ("form", "texts"),
    [
        (TaggedAnswer(), ["<answer>1.00</answer>", "<answer>3.40</answer>"]),
        (TaggedAnswer(score_range=(0, 100)), ["<answer>0.00</answer>", "<answer>60.00</answer>"]),
        (JsonAnswer(), ['{"rating": 1.00}', '{"rating": 3.40}']),
        (LevelAnswer(), ["bad", "fair"]),
        (LevelAnswer(stem="It is"), ["It is bad.", "It is fair."]),
    ],
)  # fmt: skip
def test_labels_in_the_answer_form(form: AnswerForm, texts: list[str]) -> None:
    sets = {"demo": labelled([1.0, 3.4, 5.0], [0.1] * 3)}
    found = responses_from_labels(sets, form, "lower")
    assert [found["demo", row][0].text for row in range(2)] == texts


def test_decimals_of_labels() -> None:
    sets = {"demo": labelled([1.0, 3.46, 5.0], [0.1] * 3)}
    for decimals, text in ((0, "3"), (1, "3.5"), (2, "3.46")):
        found = responses_from_labels(sets, TaggedAnswer(), "lower", decimals)
        assert found["demo", 1][0].text == f"<answer>{text}</answer>"


def test_a_mos_between_two_bins() -> None:
    # Bins of [1, 5] are .8 wide: 1.8 is the first edge.
    sets = {"demo": labelled([1.0, 1.8, 1.81, 5.0], [0.1] * 4)}
    for edge, words in (("lower", "bad bad poor excellent"), ("upper", "bad poor poor excellent")):
        found = responses_from_labels(sets, LevelAnswer(), edge)  # type: ignore[arg-type]
        assert [found["demo", row][0].text for row in range(4)] == words.split()


def test_a_file_of_responses(tmp_path: Path) -> None:
    path, sets = tmp_path / "answers.jsonl", {"demo": labelled([1.0, 5.0], [0.1] * 2)}

    def write(*records: Any) -> None:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))

    good = {"image": "a0.png", "response": "<answer>2</answer>"}
    other = {"image": "a1.png", "response": "<answer>4</answer>", "weight": 0.5}
    write(good, other, good)
    found = responses_from_file(path, sets, TaggedAnswer())
    assert [len(found["demo", row]) for row in range(2)] == [2, 1]
    assert found["demo", 1][0].weight == 0.5
    write(good, {**other, "image": "b.png"}, {**good, "response": "fine"})
    with pytest.raises(ConfigError) as refused:
        responses_from_file(path, sets, TaggedAnswer())
    unknown, unread = refused.value.problems
    assert "1 responses are to images that the data set does not have, such as " in unknown
    assert "answers.jsonl:2 (b.png)" in unknown
    assert "1 responses state no score in the answer form, such as " in unread
    assert "answers.jsonl:3" in unread
    write(good)
    with pytest.raises(ConfigError, match=r"1 of 2 training images of demo have no response in it, "
                       r"such as a1\.png"):  # fmt: skip
        responses_from_file(path, sets, TaggedAnswer())
    write({**good, "response": "The quality of the image is superb."}, other)
    with pytest.raises(ConfigError, match="its words are excellent, good, fair, poor, bad"):
        responses_from_file(path, sets, LEVELS)
    for bad, printed in (
        ({**good, "weight": 0}, "weight=0"),
        ({"image": "a"}, "response=None"),
        ([], "object"),
    ):
        write(good, bad)
        with pytest.raises(DataError, match=rf"answers\.jsonl:2: .*{printed}"):
            responses_from_file(path, sets, TaggedAnswer())
