"""Optuna's side of a search: its study, the trials that a dead sweep left, and pruning.

The study lives in sqlite beside the sweep's jobs. The number of trials is a total: a search that is
started again makes only those that are missing, with a sampler whose seed has moved on (the same
seed would propose the points of the first start again), and fails the trials that nobody will ever
finish.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import lightning as L
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from vqr1.config.metrics import HEADLINE
from vqr1.errors import PrunedError
from vqr1.sweeps.folder import FINISHED, Attempt, SweepFolder
from vqr1.sweeps.results import JobResult

OBJECTIVES = (f"val/{HEADLINE}_best", f"val/{HEADLINE}")
"""Metrics that a search optimises, the first that a job has, where none is named: test metrics are
not among them, because choosing by them would spend the test."""


@dataclass(frozen=True)
class SearchSettings:
    """How a search proposes and prunes.

    Attributes:
        n_trials: trials in all, over every start.
        seed: of the sampler.
        direction: maximize or minimize.
        prune: give up trials that are worse than the median of the others at the same step.
        startup_trials: trials before sampler and pruner begin to learn from them.
        warmup_steps: optimiser steps before a trial may be given up.
    """

    n_trials: int
    seed: int
    direction: Literal["maximize", "minimize"]
    prune: bool
    startup_trials: int
    warmup_steps: int


def storage_address(folder: Path) -> str:
    """The study's place: sqlite in the sweep's folder."""
    return f"sqlite:///{(folder / 'optuna.db').resolve()}"


def open_study(storage: str, name: str, settings: SearchSettings) -> optuna.Study:
    """The study of a search, made where it does not exist."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage,
        study_name=study_name(storage) or name,
        direction=settings.direction,
        load_if_exists=True,
    )
    study.sampler = optuna.samplers.TPESampler(
        seed=settings.seed + len(study.trials), n_startup_trials=settings.startup_trials
    )
    study.pruner = make_pruner(settings)
    return study


def study_name(storage: str) -> str | None:
    """Name of the one study that a folder holds; None where it holds none."""
    return next(iter(optuna.get_all_study_names(storage)), None)


def make_pruner(settings: SearchSettings) -> optuna.pruners.BasePruner:
    """Median pruning, or none."""
    if not settings.prune:
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(
        n_startup_trials=settings.startup_trials, n_warmup_steps=settings.warmup_steps
    )


def reconcile_open_trials(
    study: optuna.Study, done: Mapping[int, JobResult], metric: str | None
) -> int:
    """Report the study how the trials ended that an earlier start left open.

    Args:
        study: the study; nothing of it runs any more.
        done: results of the jobs that reached their end, by trial.
        metric: the objective.

    Returns:
        Trials that failed, because their job did not reach its end.
    """
    left = study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING), deepcopy=False)
    for trial in left:
        tell(study, trial.number, done.get(trial.number), metric)
    return sum(trial.number not in done for trial in left)


def trials_left(study: optuna.Study, total: int) -> int:
    """Trials that are still to be made."""
    done = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED), deepcopy=False)
    return max(total - len(done), 0)


def trial_overrides(
    study: optuna.Study, space: Mapping[str, BaseDistribution]
) -> tuple[Trial, dict[str, str]]:
    """A new trial and its values as override texts."""
    trial = study.ask(dict(space))
    return trial, {key: _text(value) for key, value in trial.params.items()}


def tell(
    study: optuna.Study, trial: Trial | int, result: JobResult | None, metric: str | None
) -> None:
    """Report the study how a trial ended."""
    if result is not None and result.status == "PRUNED":
        study.tell(trial, state=TrialState.PRUNED)
        return
    value = None if result is None or result.status != FINISHED else objective(result, metric)
    if value is None or not math.isfinite(value):
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, value)


def objective(result: JobResult, metric: str | None) -> float | None:
    """The metric that a search optimises; None where the job has none."""
    names: Sequence[str] = OBJECTIVES if metric is None else (metric,)
    return next((result.metrics[name] for name in names if name in result.metrics), None)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The best complete trial, None without one."""
    done = study.get_trials(states=(TrialState.COMPLETE,), deepcopy=False)
    return study.best_trial if done else None


class PruneTrial(L.Callback):
    """Reports validation metrics of a search's job, and ends the job when the search asks.

    Args:
        trial: the running trial.
        metric: the reported metric.
    """

    def __init__(self, trial: Trial, metric: str) -> None:
        self.trial = trial
        self.metric = metric

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the latest metric.

        Raises:
            PrunedError: the search gives this trial up.
        """
        value = trainer.callback_metrics.get(self.metric)
        if trainer.state.fn != "fit" or value is None or not math.isfinite(float(value)):
            return
        self.trial.report(float(value), trainer.global_step)
        if self.trial.should_prune():
            raise PrunedError(
                f"{self.metric}={float(value):.3f} at step {trainer.global_step} is below the "
                "median of the other trials"
            )


def pruning_callback(attempt: Attempt, metric: str) -> PruneTrial:
    """The callback of a search's job.

    Args:
        attempt: the job; has a trial.
        metric: the reported metric.
    """
    folder = SweepFolder(attempt.folder.parent)
    record, number = folder.record, attempt.job.trial
    assert record is not None
    assert record.search is not None
    assert number is not None
    storage = storage_address(folder.path)
    study = optuna.load_study(
        storage=storage,
        study_name=study_name(storage),
        pruner=make_pruner(SearchSettings(**record.search)),
    )
    return PruneTrial(Trial(study, study.trials[number]._trial_id), metric)


def _text(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value)
