"""Every data-set YAML composes, validates and fits its format."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqr1.cli.options import load_data_config, named_parts
from vqr1.config import DatasetConfig, SplitConfig, config_dir
from vqr1.data.labels import FORMATS
from vqr1.errors import ConfigError

NAMES = sorted(path.stem for path in (config_dir() / "dataset").glob("*.yaml"))


def test_there_is_one_yaml_for_each_format() -> None:
    assert tuple(NAMES) == FORMATS


@pytest.mark.parametrize("name", NAMES)
def test_yaml_is_valid(name: str) -> None:
    config = load_data_config([f"dataset={name}"])
    assert isinstance(config.dataset, DatasetConfig)
    assert config.dataset.name == name
    assert config.dataset.root is None
    assert config.dataset.short_edge == (768 if name == "spaq" else None)
    if config.dataset.split.by in ("reference", "image"):
        assert sum(config.dataset.split.fractions) == pytest.approx(1)


def test_shared_keys_can_be_overridden() -> None:
    config = load_data_config(
        ["dataset=kadid", "dataset.on_bad_image=skip", "dataset.split.by=reference",
         "dataset.split.seed=3", "dataset.root=/data/kadid10k"]
    )  # fmt: skip
    ((key, part),) = named_parts(config).values()
    assert key == "dataset"
    assert (part.on_bad_image, part.root) == ("skip", "/data/kadid10k")
    assert part.split == SplitConfig(by="reference", seed=3)


def test_mixture_parts_keep_their_keys() -> None:
    config = load_data_config(["dataset=spaq+kadid", "dataset.parts.kadid.root=x"])
    parts = named_parts(config)
    assert list(parts) == ["spaq", "kadid"]
    key, kadid = parts["kadid"]
    assert key == "dataset.parts.kadid"
    assert (kadid.root, kadid.split.by) == ("x", "official")
    assert parts["spaq"][1].short_edge == 768


def test_wrong_value_names_its_key() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.on_bad_image='ignore'"):
        load_data_config(["dataset=kadid", "dataset.on_bad_image=ignore"])


def test_configurations_hold_no_paths_of_one_machine() -> None:
    for path in (config_dir() / "dataset").rglob("*.yaml"):
        assert "root: /" not in Path(path).read_text()
