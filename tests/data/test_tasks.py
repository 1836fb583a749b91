"""Items of auxiliary tasks, their shares of the steps, and their batches."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vqr1.config import DatasetConfig, LoaderConfig, SplitConfig, TaskConfig, validate
from vqr1.data.datamodule import RankingDataModule
from vqr1.data.degraded import KINDS
from vqr1.data.distortions import from_bytes, to_bytes
from vqr1.data.images import load_image
from vqr1.data.labelled_set import LabelledSet, open_dataset
from vqr1.data.questions import as_item, read_questions
from vqr1.data.ranking_batches import plan_epoch
from vqr1.data.task_sets import TaskSource
from vqr1.data.tasks import Comparisons, Degradations, TaskData
from vqr1.errors import ConfigError, DataError, UserError
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.prompts import PromptBuilder

LEVELS = ("slight", "moderate", "obvious", "serious", "catastrophic")
CLASSES = {"blur": ("gaussian blur", "gaussian_blur"), "noise": ("white_noise",)}
SPLIT = SplitConfig(by="reference", fractions=(0.5, 0.0, 0.5), seed=1)


def degradations(**changes: Any) -> Degradations:
    return Degradations(**{"classes": CLASSES, "levels": LEVELS, **changes})


def kadid(root: Path, **changes: Any) -> LabelledSet:
    return open_dataset(DatasetConfig(name="kadid", root=str(root), split=SPLIT, **changes))


def test_degradations_of_the_labels(make_kadid: Callable[..., Path]) -> None:
    root = make_kadid(range(1, 7))
    other = root / "images/I01_11_02.png"  # white noise, whose name in the labels has no class here
    other.write_bytes((root / "images/I01_01_02.png").read_bytes())
    with (root / "dmos.csv").open("a") as labels:
        labels.write("I01_11_02.png,I01.png,2.5,0.2\n")
    labelled = kadid(root)
    found = degradations().items(labelled, "train", 0, "tasks.x.data")
    assert {(i.images, i.distortion, i.words["severity"]) for i in found} == {
        ((name,), "blur", LEVELS[int(name[7:9]) - 1])
        for name in labelled.rows("train")["image"]
        if name != other.name
    }
    assert all(item.damage is None for item in found)
    # Held-out items are of held-out images.
    tested = degradations().items(labelled, "test", 0, "tasks.x.data")
    assert {i.images[0][:3] for i in tested}.isdisjoint(i.images[0][:3] for i in found)
    with pytest.raises(DataError, match=r"column 'level' of kadid holds 3 for .* level of 1 to 2 "):
        degradations(levels=LEVELS[:2]).items(labelled, "train", 0, "tasks.x.data")
    nothing = degradations(classes={"rain": ("rain",)}, labels="columns")
    with pytest.raises(ConfigError, match=r"has one of the distortions rain \(its labels have gau"):
        nothing.items(labelled, "train", 0, "tasks.x.data")


def test_degradations_applied(make_csv: Callable[..., DatasetConfig]) -> None:
    labelled = open_dataset(make_csv(60))
    data = degradations()
    found = data.items(labelled, "train", 3, "tasks.x.data")
    # 60 images: two classes and none, five levels each, four times.
    cases = Counter((item.distortion, item.words["severity"]) for item in found)
    assert cases == {
        **{(word, level): 4 for word in CLASSES for level in LEVELS}, ("null", "null"): 20
    }  # fmt: skip
    for item in found:
        assert (item.damage is None) == (item.distortion == "null")
        if item.damage is not None:
            assert item.damage.kind in CLASSES[str(item.distortion)]
            assert LEVELS[int(item.damage.level) - 1] == item.words["severity"]
    assert data.items(labelled, "train", 3, "tasks.x.data") == found
    assert data.items(labelled, "train", 4, "tasks.x.data") != found
    damage = next(i.damage for i in found if i.damage and i.damage.kind == "white_noise")
    pixels = torch.randint(0, 256, (9, 7, 3), dtype=torch.uint8)
    rng = np.random.default_rng(damage.seed)
    strength = KINDS["white_noise"].strengths[int(damage.level) - 1]
    noisy = from_bytes(pixels.numpy()) + rng.standard_normal((9, 7, 3), dtype=np.float32) * (
        np.float32(strength)
    )
    assert damage.apply(pixels).numpy().tolist() == to_bytes(noisy).tolist()
    unknown = degradations(classes={"rain": ("rain",)})
    with pytest.raises(ConfigError, match=r"classes\.rain=\['rain'\]: none of these is a distort"):
        unknown.items(labelled, "train", 0, "tasks.x.data")


def test_comparisons_by_mos(make_kadid: Callable[..., Path]) -> None:
    labelled = kadid(make_kadid(range(1, 9), levels=3))
    mos = dict(zip(labelled.table["image"], labelled.table["mos_scaled"], strict=True))
    data = Comparisons(difference=1.0, similar="Similar", per_image=4)
    found = data.items(labelled, "train", 0, "tasks.x.data")
    assert len(found) == 2 * len(labelled.rows("train"))
    for item in found:
        gap = mos[item.images[0]] - mos[item.images[1]]
        right = "Similar" if abs(gap) < 1 else "Image A" if gap > 0 else "Image B"
        assert item.words == {"better": right}
    counts = Counter(item.words["better"] for item in found)
    assert min(counts[word] for word in ("Image A", "Image B", "Similar")) > 3
    assert len({frozenset(item.images) for item in found}) == len(found)
    clear = replace(data, similar=None).items(labelled, "train", 0, "tasks.x.data")
    assert clear == [item for item in found if item.words["better"] != "Similar"]
    single = replace(data, within="reference").items(labelled, "test", 0, "tasks.x.data")
    assert all(item.images[0][:3] == item.images[1][:3] for item in single)
    with pytest.raises(ConfigError, match=r"no pair of training images of kadid differs by 4.5 on"):
        replace(data, similar=None, difference=4.5).items(labelled, "train", 0, "tasks.x.data")
    with pytest.raises(ConfigError, match=r"x\.data\.pairs=file, dataset\.pairs\.file=None: name "):
        replace(data, pairs="file").items(labelled, "train", 0, "tasks.x.data")


def test_comparisons_with_the_reference(make_kadid: Callable[..., Path]) -> None:
    root = make_kadid(range(1, 5))
    for number in range(1, 5):
        image = (root / f"images/I{number:02d}_01_01.png").read_bytes()
        (root / f"images/I{number:02d}.png").write_bytes(image)
    data = Comparisons(reference=True)
    assert data.images == 3
    for labelled in (kadid(root), kadid(root, full_reference=True)):
        found = data.items(labelled, "train", 0, "tasks.x.data")
        assert found
        for reference, first, second in (item.images for item in found):
            assert reference == f"{first[:3]}.png" == f"{second[:3]}.png"
    with pytest.raises(ConfigError, match=r"x\.data\.reference=false: a row of kadid has 2 images"):
        Comparisons().items(kadid(root, full_reference=True), "train", 0, "tasks.x.data")


def test_comparisons_from_a_file(make_csv: Callable[..., DatasetConfig]) -> None:
    config = make_csv(6)
    pairs = [("000", "001", 0.8), ("003", "002", 0.0), ("004", "005", 0.5)]
    lines = [f"{a}.png,{b}.png,{p}" for a, b, p in pairs]
    file = Path(str(config.root)) / "pairs.csv"
    file.write_text("\n".join(["first,second,preference", *lines]) + "\n")
    labelled = open_dataset(replace(config, pairs=replace(config.pairs, file="pairs.csv")))
    better = {
        frozenset(("000.png", "001.png")): "000.png",
        frozenset(("002.png", "003.png")): "002.png",
    }
    found = Comparisons().items(labelled, "train", 0, "tasks.x.data")
    assert len(found) == 2
    for item in found:
        shown = item.images[("Image A", "Image B").index(item.words["better"])]
        assert shown == better[frozenset(item.images)]
    assert len(Comparisons(similar="Similar").items(labelled, "train", 0, "tasks.x.data")) == 3


def task(data: str, share: float, images: int, **arguments: Any) -> TaskConfig:
    return validate(
        TaskConfig,
        {
            "share": share,
            "prompt": {"name": "x", "images": images, "text": "What?"},
            "answer": {"_target_": "vqr1.iqa.answers.FreeText"},
            "reward": {"terms": {}},
            "data": {"_target_": f"vqr1.data.tasks.{data}", **arguments},
        },
    )


def mixed(
    dataset: DatasetConfig, processor: Any, prompts: PromptBuilder, size: int = 2
) -> RankingDataModule:
    tasks = {
        "degradation": task("Degradations", 0.25, 1, classes=CLASSES, levels=LEVELS),
        "comparison": task("Comparisons", 0.25, 2),
    }
    sources = {
        name: TaskSource(one, PromptBuilder(
            FAMILY, processor, "What?", 3136, 12544, vision_id=False, images=one.prompt.images
        ))
        for name, one in tasks.items()
    }  # fmt: skip
    loader = LoaderConfig(batch_size=size)
    return RankingDataModule(dataset, loader, prompts, 7, tasks=sources)


def test_batches_of_tasks(
    make_csv: Callable[..., DatasetConfig], processor: Any, prompts: PromptBuilder
) -> None:
    config = make_csv(24)
    data = mixed(config, processor, prompts)
    batches = list(data.train_dataloader())
    # Natural batches: 12 of images, 12 of damaged ones, and of 24 pairs on a circle those that
    # differ by .5: the shares hold for their sum.
    total = len(batches)
    counts = Counter(batch.task for batch in batches)
    assert [counts[name] for name in ("", "degradation", "comparison")] == [
        pytest.approx(total * share, abs=1) for share in (0.5, 0.25, 0.25)
    ]
    # They alternate: one step of each of the two tasks for two that rank, but for rounding.
    assert max(map(len, "".join("r" if b.task else "x" for b in batches).split("r"))) <= 3
    items = {name: one.items("train")["csv"] for name, one in data.tasks.items()}
    for batch in (batch for batch in batches if batch.task):
        own = [items[batch.task][n] for n in batch.index.tolist()]
        assert batch.images == tuple(item.images for item in own)
        assert batch.mos.isnan().all()
        assert batch.labels is not None
        assert batch.labels.distortions == tuple(item.distortion for item in own)
        column = "severity" if batch.task == "degradation" else "better"
        assert batch.labels.columns[column] == tuple(item.words[column] for item in own)
        for images, item in zip(batch.prompts.images, own, strict=True):
            root = data.sets["csv"].image_root
            plain = [prompts.resize(load_image(root / name)) for name in item.images]
            shown = plain if item.damage is None else [item.damage.apply(p) for p in plain]
            assert all(map(torch.equal, images, shown))
    # A resumed order is the same; one whose tasks changed is refused.
    state = data.state_dict()
    state["sampler"]["position"] = 5
    again = mixed(config, processor, prompts)
    again.load_state_dict(state)
    rest = list(again.train_dataloader())
    assert [(b.task, b.images) for b in rest] == [(b.task, b.images) for b in batches[5:]]
    other = RankingDataModule(config, LoaderConfig(batch_size=2), prompts, 7)
    other.load_state_dict(state)
    with pytest.raises(ConfigError, match="resume: sizes was"):
        other.train_dataloader()
    # All processes take the same task at every step.
    sampler = again.train_dataloader()._resumable
    assert sampler is not None
    halves = [plan_epoch(replace(sampler.plan, batch_size=1, world_size=2), 0, n) for n in (0, 1)]
    assert [b.dataset for b in halves[0]] == [b.dataset for b in halves[1]]
    data.check_comparable(within_process=False)


def test_a_training_of_a_task_alone(
    make_csv: Callable[..., DatasetConfig], processor: Any, prompts: PromptBuilder
) -> None:
    source = TaskSource(task("Comparisons", 1.0, 2), mixed_prompts(processor))
    data = RankingDataModule(
        make_csv(12), LoaderConfig(batch_size=2), prompts, 7, tasks={"comparison": source}
    )
    assert {batch.task for batch in data.train_dataloader()} == {"comparison"}


def mixed_prompts(processor: Any) -> PromptBuilder:
    return PromptBuilder(FAMILY, processor, "What?", 3136, 12544, vision_id=False, images=2)


@pytest.mark.parametrize(
    ("data", "printed"),
    [
        (degradations(classes={}), r"^x\.classes=\{\}: name at least one class with its kinds"),
        (degradations(undamaged="blur"), r"^x: classes, undamaged and levels must be words that d"),
        (degradations(classes={"a": ("jpeg",), "b": ("jpeg",)}), r"^x\.classes: jpeg stands in"),
        (degradations(labels="applied", classes={"a": ("rain",)}), r"^x\.classes\.a=\['rain"),
        (Comparisons(options=("A", "A")), r"^x: options and similar must be words that differ"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be(data: TaskData, printed: str) -> None:
    with pytest.raises(UserError, match=printed):
        raise ConfigError(data.problems("x"))
    assert len(data.problems("x")) == 1


def test_items_are_left_as_questions(
    make_csv: Callable[..., DatasetConfig], processor: Any, prompts: PromptBuilder, tmp_path: Path
) -> None:
    config = make_csv(24, split=SplitConfig(by="image", fractions=(0.5, 0.0, 0.5)))
    data = mixed(config, processor, prompts)
    root = data.sets["csv"].image_root
    for name, one in data.tasks.items():
        (questions,) = one.questions("test", 4).values()
        assert len(questions) == 4
        assert all(question.groups["task"] == name for question in questions)
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(json.dumps(as_item(question)) for question in questions))
        read = read_questions(file, root)
        for question, own in zip(read, questions, strict=True):
            text = (
                own.text
                if len(own.images) == 1
                else f"Image A: <image>\nImage B: <image>\n{own.text}"
            )
            groups = own.groups if name == "degradation" else {"task": name}
            assert question == replace(own, where=question.where, text=text, groups=groups)
