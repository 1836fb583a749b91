"""A whole evaluation: of a model, of a file of predictions, or a comparison; with its report.

What needs a model is in `score_model.py`, and of questions about images in `questions.py`.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from vqr1.config import EvalConfig, MixtureConfig, ServerConfig
from vqr1.config.affects import Affects, affects
from vqr1.counted import counted
from vqr1.distributed.environment import RankInfo
from vqr1.evaluation.attributes import (
    Found,
    attribute_metrics,
    attribute_tables,
    attribute_values,
    tracked_metrics,
)
from vqr1.evaluation.consistency import (
    WORDS,
    Stability,
    compare_passes,
    consistency_metrics,
    consistency_tables,
    consistency_values,
    passes,
)
from vqr1.evaluation.file_names import file_names
from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.metrics import HEADLINE, headline, metrics_of
from vqr1.evaluation.partial_predictions import check_settings, finished_file
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.preferences import preference_tables
from vqr1.evaluation.published_report import published_tables
from vqr1.evaluation.report import Evaluation, main_table
from vqr1.evaluation.report_values import (
    summary_values,
    with_skipped,
    with_trained_on,
    with_warning,
)
from vqr1.evaluation.set_metrics import SetMetrics, set_metrics
from vqr1.evaluation.tables import to_rich
from vqr1.inference.mode_checks import held_values
from vqr1.iqa.preferences import StatedPairs
from vqr1.policy.training_prompt import prompt_notes, vision_id_note
from vqr1.tracking import RunLog, open_run_log

if TYPE_CHECKING:
    from vqr1.evaluation.score_model import ScoredModel


def run_evaluation(config: EvalConfig, composed: DictConfig, info: RankInfo) -> float | None:
    """Run one evaluation whose configuration has been checked and whose folder is held.

    Args:
        config: typed configuration.
        composed: the same as Hydra composed it, for the log.
        info: rank information of this process; where a model answers, it is connected with the
            other ranks.

    Returns:
        SRCC (the plain mean over sets), of questions their accuracy; NaN where it does not exist;
        None on all but rank 0, and for comparisons.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    if config.questions is not None:
        from vqr1.evaluation.questions import evaluate_questions

        return evaluate_questions(config, composed, info)
    if needs_model(config):
        return _evaluate_model(config, composed, info)
    if info.rank:
        # A launcher's other processes have no part in what needs no model.
        return None
    if config.predictions is not None:
        return _evaluate_file(config, composed)
    _compare(config, composed)
    return None


def needs_model(config: EvalConfig) -> bool:
    """Whether a model answers."""
    return config.predictions is None and config.compare is None


def metric_options(config: EvalConfig) -> MetricOptions:
    """How metrics are computed."""
    statistics = config.statistics
    return MetricOptions(
        tuple(statistics.curves),
        config.mode.score_rule,
        statistics.resample,
        statistics.bootstrap_draws,
        statistics.level,
        statistics.seed,
        metrics_of(config.metrics, config.target),
    )


def mode_words(config: EvalConfig) -> str:
    """The mode in words, for captions."""
    mode, sampling = config.mode, config.mode.sampling
    if mode.name == "greedy":
        how = "greedy answer"
    elif mode.name == "expected":
        how = "expected score"
    elif mode.name == "levels":
        how = "expectation over words of levels"
    else:
        how = (
            f"mean of {mode.samples} sampled answers (temperature {sampling.temperature:g}, "
            f"top-k {sampling.top_k}, top-p {sampling.top_p:g}, seed {config.seed})"
        )
    if sampling.repetition_penalty != 1:
        how += f", repetition penalty {sampling.repetition_penalty:g}"
    held = held_values(config.backend, mode)
    if held is not None:
        how += f", {held}"
    return f"{config.prompt.name.replace('_', '-')} prompt, {how}, {config.split} images"


def _evaluate_model(config: EvalConfig, composed: DictConfig, info: RankInfo) -> float | None:
    # Loading torch models is the slow part of starting; files need none of it.
    from vqr1.evaluation.score_model import score_model

    console = new_console()
    started = time.monotonic()
    scored = score_model(config, console, composed, info)
    again = _score_again(config, console, composed, info) if config.consistency else {}
    if scored is None:
        return None
    config = replace(config, run_dir=str(scored.run_dir))
    if scored.source.prompt not in (None, config.prompt.name):
        console.print(
            f"note: the run was trained with prompt={scored.source.prompt}, it is evaluated with "
            f"prompt={config.prompt.name}"
        )
    model = scored.source.config
    server = isinstance(config.backend, ServerConfig)
    note = vision_id_note(config.prompt, scored.source.vision_id)
    for line in (note, *prompt_notes(config.prompt, model, hub=not server)):
        if line is not None:
            console.print(line)
    # The record holds what was used, also where a run or a server has given it.
    for key, value in scored.used.items():
        OmegaConf.update(composed, key, value, force_add=True)
    caption = _caption(config, f"{scored.source.name}, {mode_words(config)}")
    found = compare_passes(scored.predictions, again, config.mode.score_rule) if again else {}
    return _report(
        config, composed, scored.predictions, caption, started, scored, found, scored.tables
    )


def _score_again(
    config: EvalConfig, console: Console, composed: DictConfig, info: RankInfo
) -> dict[str, Predictions]:
    """Predictions of the passes of the consistency report, by name; empty on all but rank 0."""
    from vqr1.evaluation.score_model import score_model

    found = {}
    for name, again in passes(config).items():
        if info.rank == 0:
            console.print(f"consistency: {WORDS[name]}")
        scored = score_model(again, console, composed, info)
        if scored is not None:
            found[name] = scored.predictions
    return found


def _evaluate_file(config: EvalConfig, composed: DictConfig) -> float:
    from vqr1.evaluation.labels import label_tables
    from vqr1.evaluation.prediction_file import read_predictions

    started = time.monotonic()
    assert config.predictions is not None
    path = Path(config.predictions).expanduser()
    labels = label_tables(config.dataset, config.split) if config.labels == "dataset" else None
    predictions = read_predictions(path, config.columns, labels)
    if labels is not None:
        predictions = replace(predictions, pairs=_file_pairs(config, labels))
    check_settings(Path(config.run_dir), _file_settings(config, path))
    words = f"predictions from {path.name}, {predictions.samples} score(s) an image"
    if labels is not None:
        words += f", {config.split} images"
    caption = _caption(config, words)
    return _report(config, composed, predictions, caption, started, None, tables=labels)


def _file_pairs(config: EvalConfig, labels: Mapping[str, pd.DataFrame]) -> dict[str, StatedPairs]:
    """The pairs of the data sets, where they are evaluated."""
    from vqr1.evaluation.preferences import labelled_pairs

    return labelled_pairs(config.dataset, labels) if config.target == "pairs" else {}


def _file_settings(config: EvalConfig, path: Path) -> dict[str, Any]:
    """What an evaluation of a file is of: another one does not take its folder."""
    settings: dict[str, Any] = {
        "predictions": str(path.resolve()),
        "labels": config.labels,
        **{f"columns.{key}": value for key, value in asdict(config.columns).items()},
    }
    if config.labels == "dataset":
        dataset = config.dataset
        sets = dataset.parts if isinstance(dataset, MixtureConfig) else {dataset.set_name: dataset}
        settings |= {"split": config.split}
        settings |= {f"labels.{key}.root": part.root for key, part in sets.items()}
    return settings


def _caption(config: EvalConfig, words: str) -> str:
    return f"{config.suite}: {words}" if config.suite else words


def _report(
    config: EvalConfig,
    composed: DictConfig,
    predictions: Predictions,
    caption: str,
    started: float,
    scored: ScoredModel | None,
    consistency: Mapping[str, Mapping[str, Stability]] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> float:
    """Compute, write and print everything; returns the SRCC."""
    from vqr1.evaluation.labels import fitted_note
    from vqr1.evaluation.prediction_file import keep_predictions
    from vqr1.evaluation.report_writer import write_outcome

    options = metric_options(config)
    console = new_console()
    skipped = {} if scored is None else scored.skipped
    sets = tuple(
        _with_facts(set_metrics(part, options), scored, name)
        for name, part in predictions.by_dataset().items()
    )
    if scored is not None or config.labels == "dataset":
        sets = tuple(with_warning(m, fitted_note(config.dataset, m.dataset)) for m in sets)
    evaluation = Evaluation(caption, sets, options)
    console.print(to_rich(main_table(evaluation, detailed=False)))
    for table in preference_tables(evaluation):
        console.print(to_rich(table))
    attributes: Found = {}
    if tables:
        attributes = attribute_metrics(predictions, config.answer.form, tables, options)
    moved = [*attribute_tables(attributes), *consistency_tables(consistency or {})]
    for table in moved:
        console.print(to_rich(table))
    if config.report.published:
        for table in published_tables(evaluation):
            console.print(to_rich(table))
    means = evaluation.means
    overall = means.plain[HEADLINE] if means is not None else sets[0].srcc
    with open_log(config, composed, "+".join(metrics.dataset for metrics in sets)) as run_log:
        load_image = None if scored is None else scored.load_image
        write_outcome(evaluation, predictions, config.report, run_log, load_image, moved)
        run_log.metrics(consistency_metrics(consistency or {}) | tracked_metrics(attributes))
        if skipped:
            run_log.metrics({f"data/skipped/{name}": float(n) for name, n in skipped.items()})
        finished = finished_file(run_log.run_dir)
        if finished is not None:
            run_log.keep(finished.name)
        else:
            keep_predictions(predictions, run_log, "evaluated")
        values = {
            **summary_values(evaluation, overall, skipped),
            "predictions": config.predictions or (finished and str(finished)),
            **({"attributes": attribute_values(attributes)} if attributes else {}),
            **({"consistency": consistency_values(consistency)} if consistency else {}),
        }
        end_log(run_log, values, started, console)
    return overall.value


def _with_facts(metrics: SetMetrics, scored: ScoredModel | None, name: str) -> SetMetrics:
    """A set's metrics with what its images and the model's training state of them."""
    if scored is None:
        return metrics
    metrics = with_skipped(metrics, scored.skipped.get(name, 0))
    metrics = with_trained_on(metrics, scored.trained_on.get(name))
    for sentence in scored.excluded.get(name, ()):
        metrics = with_warning(metrics, sentence)
    return with_warning(metrics, scored.unknown.get(name))


def _compare(config: EvalConfig, composed: DictConfig) -> None:
    from vqr1.evaluation.compare import compare_runs, read_runs
    from vqr1.evaluation.compare_report import comparison_tables, comparison_values
    from vqr1.evaluation.plots import forest_plot
    from vqr1.evaluation.report_writer import write_tables, write_values

    started = time.monotonic()
    assert config.compare is not None
    options = metric_options(config)
    console = new_console()
    files = [str(Path(path).expanduser().resolve()) for path in config.compare]
    runs = read_runs(config.compare)
    check_settings(Path(config.run_dir), {"compare": sorted(files)})
    found = compare_runs(runs, options)
    tables = comparison_tables(found, options, runs)
    for table in tables:
        console.print(to_rich(table))
    values = comparison_values(found)
    with open_log(config, composed, "comparison") as run_log:
        write_tables(tables, "Comparison", run_log)
        write_values(values, run_log)
        plots = file_names(comparison.dataset for comparison in found)
        for comparison in found:
            if config.report.plots:
                rows = list(zip(comparison.names, comparison.metrics, strict=True))
                run_log.plot(
                    f"plots/comparison_{plots[comparison.dataset]}",
                    forest_plot(
                        rows,
                        headline().label,
                        f"{comparison.dataset}, {counted(comparison.images, 'image')}",
                    ),
                )
        end_log(run_log, {"compared": config.compare, "sets": values}, started, console)


def compare_sweep(
    config: EvalConfig,
    composed: DictConfig,
    folder: Path,
    settings: Mapping[str, Mapping[str, Predictions]],
) -> None:
    """Compare the settings of a sweep whose jobs repeat them with several seeds.

    Args:
        config: typed configuration.
        composed: the same as Hydra composed it, for the log.
        folder: the sweep's.
        settings: by setting and seed, the test predictions of its jobs.
    """
    from vqr1.evaluation.compare_settings import compare_settings, settings_tables, settings_values
    from vqr1.evaluation.plots import forest_plot
    from vqr1.evaluation.report_writer import write_tables, write_values

    started = time.monotonic()
    options = metric_options(config)
    console = new_console()
    check_settings(Path(config.run_dir), {"compare": [str(folder)]})
    found = compare_settings(settings, options)
    tables, values = settings_tables(found, options), settings_values(found)
    for table in tables:
        console.print(to_rich(table))
    with open_log(config, composed, "comparison") as run_log:
        write_tables(tables, "Comparison", run_log)
        write_values(values, run_log)
        plots = file_names(one.dataset for one in found)
        for one in found if config.report.plots else ():
            rows = [(row.name, row.mean) for row in one.settings]
            title = f"{one.dataset}, {counted(one.images, 'image')}"
            run_log.plot(f"plots/comparison_{plots[one.dataset]}", forest_plot(rows, "SRCC", title))
        end_log(run_log, {"compared": config.compare, "sets": values}, started, console)


@contextmanager
def open_log(config: EvalConfig, composed: DictConfig, sets: str) -> Iterator[RunLog]:
    """The run's log, its configuration kept; closed with a true status however the block ends."""
    tags = {"vqr1.kind": "evaluation"}
    with open_run_log(config.logger, Path(config.run_dir), f"eval/{sets}", tags) as run_log:
        values: Any = OmegaConf.to_container(composed, resolve=True)
        flat = {
            str(key): value[0]
            for key, value in pd.json_normalize(values).items()
            if affects(EvalConfig, str(key)) >= Affects.NOTHING
        }
        run_log.config(OmegaConf.to_yaml(composed, resolve=True), flat)
        yield run_log


def end_log(run_log: RunLog, values: dict[str, Any], started: float, console: Console) -> None:
    """Write `summary.json` and `report.html`, and print where everything is."""
    from vqr1.report_page.write import add_report

    seconds = round(time.monotonic() - started, 1)
    run_log.summary({**values, "seconds": seconds, "mlflow_run_id": run_log.mlflow_run_id})
    page = add_report(run_log.run_dir, run_log.keep)
    if run_log.mlflow_run_id is not None:
        console.print(f"MLflow run {run_log.mlflow_run_id} in {run_log.tracking_uri}")
    console.print(f"took {seconds:.0f} s; report: {page or run_log.run_dir / 'report.md'}")
    console.print(str(run_log.run_dir), highlight=False)


def new_console() -> Console:
    """The terminal; wide enough for the tables where the output goes into a file."""
    # Paths, names and answers are printed as they are: [x] is no markup, :x: is no emoji.
    width = None if sys.stdout.isatty() else 130
    return Console(soft_wrap=True, width=width, markup=False, emoji=False)
