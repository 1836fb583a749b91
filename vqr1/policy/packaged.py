"""Where the packaged policy lies; imports nothing."""

from __future__ import annotations

from pathlib import Path


def tiny_policy_folder() -> Path:
    """The packaged, warm-started policy folder."""
    return Path(__file__).resolve().parents[1] / "assets" / "tiny"
