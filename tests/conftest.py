"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# No test may reach for a hub; what is not on the machine must fail at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real label files and numeric vectors beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"real label files and vectors are not at {SHARED}")
    return SHARED
