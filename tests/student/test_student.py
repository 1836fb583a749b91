"""Students: features, files, and what their folders are refused for."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import vqr1
from tests.support.students import SIZES, random_images, saved, tower_student
from vqr1.config import ModelConfig, read_choice, validate
from vqr1.errors import ConfigError, ModelError
from vqr1.policy.loading import Policy, load_policy
from vqr1.policy.vision import encode_images
from vqr1.records import PromptBatch
from vqr1.student.encoders import TimmEncoder
from vqr1.student.files import is_student
from vqr1.student.folder import load_student
from vqr1.student.model import Student
from vqr1.training.stages.distill import contrastive_loss


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return validate(ModelConfig, read_choice("model", "tiny", "model"))


@pytest.fixture(scope="module")
def teacher(config: ModelConfig) -> Policy:
    return load_policy(config)


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    return random_images()


@pytest.fixture(scope="module")
def student(teacher: Policy) -> Student:
    return tower_student(teacher)


def test_the_tower_gives_the_teachers_features_and_shares_nothing_with_it(
    teacher: Policy, student: Student, images: list[torch.Tensor]
) -> None:
    none = torch.empty(0, dtype=torch.int64)
    with torch.no_grad():
        prompts = PromptBatch((none,) * 4, tuple((image,) for image in images))
        features = encode_images(teacher.model, prompts).flat
        found = student.encoder(images)
    width = features[0].shape[1]
    for row, feature in zip(found, features, strict=True):
        torch.testing.assert_close(row[:width], feature.mean(dim=0))
        torch.testing.assert_close(row[width:], feature.std(dim=0, correction=0))
    theirs = {p.data_ptr() for p in teacher.model.parameters()}
    assert not theirs & {p.data_ptr() for p in student.parameters()}


def test_a_saved_student_scores_to_the_same_bits(
    student: Student, teacher: Policy, images: list[torch.Tensor], tmp_path: Path,
    config: ModelConfig,
) -> None:  # fmt: skip
    folder = saved(student, teacher, tmp_path / "student")
    assert is_student(replace(config, path=str(folder)))
    assert (folder / "student.safetensors").stat().st_size < 30e6
    loaded, rule = load_student(str(folder))
    with torch.no_grad():
        expected = student(images)
        assert torch.equal(loaded(images), expected)
    assert rule.pixels(Image.new("RGB", (300, 200))).shape[2] == 3
    metric, red = vqr1.create_metric("tiny", model=str(folder)), Image.new("RGB", (300, 200), "red")
    with torch.no_grad():
        assert metric(red).tolist() == loaded([rule.pixels(red)]).tolist()
    assert metric.score_range == (1.0, 5.0)
    # No text and nothing lost; its error to the teacher's scores is the standard deviation.
    (result,) = metric.scorer.score(red)
    assert (result.valid, result.std, result.lost, result.text) == (True, 0.25, None, None)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"mode": "greedy"}, "gives scores and writes no answers; use mode=expected"),
        ({"mode": "levels", "prompt": "levels"}, "use mode=expected"),
    ],
)
def test_modes_that_need_text_are_refused(
    student: Student, teacher: Policy, tmp_path: Path, change: dict[str, str], line: str
) -> None:
    folder = saved(student, teacher, tmp_path / "student")
    with pytest.raises(ConfigError, match=line):
        vqr1.create_metric("tiny", model=str(folder), **change)  # type: ignore[arg-type]


def test_folders_that_are_not_whole_are_refused_in_one_line(
    student: Student, teacher: Policy, tmp_path: Path
) -> None:
    folder = saved(student, teacher, tmp_path / "student")
    record = json.loads((folder / "config.json").read_text())
    record["sizes"]["embedding"] = 9
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"not a whole student") as wrong:
        load_student(str(folder))
    assert "\n" not in str(wrong.value)
    (folder / "student.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match=r"not a whole student"):
        load_student(str(folder))


def test_a_student_without_its_library_is_one_line(
    student: Student, teacher: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(student, teacher, tmp_path / "student")
    record = json.loads((folder / "config.json").read_text())
    record["encoder"] = {"kind": "timm", "architecture": "resnet18", "image_size": 64}
    (folder / "config.json").write_text(json.dumps(record))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"^model.path=.*student resnet18: timm is not installed"):
        vqr1.create_metric("tiny", model=str(folder))


def test_timm_students(teacher: Policy, images: list[torch.Tensor], tmp_path: Path) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match="timm has no such architecture"):
        TimmEncoder("resnet0", 64)
    student = Student(TimmEncoder("test_resnet", 32), replace(SIZES, head="linear"), (1.0, 5.0))
    loaded, _ = load_student(str(saved(student.eval(), teacher, tmp_path / "student")))
    with torch.no_grad():
        assert torch.equal(loaded(images), student(images))


def test_one_text_an_image_is_clips_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(5, 7, generator=generator) for _ in range(2))
    found = contrastive_loss(images, texts[:, None], torch.tensor(1.5))
    a, b = (torch.nn.functional.normalize(x, dim=1) for x in (images, texts))
    logits, places = torch.tensor(1.5).exp() * a @ b.T, torch.arange(5)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(logits, places) + cross_entropy(logits.T, places)) / 2
    torch.testing.assert_close(found, expected)
    # The same text three times: each is found among 15, log 3 more; images among texts as before.
    thrice = contrastive_loss(images, texts[:, None].expand(-1, 3, -1), torch.tensor(1.5))
    torch.testing.assert_close(thrice - found, torch.tensor(3.0).log() / 2)
