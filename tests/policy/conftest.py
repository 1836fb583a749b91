"""A small processor and prompt builder for the policy's tests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.tiny_prompts import small_builder, small_processor
from vqr1.policy.prompts import PromptBuilder


@pytest.fixture(scope="session")
def processor() -> Any:
    return small_processor()


@pytest.fixture(scope="session")
def prompts(processor: Any) -> PromptBuilder:
    return small_builder(processor)
