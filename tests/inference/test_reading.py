"""Reading ahead gives what reading one image after the other gives, in the same order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vqr1.errors import DataError
from vqr1.inference.reading import ImageReader, ReadGroup
from vqr1.policy.families._qwen_images import AreaRule

RULE = AreaRule(28, 3136, 12544)


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(path)
    paths[4].write_bytes(b"no image")
    return paths


def expected(path: Path) -> bytes:
    with Image.open(path) as image:
        return np.asarray(RULE.pixels(image.convert("RGB"))).tobytes()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("at_once", [False, True])
def test_batches_hold_the_pixels_of_files_in_order(files: list[Path], at_once: bool) -> None:
    with ImageReader(RULE.pixels, 3, at_once=at_once) as reader:
        batches = list(reader.batches(files))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    groups = [group for batch in batches for group in batch]
    assert [group.name for group in groups] == list(map(str, files))
    for path, group in zip(files, groups, strict=True):
        if path == files[4]:
            assert group.error is not None
            assert str(path) in group.error
        else:
            assert group.pixels[0].numpy().tobytes() == expected(path)
    keys = [group.key for group in groups if group.error is None]
    assert len(set(keys)) == len(keys)


@pytest.mark.usefixtures("threads")
def test_a_shared_reference_is_read_once(files: list[Path]) -> None:
    read: list[int] = []

    def resize(image: Image.Image) -> torch.Tensor:
        read.append(1)
        return RULE.pixels(image)

    with ImageReader(resize, 4, at_once=True) as reader:
        (batch,) = reader.batches([(files[0], files[1]), (files[0], files[2])])
    assert len(read) == 3
    assert [len(group.pixels) for group in batch] == [2, 2]


@pytest.mark.usefixtures("threads")
def test_what_is_made_one_by_one_is_not_asked_for_ahead(files: list[Path]) -> None:
    asked: list[Path] = []

    def one_by_one() -> Iterator[Path]:
        for path in files[:4]:
            asked.append(path)
            yield path

    with ImageReader(RULE.pixels, 2, at_once=False) as reader:
        batches = reader.batches(one_by_one())
        first: list[ReadGroup] = next(batches)
        assert [group.name for group in first] == [str(path) for path in asked] == [
            str(path) for path in files[:2]
        ]  # fmt: skip


@pytest.mark.usefixtures("threads")
def test_what_is_wrong_in_the_callers_code_is_raised(files: list[Path]) -> None:
    wrong = np.zeros((4, 4, 7), dtype=np.uint8)
    with (
        ImageReader(RULE.pixels, 3, at_once=True) as reader,
        pytest.raises(DataError),
    ):
        list(reader.batches([files[0], wrong]))
