"""One thread, a small processor and a prompt builder for the policy's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.support.tiny_prompts import small_builder, small_processor
from vqr1.policy.prompts import PromptBuilder


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Products of tiny models are too small for two threads, which would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def processor() -> Any:
    return small_processor()


@pytest.fixture(scope="session")
def prompts(processor: Any) -> PromptBuilder:
    return small_builder(processor)
