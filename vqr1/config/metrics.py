"""Keys of metrics of the user's own (docs/extending.md), beside `vqr1.evaluation.metrics`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from vqr1.config.targets import arguments_apart
from vqr1.config.types import STRICT_KEYS
from vqr1.errors import ConfigError

HEADLINE = "srcc"
"""Name of the metric that an evaluation, a search and a comparison stand for."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class MetricConfig:
    """One metric."""

    target: Annotated[str, Field(alias="_target_")]
    """Function of `vqr1.evaluation.metrics.MetricInputs` that gives a number, NaN where there is
    none."""
    label: str | None = None
    """What tables call it; null: its name."""
    higher_is_better: bool = True
    """Direction: which of two checkpoints, trials or settings is the better one."""
    averageable: bool = True
    """Whether a mean over data sets means something: not so in units of the sets' MOS."""
    interval: bool = True
    """Give it a bootstrap interval: the function is called once for each draw."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the function, by keyword."""

    def function(self, key: str) -> Callable[[Any], float]:
        """The function, its further arguments bound.

        Args:
            key: dotted key of the metric, for messages.

        Raises:
            ConfigError: there is no such function.
        """
        # Hydra takes long to import, and its grammar is not needed here otherwise.
        from hydra.utils import get_method

        try:
            found = get_method(self.target)
        except (ImportError, ValueError) as error:
            printed = " ".join(str(error).split())
            problem = f"{key}._target_={self.target}: no such function ({printed})"
            raise ConfigError([problem]) from error
        return partial(found, **self.arguments) if self.arguments else found


OwnMetrics = dict[
    str, Annotated[MetricConfig, arguments_apart("label", "higher_is_better", "averageable",
                                                 "interval")]
]  # fmt: skip
"""Metrics by name."""
