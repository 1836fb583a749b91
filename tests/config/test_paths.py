"""`~` after a key is expanded where the configuration is validated, for whatever reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import TrainConfig, validate

KEYS = (
    "model.path", "hardware.vision_cache_dir", "loader.cache_dir", "rollout.server.adapter_dir",
)  # fmt: skip


def config_of(*overrides: str) -> TrainConfig:
    return validate(TrainConfig, plain_values(compose_config("train", ["run_dir=run", *overrides])))


def test_home_is_expanded_and_hub_names_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = config_of("rollout=vllm_server", *(f"{key}='~/kept'" for key in KEYS))
    found = (
        config.model.path, config.hardware.vision_cache_dir, config.loader.cache_dir,
        config.rollout.server.adapter_dir,
    )  # fmt: skip
    assert found == (f"{tmp_path}/kept",) * 4
    named = config_of("model.path=owner/name")
    assert (named.model.path, named.hardware.vision_cache_dir) == ("owner/name", None)
