"""Which weights are evaluated: a folder, a hub name, the tiny policy, or one of our own runs.

What it does: finds the exported checkpoint of an MLflow run by its tag `vqr1.checkpoint`, and takes
over the image sizes that the run was trained at. The best of an experiment is the finished run with
the highest `<run_metric>_best`: the metric of the checkpoint that a training exports, not that of
its last validation.

Not here: loading (`vqr1.policy.loading`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vqr1.config import EvalModelConfig, LoggerConfig
from vqr1.config.earlier import EARLIER
from vqr1.data.image_record import EXPORTS
from vqr1.errors import ModelError
from vqr1.policy.training_prompt import trained_vision_id
from vqr1.tracking.store import SQLITE, default_tracking_uri, quick_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

CHECKPOINT_TAG = "vqr1.checkpoint"


@dataclass(frozen=True)
class ModelSource:
    """What is loaded.

    Attributes:
        config: the model with its path filled in.
        name: for captions.
        run_id: the MLflow run that it comes from, or None.
        prompt: name of the prompt that the run was trained with, or None.
        rollout_tokens: most new tokens of a response when it was trained, or None.
        vision_id: whether its training had "Picture 1: " before the image; None: not known.
    """

    config: EvalModelConfig
    name: str
    run_id: str | None = None
    prompt: str | None = None
    rollout_tokens: int | None = None
    vision_id: bool | None = None


def resolve_model(config: EvalModelConfig, logger: LoggerConfig) -> ModelSource:
    """Find the checkpoint of `model.run`, where there is one.

    Args:
        config: the model.
        logger: states which MLflow store and experiment.

    Raises:
        ModelError: no such store, experiment or run, a run without an exported checkpoint, or a
            checkpoint folder that is gone.
    """
    if config.run is None:
        name = config.name if config.path is None else f"{config.name} ({config.path})"
        return ModelSource(config, name, vision_id=trained_vision_id(config))
    run, folder = exported_checkpoint(config.run, config.run_metric, logger, "model.")
    resolved = replace(
        config,
        path=str(folder),
        lora=None,
        min_pixels=_trained_number(run, "model.min_pixels") or config.min_pixels,
        max_pixels=_trained_number(run, "model.max_pixels") or config.max_pixels,
    )
    return ModelSource(
        resolved,
        f"run {run.info.run_name or run.info.run_id}",
        run.info.run_id,
        run.data.params.get("prompt.name"),
        _trained_number(run, "rollout.sampling.max_new_tokens"),
        # Runs of versions without the key had it.
        run.data.params.get("prompt.vision_id", str(EARLIER["prompt.vision_id"])) == "True",
    )


def exported_checkpoint(
    run_id: str, metric: str, logger: LoggerConfig, group: str = ""
) -> tuple[Run, Path]:
    """An MLflow run and the folder of the checkpoint that it exported.

    Args:
        run_id: id of the run, or `best`.
        metric: what `best` compares, by its value at the exported checkpoint.
        logger: states which MLflow store and experiment.
        group: dotted group of the keys `run` and `run_metric`, for errors.

    Raises:
        ModelError: no such store, experiment or run, a run without an exported checkpoint, or a
            checkpoint folder that is gone.
    """
    key = f"{group}run={run_id}"
    uri = logger.tracking_uri or default_tracking_uri()
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        raise ModelError(
            f"{key}: no MLflow database {uri}; set logger.tracking_uri to the store that the run "
            "is in"
        )
    client = quick_client(uri)
    run = (
        _best_run(client, metric, logger.experiment, group)
        if run_id == "best"
        else _run_by_id(client, run_id, uri, key)
    )
    folder = run.data.tags.get(CHECKPOINT_TAG)
    if not folder:
        raise ModelError(
            f"{key}: run {run.info.run_id} has no tag {CHECKPOINT_TAG}, so it exported no "
            "checkpoint; choose a training run that ended"
        )
    if not Path(folder).is_dir():
        raise ModelError(
            f"{key}: the checkpoint folder {folder} of run {run.info.run_id} is gone; give its new "
            f"place with {'model.path' if group else 'run'}=..."
        )
    return run, Path(folder)


def trained_sets(path: str | None) -> frozenset[str]:
    """Formats of the sets that the run trained on whose export this is; empty where no run is.

    For runs that left no record of their images.
    """
    folder = None if path is None else Path(path).expanduser()
    if folder is None or folder.name not in EXPORTS:
        return frozenset()
    config = folder.resolve().parent / "config.yaml"
    try:
        values: Any = OmegaConf.to_container(OmegaConf.load(config))
        dataset = values["dataset"]
    except (OSError, yaml.YAMLError, OmegaConfBaseException, LookupError, TypeError):
        return frozenset()  # not the configuration of a training
    parts = (dataset.get("parts") or {"": dataset}) if isinstance(dataset, dict) else {}
    return frozenset(str(part["name"]) for part in parts.values())


def _run_by_id(client: MlflowClient, run_id: str, uri: str, key: str) -> Run:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        raise ModelError(
            f"{key}: no such run in {uri}; give the id that a training printed, or `best`, and the "
            "right logger.tracking_uri"
        ) from error


def _best_run(client: MlflowClient, metric: str, experiment: str, group: str) -> Run:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        names = ", ".join(sorted(e.name for e in client.search_experiments()))
        raise ModelError(
            f"{group}run=best: no experiment {experiment!r} in the MLflow store (there are: "
            f"{names}); set logger.experiment"
        )
    name = f"{metric}_best"
    usable = [
        run
        for run in _finished_runs(client, found.experiment_id)
        if math.isfinite(run.data.metrics.get(name, math.nan)) and run.data.tags.get(CHECKPOINT_TAG)
    ]
    if not usable:
        raise ModelError(
            f"{group}run=best: no finished run of experiment {experiment!r} has both the metric "
            f"{name!r} ({group}run_metric={metric}) and an exported checkpoint"
        )
    return max(usable, key=lambda run: run.data.metrics[name])


def _finished_runs(client: MlflowClient, experiment_id: str) -> Iterator[Run]:
    """All of them: the store gives them out a page at a time."""
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            filter_string="attributes.status = 'FINISHED'",
            max_results=1000,
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _trained_number(run: Run, key: str) -> int | None:
    """A whole number of the run's configuration; None where its record has none."""
    value = run.data.params.get(key, "")
    return int(value) if value.isdigit() else None
