"""What servers state, in one line."""

from __future__ import annotations


def shortened(text: str, most: int = 160) -> str:
    """`text` without line breaks, and at most so many characters of it."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]}..."
