"""Keys of `python eval.py` (`conf/eval.yaml`)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vqr1.config.affects import Affects
from vqr1.config.answer import AnyAnswer
from vqr1.config.backend import AnyBackend
from vqr1.config.data import AnyDataset, LoaderConfig
from vqr1.config.machine import HardwareConfig, LoggerConfig
from vqr1.config.metrics import OwnMetrics
from vqr1.config.model import ModelConfig, PromptConfig, SamplingConfig
from vqr1.config.pairs import Target
from vqr1.config.types import STRICT_KEYS, NonNegativeInt, PositiveInt, Seed

Perturbation = Literal["flip", "crop", "resize", "jpeg"]


@dataclass(config=STRICT_KEYS, kw_only=True)
class EvalModelConfig(ModelConfig):
    """The model that is evaluated: as for training, or one of our runs."""

    run: Annotated[str | None, Affects.RESULTS] = None
    """Run whose exported checkpoint is evaluated, with the image sizes of its training where the
    command gives none (`min_pixels`, `max_pixels`): its folder, its id in MLflow, or `best`, the
    finished run of `logger.experiment` whose exported checkpoint has the highest `run_metric`, of
    those that trained on the same data sets. null: `path`."""
    run_metric: Annotated[str, Affects.RESULTS] = "val/srcc"
    """Metric that `run=best` compares, higher is better: the exported checkpoint's, which training
    logs under this name with `_best` at the end."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class EvalModeConfig:
    """How an image is asked for its score."""

    name: Literal["sampled", "greedy", "expected", "levels"]
    """`sampled`: mean over sampled answers; `greedy`: one answer, the likeliest token each time;
    `expected`: expectation over the probabilities of the answer's numbers (after greedy reasoning,
    where the prompt asks for reasoning); `levels`: expectation over the first tokens of the
    answer's words, in one pass (forms with `answer.levels`)."""
    samples: PositiveInt = 1
    """Answers averaged for each image (`sampled` only)."""
    score_rule: Annotated[Literal["valid_mean", "all_valid"], Affects.SCORES] = "valid_mean"
    """Which images have a score: those with at least one valid answer (its mean over the valid
    ones), or those with valid answers only. An invalid answer never becomes a number."""
    sampling: SamplingConfig
    """How one answer is drawn; all but `sampled` set the temperature to 0."""
    micro_batch_tokens: Annotated[PositiveInt, Affects.ROUNDING] = 16384
    """Most tokens computed together; does not change any metric."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class PredictionColumns:
    """Column names of a predictions file, and which way its numbers point."""

    image: str = "image"
    """Image name."""
    score: str = "score"
    """Predicted score; empty for an invalid answer."""
    mos: str = "mos"
    """MOS."""
    dataset: str = "dataset"
    """Data set; a file without this column holds one set."""
    sample: str = "sample"
    """Number of the answer, where an image has several rows."""
    reference: str = "reference"
    """Reference that the image derives from; optional."""
    distortion: str = "distortion"
    """Name of the distortion; optional."""
    score_lower_is_better: bool = False
    """The scores fall with quality (NIQE, BRISQUE): they are turned."""
    mos_lower_is_better: bool = False
    """The file's MOS fall with quality (DMOS): they are turned."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class StatisticsConfig:
    """What is computed."""

    curves: list[Literal["logistic4", "logistic5"]] = field(
        default_factory=lambda: ["logistic4", "logistic5"]
    )
    """Logistic maps to fit before PLCC and RMSE; the first is the one of the plots."""
    bootstrap_draws: NonNegativeInt = 1000
    """Draws of the intervals; 0 computes none."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Confidence level of intervals and comparisons."""
    resample: Literal["auto", "images", "references"] = "auto"
    """What the bootstrap draws: `auto` takes references where images share at least five."""
    seed: Seed = 0
    """Seed of the draws."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class ReportConfig:
    """What is written beside the metrics."""

    plots: bool = True
    """Scatter, residuals and calibration of each set."""
    worst: NonNegativeInt = 24
    """Images on the contact sheet of the worst errors; 0 makes none. Needs the images."""
    published: bool = True
    """Show the published metrics of each set beside ours."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class EvalConfig:
    """`python eval.py`."""

    dataset: AnyDataset
    split: Annotated[Literal["all", "test", "val", "train"], Affects.ANSWERS]
    """Which images: a split of each set, or `all` of them, whatever the split. A predictions
    file with its own MOS is evaluated whole."""
    model: Annotated[EvalModelConfig, Affects.ANSWERS]
    prompt: Annotated[PromptConfig, Affects.ANSWERS]
    answer: Annotated[AnyAnswer, Affects.ANSWERS]
    mode: Annotated[EvalModeConfig, Affects.ANSWERS]
    backend: Annotated[AnyBackend, Affects.ANSWERS]
    """Who answers. With a server, `model` decides the image sizes only."""
    hardware: HardwareConfig
    logger: Annotated[LoggerConfig, Affects.NOTHING]
    loader: LoaderConfig
    statistics: StatisticsConfig
    report: ReportConfig
    columns: PredictionColumns
    predictions: str | None = None
    """CSV or Parquet file with predictions to evaluate: no model is loaded."""
    labels: Literal["file", "dataset"] = "file"
    """With `predictions`: MOS come from the file's own column, or from `split` of
    `dataset`, matched by image name (its images need not be there)."""
    target: Target = "mos"
    """`pairs`: how well the scores order the pairs of `dataset.pairs` too, beside MOS."""
    compare: list[str] | None = None
    """Run directories (or predictions files) of the same images to compare, or one sweep's folder,
    whose settings are compared: nothing is scored."""
    questions: str | None = None
    """JSON file of questions about images (LLVisionQA, LLDescribe, DepictQA:
    `vqr1.data.questions`): the model is asked these, greedily, and no image is scored. `prompt`
    gives the system message only, `mode` the sampling but for the draw."""
    questions_root: Annotated[str | None, Affects.LOCATION] = None
    """Folder of the images of `questions`; null: the folder of the file."""
    output: Literal["csv", "parquet"] = "csv"
    """Format of the finished predictions."""
    perturbation: Annotated[Perturbation | None, Affects.ANSWERS] = None
    """Alter each image before it is resized (`vqr1.evaluation.consistency`); null: as it is."""
    consistency: Annotated[bool, Affects.NOTHING] = False
    """Score all images again under each perturbation, with another wording of the prompt and with
    another seed, and report how the scores move."""
    suite: str | None = None
    """Name of the suite, for the caption; set by `experiment=eval_...`."""
    seed: Annotated[Seed, Affects.ANSWERS]
    """Seed of the sampled answers."""
    metrics: OwnMetrics = field(default_factory=dict)
    """Metrics beside those of `vqr1.evaluation.metrics`, by name (docs/extending.md)."""
    run_dir: Annotated[str, Affects.START]
    """Folder of predictions and report. Give the folder of a stopped evaluation to continue it."""
