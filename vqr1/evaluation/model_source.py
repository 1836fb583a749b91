"""Which weights are evaluated: a folder, a hub name, the tiny policy, or one of our own runs.

What it does: finds the exported checkpoint of a run, by its folder or in MLflow by its tag
`vqr1.checkpoint`, and takes over the image sizes that it was trained at. The best of an experiment
is the finished run with the best `<run_metric>_best`, the highest or (of a metric that falls with
quality) the lowest: the metric of the checkpoint that a training exports, not that of its last
validation. Runs are compared that trained on the same data
sets: a correlation on one set is neither better nor worse than one on another.

Not here: loading (`vqr1.policy.loading`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vqr1.config import EvalModelConfig, LoggerConfig
from vqr1.config.earlier import EARLIER
from vqr1.config.plain import flatten
from vqr1.data.image_record import EXPORTS
from vqr1.errors import ModelError
from vqr1.evaluation.metrics import falling_metrics, higher_is_better
from vqr1.policy.training_prompt import trained_vision_id
from vqr1.program import command_line, override
from vqr1.tracking.outages import store_reached
from vqr1.tracking.store import SQLITE, default_tracking_uri, logged_run, quick_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

CHECKPOINT_TAG = "vqr1.checkpoint"
BEST = "best"
SIZES = frozenset({"model.min_pixels", "model.max_pixels"})
"""Keys of the image sizes, which an evaluation takes over from the run where it gives none."""
CONFIG = "config.yaml"
"""The composed configuration that a training leaves in its folder."""


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
        of_run: it is the export of a run of ours.
        note: why `run=best` took this run.
    """

    config: EvalModelConfig
    name: str
    run_id: str | None = None
    prompt: str | None = None
    rollout_tokens: int | None = None
    vision_id: bool | None = None
    of_run: bool = False
    note: str | None = None


@dataclass(frozen=True)
class ExportedRun:
    """A run of ours and what it exported.

    Attributes:
        folder: the checkpoint.
        name: of the run, for captions.
        run_id: the run in MLflow; None of a folder whose run was not logged there.
        parameters: its configuration by dotted key, as MLflow shows it.
        note: what `best` took, and why; None where the run was named.
    """

    folder: Path
    name: str
    run_id: str | None
    parameters: Mapping[str, str]
    note: str | None = None


def resolve_model(
    config: EvalModelConfig,
    logger: LoggerConfig,
    sets: Collection[str] = (),
    given: Collection[str] = (),
) -> ModelSource:
    """Find the checkpoint of `model.run`, where there is one.

    Args:
        config: the model.
        logger: states which MLflow store and experiment.
        sets: names of the data sets that are evaluated, for `best`.
        given: of `SIZES` those that the command gives, which count in place of the run's.

    Raises:
        ModelError: no such store, experiment or run, a run without an exported checkpoint, or a
            checkpoint folder that is gone.
    """
    if config.run is None:
        name = config.name if config.path is None else f"{config.name} ({config.path})"
        return ModelSource(config, name, vision_id=trained_vision_id(config))
    run = exported_run(config.run, config.run_metric, logger, "model.", sets)
    resolved = replace(
        config,
        path=str(run.folder),
        lora=None,
        min_pixels=_size(run, "model.min_pixels", config.min_pixels, given),
        max_pixels=_size(run, "model.max_pixels", config.max_pixels, given),
    )
    if resolved.min_pixels > resolved.max_pixels:
        raise ModelError(
            f"model.min_pixels={resolved.min_pixels}, model.max_pixels={resolved.max_pixels}: one "
            "is of the run; give both, the first not above the second"
        )
    return ModelSource(
        resolved,
        f"run {run.name}",
        run.run_id,
        run.parameters.get("prompt.name"),
        _trained_number(run, "rollout.sampling.max_new_tokens"),
        # Runs of versions without the key had it.
        run.parameters.get("prompt.vision_id", str(EARLIER["prompt.vision_id"])) == "True",
        of_run=True,
        note=run.note,
    )


def exported_run(
    name: str, metric: str, logger: LoggerConfig, group: str = "", sets: Collection[str] = ()
) -> ExportedRun:
    """A run and the folder of the checkpoint that it exported.

    Args:
        name: folder of the run, which is looked for first, its id in MLflow, or `best`.
        metric: what `best` compares, by its value at the exported checkpoint.
        logger: states which MLflow store and experiment.
        group: dotted group of the keys `run` and `run_metric`, for errors.
        sets: names of the data sets that `best` is wanted for; of others where it trained on none
            of them, and only where all of its kind have trained on the same.

    Raises:
        ModelError: no such store, experiment or run, a run without an exported checkpoint, a
            checkpoint folder that is gone, or a store that does not answer.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() and name != BEST:
        return _run_in_folder(folder, f"{group}run={name}")
    key = f"{group}run={name}"
    uri = logger.tracking_uri or default_tracking_uri()
    if os.sep in name:
        raise ModelError(f"{key}: no such folder; give that of a run, its id in MLflow, or `best`")
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        raise ModelError(
            f"{key}: no MLflow database {uri}; set logger.tracking_uri to the store that the run "
            "is in, or give the run's folder"
        )
    with store_reached(uri, key, "set logger.tracking_uri right, or give the run's folder"):
        client = quick_client(uri)
        note = None
        if name == BEST:
            run, note = _best_run(client, metric, logger.experiment, group, sets)
        else:
            run = logged_run(client, name, uri, key)
    return replace(_exported(run, key, group), note=note)


def _exported(run: Run, key: str, group: str) -> ExportedRun:
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
    name = run.info.run_name or run.info.run_id
    return ExportedRun(Path(folder), name, run.info.run_id, run.data.params)


def _run_in_folder(folder: Path, key: str) -> ExportedRun:
    if folder.name in EXPORTS and not (folder / CONFIG).is_file():
        folder = folder.parent
    values = _recorded(folder)
    if values is None:
        fix = "; a checkpoint is model.path=..." if (folder / "config.json").is_file() else ""
        raise ModelError(f"{key}: no folder of a run ({CONFIG} is missing or damaged){fix}")
    checkpoint = folder / EXPORTS[0]
    if not checkpoint.is_dir():
        raise ModelError(
            f"{key}: this run has exported nothing, so it has not finished; finish it with "
            f"{command_line('train', override('resume', folder))}"
        )
    parameters = {name: str(value) for name, value in flatten(values).items()}
    return ExportedRun(checkpoint.resolve(), folder.resolve().name, None, parameters)


def _recorded(folder: Path) -> dict[str, Any] | None:
    """The configuration that a run left in its folder; None where there is none."""
    try:
        values: Any = OmegaConf.to_container(OmegaConf.load(folder / CONFIG), resolve=True)
    except (OSError, yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError):
        return None
    return values if isinstance(values, dict) else None


def trained_sets(path: str | None) -> frozenset[str]:
    """Formats of the sets that the run trained on whose export this is; empty where no run is.

    For runs that left no record of their images.
    """
    folder = None if path is None else Path(path).expanduser()
    if folder is None or folder.name not in EXPORTS:
        return frozenset()
    values = _recorded(folder.resolve().parent) or {}
    dataset = values.get("dataset")
    if not isinstance(dataset, dict):
        return frozenset()  # not the configuration of a training
    parts = dataset.get("parts") or {"": dataset}
    return frozenset(str(part.get("name")) for part in parts.values())


def _best_run(
    client: MlflowClient, metric: str, experiment: str, group: str, sets: Collection[str]
) -> tuple[Run, str]:
    """The best run of those that trained on the same data, and a line about the choice."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        names = ", ".join(sorted(e.name for e in client.search_experiments()))
        raise ModelError(
            f"{group}run=best: no experiment {experiment!r} in the MLflow store (there are: "
            f"{names}); set logger.experiment"
        )
    name = f"{metric}_best"
    usable: dict[frozenset[str], list[Run]] = {}
    for run in _finished_runs(client, found.experiment_id):
        exported = run.data.tags.get(CHECKPOINT_TAG)
        if exported and math.isfinite(run.data.metrics.get(name, math.nan)):
            usable.setdefault(_data_of(run), []).append(run)
    if not usable:
        raise ModelError(
            f"{group}run=best: no finished run of experiment {experiment!r} has both the metric "
            f"{name!r} ({group}run_metric={metric}) and an exported checkpoint"
        )
    recorded = [run.data.params for runs in usable.values() for run in runs]
    falling = frozenset[str]().union(*map(falling_metrics, recorded))
    sign, word = (1, "highest") if higher_is_better(name, falling=falling) else (-1, "lowest")
    best = {
        data: max(runs, key=lambda run: sign * run.data.metrics[name])
        for data, runs in usable.items()
    }
    wanted = frozenset(sets)
    chosen = wanted if wanted in best else next(iter(best))
    if chosen != wanted and len(best) > 1:
        none = f"trained on just {'+'.join(sorted(wanted))}" if wanted else "is the one"
        listed = "; ".join(
            f"{'+'.join(sorted(data))}: {run.info.run_id} ({run.data.metrics[name]:.3f})"
            for data, run in best.items()
        )
        raise ModelError(
            f"{group}run=best: {name} of different data sets does not compare, and no run of "
            f"experiment {experiment!r} {none}; give the best of one: {listed}"
        )
    run = best[chosen]
    return run, (
        f"{group}run=best: run {run.info.run_name or run.info.run_id} ({run.info.run_id}), which "
        f"has the {word} {name} ({run.data.metrics[name]:.3f}) of the {len(usable[chosen])} "
        f"finished runs of experiment {experiment!r} that trained on {'+'.join(sorted(chosen))}"
    )


def _data_of(run: Run) -> frozenset[str]:
    """Names of the data sets that a run trained on."""
    return frozenset(run.data.params.get("dataset", "an unknown data set").split("+"))


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


def _size(run: ExportedRun, key: str, own: int, given: Collection[str]) -> int:
    return own if key in given else _trained_number(run, key) or own


def _trained_number(run: ExportedRun, key: str) -> int | None:
    """A whole number of the run's configuration; None where its record has none."""
    value = run.parameters.get(key, "")
    return int(value) if value.isdigit() else None
