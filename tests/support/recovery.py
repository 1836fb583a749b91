"""What must hold after every injected fault."""

from __future__ import annotations

import pytest

from tools.faults.report import FaultResult


def assert_recovered(result: FaultResult) -> None:
    """The resumed run ends in the same bits and lost nothing; skips where it cannot be tried."""
    if result.skipped:
        pytest.skip(result.skipped)
    assert result.recovered, result
    assert result.identical, result
    assert result.lost == 0, result
