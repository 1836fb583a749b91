"""The test predictions that the runs of a sweep kept.

A training with `validation.test` keeps what its policy predicted for the test images beside its
checkpoints (`vqr1.training.prediction_cache`); the latest is that of the trained policy.

Not here: comparing them (`vqr1.evaluation.compare_settings`).
"""

from __future__ import annotations

from pathlib import Path

from vqr1.errors import DataError
from vqr1.evaluation.predictions import Predictions
from vqr1.sweeps.folder import FINISHED, Attempt, SweepFolder
from vqr1.sweeps.jobs import SEED, setting_name
from vqr1.training.checkpoint_files import newest_intact, step_of
from vqr1.training.prediction_cache import POLICY, read_predictions


def read_settings(folder: Path) -> dict[str, dict[str, Predictions]]:
    """By setting and seed the test predictions of a sweep's finished jobs, in the jobs' order.

    Raises:
        DataError: no job has finished, a finished one kept no test predictions, or there is only
            one setting.
    """
    sweep = SweepFolder(folder)
    order = {} if sweep.record is None else {job: i for i, job in enumerate(sweep.record.jobs)}
    finished = [a for a in sweep.results().values() if a.status == FINISHED]
    if not finished:
        raise DataError(f"compare: no job of the sweep {folder} has finished")
    settings: dict[str, dict[str, Predictions]] = {}
    for attempt in sorted(finished, key=lambda a: (order.get(a.job.name, len(order)), a.number)):
        seed = attempt.job.swept.get(SEED, "-")
        settings.setdefault(setting_name(attempt.job.swept), {})[seed] = _test_predictions(attempt)
    if len(settings) < 2:
        raise DataError(
            f"compare: the finished jobs of the sweep {folder} differ in nothing but the seed; "
            "see its summary"
        )
    return settings


def _test_predictions(attempt: Attempt) -> Predictions:
    folder = attempt.folder / "checkpoints"
    newest = newest_intact(folder, POLICY)
    # Step 0 is the policy before the training.
    step = 0 if newest is None else step_of(newest)
    found = read_predictions(folder, step) if step else None
    if found is None:
        raise DataError(
            f"compare: {attempt.folder} keeps no test predictions; it was trained with "
            "validation.test=false, or its checkpoints are gone: evaluate its export, and compare "
            "the evaluations"
        )
    return found
