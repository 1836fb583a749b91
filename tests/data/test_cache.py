"""The image cache: exact, and stale for every change that matters."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.images import noise_image
from vqr1.data import cache as cache_module
from vqr1.data.cache import ImageCache
from vqr1.policy.families._qwen_images import AreaRule

RULE = AreaRule(28, 3136, 12544)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    noise_image(1).save(path)
    return path


def test_round_trip_is_exact(tmp_path: Path, image: Path) -> None:
    cache = ImageCache(tmp_path / "cache")
    key = cache.key(image, None, RULE)
    assert cache.get(key) is None
    pixels = torch.randint(0, 256, (5, 7, 3), dtype=torch.uint8)
    cache.put(key, pixels)
    restored = cache.get(key)
    assert restored is not None
    assert torch.equal(restored, pixels)
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_key_changes_with_everything_that_matters(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ImageCache(tmp_path / "cache")
    changes = ({"factor": 32}, {"min_pixels": 784}, {"max_pixels": 784_000})
    changes = ({"factor": 32}, {"min_pixels": 784}, {"max_pixels": 784_000})
    keys = [cache.key(image, None, RULE), cache.key(image, 768, RULE)]
    keys += [cache.key(image, None, replace(RULE, **change)) for change in changes]
    status = image.stat()
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    keys.append(cache.key(image, None, RULE))
    image.write_bytes(image.read_bytes() + b"\0")
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    keys.append(cache.key(image, None, RULE))
    noise_image(1).save(tmp_path / "b.png")
    keys.append(cache.key(tmp_path / "b.png", None, RULE))
    monkeypatch.setattr(cache_module.PIL, "__version__", "99.0")
    keys.append(cache.key(image, None, RULE))
    assert len(set(keys)) == len(keys)


def test_same_file_has_the_same_key_under_a_link(tmp_path: Path, image: Path) -> None:
    os.symlink(image, tmp_path / "link.png")
    cache = ImageCache(tmp_path / "cache")
    assert cache.key(image, None, RULE) == cache.key(tmp_path / "link.png", None, RULE)


def test_cut_off_entry_counts_as_none(tmp_path: Path, image: Path) -> None:
    cache = ImageCache(tmp_path / "cache")
    key = cache.key(image, None, RULE)
    cache.put(key, torch.zeros(4, 4, 3, dtype=torch.uint8))
    (entry,) = (tmp_path / "cache").rglob("*.safetensors")
    entry.write_bytes(entry.read_bytes()[:20])
    assert cache.get(key) is None
    cache.put(key, torch.ones(4, 4, 3, dtype=torch.uint8))
    restored = cache.get(key)
    assert restored is not None
    assert int(restored.sum()) == 48
