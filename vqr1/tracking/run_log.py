"""One run's log: files in the run directory always, MLflow when configured.

Every table, figure and text is first a file in the run directory, so that a run without MLflow
loses nothing; with MLflow the same file becomes an artifact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from vqr1.config import LoggerConfig
from vqr1.tracking.store import default_tracking_uri, prepare_experiment, slug

if TYPE_CHECKING:
    # Lightning takes seconds to import; a command that keeps no metrics does without it.
    import pandas as pd
    from lightning.pytorch.loggers import Logger, MLFlowLogger
    from matplotlib.figure import Figure


class RunLog:
    """Writes what a run produces.

    Args:
        run_dir: folder for files.
        logger: Lightning logger that takes the metrics; None keeps no metrics.
    """

    def __init__(self, run_dir: Path, logger: Logger | None) -> None:
        self.run_dir = run_dir
        self.logger = logger
        self._mlflow: MLFlowLogger | None = None if logger is None else _as_mlflow(logger)
        self._open = True
        run_dir.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the run with a true status, however it ended."""
        if kind is None:
            self.finish("FINISHED")
        else:
            # Lightning turns an interrupt into SystemExit.
            killed = issubclass(kind, KeyboardInterrupt | SystemExit)
            self.finish("KILLED" if killed else "FAILED")

    @property
    def mlflow_run_id(self) -> str | None:
        """The MLflow run's id, or None without MLflow."""
        return None if self._mlflow is None else self._mlflow.run_id

    @property
    def tracking_uri(self) -> str | None:
        """Address of the MLflow store, or None without MLflow."""
        return None if self._mlflow is None else self._mlflow._tracking_uri

    def config(self, config_yaml: str, values: Mapping[str, Any]) -> None:
        """Keep the configuration as `config.yaml` and, under dotted keys, as parameters.

        Lightning cuts parameters after 250 characters; the file holds them whole.
        """
        import pandas as pd

        self.text("config.yaml", config_yaml)
        if self.logger is None:
            return
        flat = pd.json_normalize(dict(values), sep=".").iloc[0].to_dict()
        self.logger.log_hyperparams({slug(str(key)): str(value) for key, value in flat.items()})

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics at a step."""
        if self.logger is not None:
            self.logger.log_metrics({slug(key): value for key, value in values.items()}, step)
            self.logger.save()

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the MLflow run."""
        if self._mlflow is not None:
            for key, value in values.items():
                self._mlflow.experiment.set_tag(self.mlflow_run_id, slug(key), value)

    def text(self, name: str, content: str) -> Path:
        """Write a text file `name` (a relative path)."""
        path = self._path(name)
        path.write_text(content, encoding="utf-8")
        return self._artifact(path, name)

    def table(self, name: str, table: pd.DataFrame) -> Path:
        """Write `name`.csv; in MLflow also as a table that its page shows."""
        path = self._path(f"{name}.csv")
        table.to_csv(path, index=False)
        if self._mlflow is not None:
            self._mlflow.experiment.log_table(
                self.mlflow_run_id, table.astype(object).where(table.notna(), None), f"{name}.json"
            )
        return self._artifact(path, f"{name}.csv")

    def figure(self, name: str, figure: Figure) -> Path:
        """Write `name`.png."""
        path = self._path(f"{name}.png")
        figure.savefig(path, dpi=120, bbox_inches="tight")
        return self._artifact(path, f"{name}.png")

    def summary(self, values: Mapping[str, Any]) -> Path:
        """Write `summary.json`: what a script that started this run wants to read."""
        return self.text("summary.json", json.dumps(values, indent=2, allow_nan=False) + "\n")

    def finish(self, status: str) -> None:
        """Close the run with an MLflow status: FINISHED, FAILED or KILLED; once is enough."""
        if not self._open:
            return
        self._open = False
        if self.logger is not None:
            self.logger.save()
        if self._mlflow is not None:
            self._mlflow.experiment.set_terminated(self.mlflow_run_id, status)

    def _path(self, name: str) -> Path:
        path = self.run_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _artifact(self, path: Path, name: str) -> Path:
        if self._mlflow is not None:
            folder = str(Path(name).parent)
            self._mlflow.experiment.log_artifact(
                self.mlflow_run_id, str(path), None if folder == "." else folder
            )
        return path


def _as_mlflow(logger: Logger) -> MLFlowLogger | None:
    from lightning.pytorch.loggers import MLFlowLogger

    return logger if isinstance(logger, MLFlowLogger) else None


def open_run_log(
    config: LoggerConfig, run_dir: Path, default_name: str, tags: Mapping[str, str] | None = None
) -> RunLog:
    """Start logging a run.

    Args:
        config: which logger.
        run_dir: the run's folder.
        default_name: name of the run where the configuration gives none.
        tags: tags beside those of the configuration.
    """
    if config.name == "none":
        return RunLog(run_dir, None)
    from vqr1.tracking.loggers import OpenMLFlowLogger, csv_logger

    if config.name == "csv":
        return RunLog(run_dir, csv_logger(run_dir))
    uri = config.tracking_uri or default_tracking_uri()
    prepare_experiment(uri, config.experiment)
    logger = OpenMLFlowLogger(
        experiment_name=config.experiment,
        run_name=slug(config.run_name or default_name),
        tracking_uri=uri,
        tags={slug(key): value for key, value in {**(tags or {}), **config.tags}.items()},
    )
    return RunLog(run_dir, logger)
