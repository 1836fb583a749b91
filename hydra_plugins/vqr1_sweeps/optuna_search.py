"""Searches with Optuna: trials proposed from those before, bad ones given up early.

The released plugin wants an Optuna before 3, makes all trials anew when it is started again, and
leaves killed ones open; hence one of our own. The search space is written in Hydra's words:
`choice(a, b)`, `range(2, 9)`, `interval(0, 1)`, and `tag(log, interval(1e-5, 1e-3))`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
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
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

    from vqr1.sweeps.jobs import SweepJob
    from vqr1.sweeps.results import JobResult
    from vqr1.sweeps.session import Sweep


class OptunaSweeper(Sweeper):
    """A search that continues where it stopped.

    Args:
        params: search space, as on the command line, which overrides it.
        n_trials: in all, over every start.
        direction: maximize or minimize.
        seed: of the sampler.
        prune: give up trials below the median.
        startup_trials: before sampler and pruner learn.
        warmup_steps: optimiser steps before a trial may be given up.
    """

    def __init__(
        self,
        params: dict[str, str] | None = None,
        n_trials: int = 20,
        direction: str = "maximize",
        seed: int = 0,
        prune: bool = True,
        startup_trials: int = 5,
        warmup_steps: int = 0,
    ) -> None:
        self.params = params or {}
        self.settings: dict[str, Any] = {
            "n_trials": n_trials, "seed": seed, "direction": direction, "prune": prune,
            "startup_trials": startup_trials, "warmup_steps": warmup_steps,
        }  # fmt: skip
        self.context: SweepContext | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra."""
        self.context = SweepContext(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run the search.

        Raises:
            ConfigError: the space is empty, or a key of it breaks a rule; nothing has been started.
            SweepIncompleteError: jobs did not finish.
        """
        from vqr1.errors import ConfigError
        from vqr1.sweeps import search

        context = self.context
        assert context is not None
        overrides = context.parse(self.params, arguments)
        refuse_shared_folder(overrides)
        refuse_no_values(overrides)
        swept = [override for override in overrides if override.is_sweep_override()]
        if not swept:
            raise ConfigError(["hydra.sweeper.params: empty; name at least one key to search over"])
        space = {override.get_key_element(): distribution(override) for override in swept}
        fixed = [
            f"{o.get_key_element()}={o.get_value_element_as_str()}"
            for o in overrides
            if not o.is_sweep_override()
        ]
        # Both ends of the space and every choice are composed before the first trial, so that a key
        # that does not exist or a value out of range is found now.
        for point in covering_points(space):
            context.compose([*fixed, *(f"{key}={value}" for key, value in point.items())])
        settings = search.SearchSettings(**self.settings)
        plan = context.plan(
            overrides, {swept_key(o): value_text(o) for o in swept}, settings.direction
        )
        with context.open(plan, asdict(settings)) as sweep:
            study = search.open_study(search.storage_address(sweep.folder.path), plan.key, settings)
            sweep.await_running()
            stale = search.reconcile_open_trials(study, _done(sweep), plan.metric)
            left = search.trials_left(study, settings.n_trials)
            report_line(
                f"search over {', '.join(space)}: {settings.n_trials} trials, {left} to make, "
                f"{context.at_once} at once; {stale} of an earlier start did not end"
            )
            while left > 0:
                count = min(left, context.at_once)
                left -= count
                trials = [search.trial_overrides(study, space) for _ in range(count)]
                jobs = [_job(context, fixed, values, trial) for trial, values in trials]
                sweep.add_jobs(jobs)
                sweep.launch(jobs, context.launch(jobs))
                results = {result.name: result for result in sweep.results()}
                for (trial, _), job in zip(trials, jobs, strict=True):
                    search.tell(study, trial, results.get(job.name), plan.metric)
            best = search.best_trial(study)
            if best is not None:
                report_line(f"best trial {best.number}: {best.value:.4f} with {best.params}")
            sweep.finish(missing=search.trials_left(study, settings.n_trials))


def _done(sweep: Sweep) -> dict[int, JobResult]:
    """Results of the jobs that reached their end, by the trials that they are."""
    from vqr1.sweeps.folder import is_done

    results = {result.name: result for result in sweep.results()}
    return {
        attempt.job.trial: results[attempt.job.name]
        for attempt in sweep.folder.attempts()
        if attempt.job.trial is not None and is_done(attempt.outcome)
    }


def _job(
    context: SweepContext, fixed: Sequence[str], values: dict[str, str], trial: Trial
) -> SweepJob:
    texts = [f"{key}={value}" for key, value in values.items()]
    swept = {key.lstrip("+"): value for key, value in values.items()}
    return context.job([*fixed, *texts], swept, trial.number)


def distribution(override: Override) -> BaseDistribution:
    """Optuna's distribution for a swept override: the values that Hydra reads in it.

    Raises:
        ConfigError: Optuna takes no such interval.
    """
    from vqr1.errors import ConfigError

    try:
        return _distribution(override)
    except ValueError as error:
        raise ConfigError(
            [f"{override.input_line}: no interval to search over ({error}); give START <= END, and "
             "with `log` both above 0"]
        ) from error  # fmt: skip


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        log = "log" in value.tags
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(value.start, value.end, log=log)
        return FloatDistribution(float(value.start), float(value.end), log=log)
    if isinstance(value, RangeSweep):
        values = value.range()
        if isinstance(values, range):
            return IntDistribution(min(values), max(values), step=abs(values.step))
        # In decimals, as they were typed: .1 + 2 * .1 is .3 and no more.
        first, step = Decimal(str(value.start)), Decimal(str(value.step))
        last = first + (sum(1 for _ in values) - 1) * step
        low, high = sorted((float(first), float(last)))
        return FloatDistribution(low, high, step=abs(float(step)))
    # A list of choices, with `choice` or without, or `glob`.
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def covering_points(space: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """As few points of a space as have every choice of each key and both ends of each interval."""
    values = {key: _values(one) for key, one in space.items()}
    return [
        {key: known[min(number, len(known) - 1)] for key, known in values.items()}
        for number in range(max(map(len, values.values())))
    ]


def _values(space: BaseDistribution) -> tuple[Any, ...]:
    """Every choice, or both ends of an interval."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(space, CategoricalDistribution):
        return tuple(space.choices)
    assert isinstance(space, IntDistribution | FloatDistribution)
    return space.low, space.high
