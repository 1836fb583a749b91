"""One tiny checkpoint and one loaded policy for each family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.policy.families.cases import CASES, FamilyCase
from tools.tiny_checkpoints import build
from vqr1.config import ModelConfig
from vqr1.policy.loading import Policy, load_policy

_OF_TWINS = ("[{}-double]", "test_greedy_equals_generate", "test_family_prompts.py")
"""In the names of tests that run for twins in every tier."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that a family's twin makes superfluous most of the time are slow."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        case = None if callspec is None else callspec.params.get("case")
        if isinstance(case, FamilyCase) and case.twin:
            kept = (part.format(case.model_type) for part in _OF_TWINS)
            if not any(part in item.nodeid for part in kept):
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a family's tiny checkpoint, by `model_type`; built at the first call."""
    built: dict[str, Path] = {}

    def folder(model_type: str) -> Path:
        if model_type not in built:
            built[model_type] = build(model_type, tmp_path_factory.mktemp(model_type), seed=1)
        return built[model_type]

    return folder


@pytest.fixture(scope="session", params=CASES, ids=lambda case: case.model_type)
def case(request: pytest.FixtureRequest) -> FamilyCase:
    """The family that a test runs for."""
    found: FamilyCase = request.param
    return found


@pytest.fixture(scope="session")
def model_config(case: FamilyCase, checkpoint: Callable[[str], Path]) -> ModelConfig:
    """`model` of a run with the family's tiny checkpoint."""
    low, high = case.area
    return ModelConfig(
        name=case.model_type,
        path=str(checkpoint(case.model_type)),
        min_pixels=low,
        max_pixels=high,
    )


@pytest.fixture(scope="session")
def policy(model_config: ModelConfig) -> Policy:
    """The family's tiny policy in float32; tests leave it as they found it."""
    return load_policy(model_config)
