"""The MLflow side of a sweep: the children of its run, and their true status.

A process that is killed cannot close its run. Whoever holds the sweep's lock knows which jobs are
alive by their own locks, and marks the other open runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vqr1.sweeps.folder import FAILED, KILLED, PRUNED, Attempt, SweepFolder
from vqr1.tracking.journal import journal_file
from vqr1.tracking.outages import store_reached
from vqr1.tracking.sqlite_runs import ChildRun, has_known_tables, read_runs
from vqr1.tracking.store import database_file, logged_run, reading_client, slug

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FOLDER_TAG = "vqr1.sweep_dir"
ERROR_TAG = "vqr1.error"


class ParentRun:
    """The parent run of a sweep in MLflow.

    Args:
        client: of the store.
        run_id: the run.
    """

    def __init__(self, client: MlflowClient, run_id: str, tracking_uri: str) -> None:
        self.client = client
        self.run_id = run_id
        self.tracking_uri = tracking_uri

    @classmethod
    def open(cls, tracking_uri: str, run_id: str) -> ParentRun:
        """An existing parent run.

        Raises:
            ConfigError: the store has no such run, or does not answer.
        """
        with store_reached(tracking_uri):
            client = reading_client(tracking_uri, f"parent={run_id}")
            logged_run(client, run_id, tracking_uri, f"parent={run_id}")
        return cls(client, run_id, tracking_uri)

    def children(self) -> list[Run]:
        """All child runs, the oldest first.

        Raises:
            ConfigError: the store does not answer.
        """
        with store_reached(self.tracking_uri):
            return self._children()

    def _children(self) -> list[Run]:
        experiment = self.client.get_run(self.run_id).info.experiment_id
        found: list[Run] = []
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [experiment],
                f"tags.`mlflow.parentRunId` = '{self.run_id}'",
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                return found

    def child_values(self, tags: Sequence[str], params: str, curve: str) -> list[ChildRun]:
        """What a summary reads of all child runs, the oldest first.

        Args:
            tags: keys of the tags that are read.
            params: beginning of the keys of the parameters that are read.
            curve: metric whose history is read.

        Raises:
            ConfigError: the store does not answer.
        """
        with store_reached(self.tracking_uri):
            database = database_file(self.tracking_uri)
            if database is not None and has_known_tables(database):
                return read_runs(database, self.run_id, tags, params, curve)
            return [self._values(run, curve) for run in self._children()]

    def _values(self, run: Run, curve: str) -> ChildRun:
        history = self.client.get_metric_history(run.info.run_id, curve)
        return ChildRun(
            run.info.run_id,
            run.info.status,
            run.data.tags,
            run.data.params,
            run.data.metrics,
            [(point.step, point.value) for point in history],
        )

    def reconcile_children(self, folder: SweepFolder) -> None:
        """Give every child its true status and error.

        An open run whose job nobody trains was killed. A job that failed before its run was opened
        gets one; of a journal that is not delivered yet nothing is known here. Children that are
        trained at this moment are left alone.

        Raises:
            ConfigError: the store does not answer.
        """
        with store_reached(self.tracking_uri):
            self._reconcile_children(folder)

    def _reconcile_children(self, folder: SweepFolder) -> None:
        runs = {run.data.tags.get("vqr1.job_number"): run for run in self.children()}
        for attempt in folder.attempts():
            run = runs.get(str(attempt.number))
            if run is None:
                self._reconcile_unlogged(attempt)
            else:
                self._reconcile(attempt, run)

    def _reconcile(self, attempt: Attempt, run: Run) -> None:
        if attempt.status == KILLED and run.info.status == "RUNNING":
            self.client.set_terminated(run.info.run_id, KILLED)
        outcome = attempt.outcome
        if outcome is None:
            return
        status = KILLED if outcome.status == PRUNED else outcome.status
        if run.info.status != status:
            self.client.set_terminated(run.info.run_id, status)
        if outcome.status == PRUNED:
            self.client.set_tag(run.info.run_id, "vqr1.pruned", "true")
        if outcome.error is not None and ERROR_TAG not in run.data.tags:
            self.client.set_tag(run.info.run_id, ERROR_TAG, outcome.error)

    def _reconcile_unlogged(self, attempt: Attempt) -> None:
        outcome = attempt.outcome
        if outcome is None or outcome.status != FAILED:
            return
        if journal_file(attempt.folder).is_file() and journal_file(attempt.folder).stat().st_size:
            return  # its run is not delivered yet
        experiment = self.client.get_run(self.run_id).info.experiment_id
        tags = {
            "mlflow.parentRunId": self.run_id,
            "vqr1.job": attempt.job.name,
            "vqr1.job_number": str(attempt.number),
            ERROR_TAG: outcome.error or "",
            **attempt.job.swept,
        }
        run = self.client.create_run(
            experiment, run_name=f"job {attempt.number}", tags=_slugged(tags)
        )
        for key, value in attempt.job.swept.items():
            self.client.log_param(run.info.run_id, slug(key), value)
        self.client.set_terminated(run.info.run_id, FAILED)


def _slugged(tags: Mapping[str, Any]) -> dict[str, str]:
    return {slug(key): str(value) for key, value in tags.items()}
