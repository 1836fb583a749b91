"""Grid sweeps: every combination of the swept values, each trained once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.vqr1_sweeps.planning import (
    SweepContext,
    refuse_no_values,
    refuse_shared_folder,
    report_line,
    swept_key,
    value_text,
)

if TYPE_CHECKING:
    from vqr1.sweeps.jobs import SweepJob


class GridSweeper(Sweeper):
    """Composes and checks every job, then runs those that no earlier start has finished.

    Args:
        params: swept keys and their values, as on the command line, which overrides them.
    """

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = params or {}
        self.context: SweepContext | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra."""
        self.context = SweepContext(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep.

        Raises:
            ConfigError: a job's configuration breaks a rule; nothing has been started.
            SweepIncompleteError: jobs did not finish.
        """
        from vqr1.sweeps.jobs import unique_jobs

        assert self.context is not None
        overrides = self.context.parse(self.params, arguments)
        refuse_shared_folder(overrides)
        refuse_no_values(overrides)
        space = {swept_key(o): value_text(o) for o in overrides if o.is_sweep_override()}
        every = self._jobs(self.context, overrides)
        jobs = unique_jobs(every)
        plan = replace(self.context.plan(overrides, space), jobs=tuple(jobs))
        with self.context.open(plan) as sweep:
            pending = sweep.pending(jobs)
            twice = (
                f", {len(every) - len(jobs)} twice in the grid" if len(every) > len(jobs) else ""
            )
            at_once = self.context.side_by_side(len(pending))
            report_line(
                f"sweep of {len(jobs)} jobs{twice}: {len(jobs) - len(pending)} done before, "
                f"{len(pending)} to run, {at_once} at once; {sweep.folder.path}"
            )
            if pending:
                sweep.launch(pending, self.context.launch(pending))
            sweep.finish()

    @staticmethod
    def _jobs(context: SweepContext, overrides: Sequence[Override]) -> list[SweepJob]:
        """Every point of the grid, composed and checked; all problems are raised together."""
        from vqr1.errors import ConfigError

        problems: list[str] = []
        jobs = []
        for point in itertools.product(*map(_values, overrides)):
            texts = [f"{key}={value}" for key, value in point]
            swept = {
                swept_key(override): value
                for override, (_, value) in zip(overrides, point, strict=True)
                if override.is_sweep_override()
            }
            try:
                jobs.append(context.job(texts, swept))
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))
        return jobs


def _values(override: Override) -> list[tuple[str, str]]:
    """(key, value) for each value of an override.

    Raises:
        HydraException: a range without a finite number of values.
    """
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [(key, override.get_value_element_as_str())]
    if not override.is_discrete_sweep():
        raise HydraException(
            f"{override.input_line}: a grid needs single values; for an interval choose "
            "hydra/sweeper=optuna"
        )
    return [(key, text) for text in override.sweep_string_iterator()]
