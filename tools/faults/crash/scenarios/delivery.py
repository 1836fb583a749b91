"""The journal of a run, and what of it the MLflow server has."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tools.faults.crash.explore import Known, LostError, Note, Scenario
from vqr1.tracking import delivery
from vqr1.tracking.delivery import Delivery
from vqr1.tracking.journal import Journal

STEPS = 3


class Server:
    """What is used of an MLflow server; it keeps what it was sent."""

    def __init__(self) -> None:
        self.runs: dict[str, str] = {}
        self.metrics: list[tuple[str, str, int]] = []
        self.status: dict[str, str] = {}
        self.note: Note = lambda value: None

    def __deepcopy__(self, memo: Any) -> Server:
        """What it has at this moment."""
        other = Server()
        other.runs, other.status = dict(self.runs), dict(self.status)
        other.metrics = list(self.metrics)
        return other

    def search_runs(self, experiments: Sequence[str], query: str, max_results: int) -> list[Any]:
        """Runs of a journal's tag."""
        return [_run(run) for tag, run in self.runs.items() if f"'{tag}'" in query]

    def create_run(self, experiment: str, time: int, tags: dict[str, str]) -> Any:
        """A new run."""
        run = f"run{len(self.runs)}"
        self.runs[tags["vqr1.journal"]] = run
        self._sent()
        return _run(run)

    def log_batch(self, run: str, metrics: Any, params: Any, tags: Any) -> None:
        """Metrics alone are compared."""
        self.metrics += [(run, metric.key, metric.step) for metric in metrics]
        self._sent()

    def update_run(self, run: str, status: str) -> None:
        """Another status."""
        self.status[run] = status

    def set_terminated(self, run: str, status: str, time: int) -> None:
        """The last status."""
        self.status[run] = status
        self._sent()

    def get_metric_history(self, run: str, key: str) -> list[Any]:
        """Steps of a metric."""
        return [SimpleNamespace(step=s) for r, k, s in self.metrics if (r, k) == (run, key)]

    def _sent(self) -> None:
        self.note(copy.deepcopy(self))


def _run(run: str) -> Any:
    return SimpleNamespace(info=SimpleNamespace(run_id=run))


class Journalled(Scenario):
    """A run's metrics into the journal, and to the server between two steps."""

    name = "journal and deliver"
    tears = 4

    def prepare(self, folder: Path) -> None:
        """A run directory."""
        (folder / "run").mkdir()

    def act(self, folder: Path, note: Note) -> None:
        """The server notes what it has whenever that changes."""
        server = Server()
        server.note = note
        self._log(folder / "run", server)

    def _log(self, run: Path, server: Server) -> None:
        """As a run that is started, or started again after a power loss before any checkpoint."""
        client = mock.patch.object(delivery, "quick_client", return_value=server)
        prepared = mock.patch.object(delivery, "prepare_experiment", return_value="0")
        with client, prepared:
            journal = Journal(run)
            if journal.resume() is None:
                journal.start("experiment", {"mlflow.runName": "name"}, "http://server")
            sending = Delivery(run, "http://server")
            for step in range(1, STEPS + 1):
                journal.metrics({"loss": step / 8}, step)
                while sending.send_batch():
                    pass
            journal.status("FINISHED")
            while sending.send_batch():
                pass
            journal.close()

    def recover(self, folder: Path, known: Known) -> None:
        """Logged again, and sent to the server that knew what it knew: one run, no value twice."""
        server = copy.deepcopy(known.done[-1]) if known.done else Server()
        assert isinstance(server, Server)
        (folder / "run").mkdir(exist_ok=True)
        self._log(folder / "run", server)
        steps = Counter(server.metrics)
        if steps != Counter(("run0", "loss", step) for step in range(1, STEPS + 1)):
            raise LostError(f"the server has {server.metrics}")
        if len(server.runs) != 1 or server.status != {"run0": "FINISHED"}:
            raise LostError(f"the server has runs {server.runs} {server.status}")
