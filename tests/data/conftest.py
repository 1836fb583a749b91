"""Small synthetic sets and a small Qwen2.5-VL processor for the data tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import noise_image
from tests.support.tiny_prompts import small_builder, small_processor
from vqr1.config import DatasetConfig, SplitConfig
from vqr1.policy.prompts import PromptBuilder


@pytest.fixture(scope="session")
def processor() -> Any:
    return small_processor()


@pytest.fixture(scope="session")
def prompts(processor: Any) -> PromptBuilder:
    return small_builder(processor)


@pytest.fixture
def make_kadid(tmp_path: Path) -> Callable[..., Path]:
    """Writes a KADID-format set of 1 image for each (reference, level) pair."""

    def make(references: Sequence[int], levels: int = 5, name: str = "kadid") -> Path:
        root = tmp_path / name
        (root / "images").mkdir(parents=True)
        lines = ["dist_img,ref_img,dmos,var"]
        for reference in references:
            for level in range(1, levels + 1):
                image = f"I{reference:02d}_01_{level:02d}.png"
                noise_image(100 * reference + level).save(root / "images" / image)
                score = 4.9 - 0.7 * (level - 1) - 0.01 * reference
                lines.append(f"{image},I{reference:02d}.png,{score:.2f},0.25")
        (root / "dmos.csv").write_text("\n".join(lines) + "\n")
        return root

    return make


@pytest.fixture
def make_csv(tmp_path: Path) -> Callable[..., DatasetConfig]:
    """Writes a CSV set of `count` images with falling scores; returns its configuration."""

    def make(count: int, name: str = "own", **settings: Any) -> DatasetConfig:
        root = tmp_path / name
        (root / "images").mkdir(parents=True)
        lines = ["image,mos"]
        for number in range(count):
            noise_image(number).save(root / "images" / f"{number:03d}.png")
            lines.append(f"{number:03d}.png,{100 - number}")
        (root / "labels.csv").write_text("\n".join(lines) + "\n")
        settings.setdefault("split", SplitConfig(by="image", fractions=(1.0, 0.0, 0.0)))
        return DatasetConfig(name="csv", root=str(root), label_file="labels.csv", **settings)

    return make
