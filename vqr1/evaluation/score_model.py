"""The part of an evaluation that needs a model: find it, ask it of all images, join with MOS.

Who answers, and how ranks share and resume the work, is `vqr1.inference`. Not here: results and the
report (`run.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console

from vqr1.config import EvalConfig, MixtureConfig, PromptConfig, ServerConfig
from vqr1.config.model_defaults import default_of, lines_about, source_of, taken_from_model
from vqr1.counted import counted
from vqr1.data.image_record import FILE, RecordedImage, record_of_model
from vqr1.data.images import load_image
from vqr1.data.labelled_set import LabelledSet
from vqr1.distributed.collectives import broadcast_from_rank0, raise_on_all_ranks
from vqr1.distributed.environment import RankInfo
from vqr1.evaluation.labels import with_labels
from vqr1.evaluation.model_source import SIZES, ModelSource, resolve_model, trained_sets
from vqr1.evaluation.partial_predictions import (
    check_settings,
    finished_file,
    merge,
    partials,
    plan_digest,
    read_partials,
    remaining,
    with_present_labels,
)
from vqr1.evaluation.planned_images import PlannedImages
from vqr1.evaluation.prediction_file import PredictionStream, read_predictions
from vqr1.evaluation.predictions import Predictions, with_pairs
from vqr1.evaluation.preferences import stated_pairs
from vqr1.evaluation.protocol import predictions_of, score_batches
from vqr1.evaluation.trained_on import TrainedOn, TrainingImages
from vqr1.inference.parallel import Progress as Advance
from vqr1.inference.parallel import share_work
from vqr1.inference.settings import answer_settings
from vqr1.inference.setup import InferenceSetup
from vqr1.iqa.preferences import StatedPairs
from vqr1.policy.training_prompt import trained_vision_id
from vqr1.program import override, setting
from vqr1.records import RankingBatch


@dataclass(frozen=True)
class ScoredModel:
    """What scoring gives.

    Attributes:
        predictions: every image once.
        source: the model.
        run_dir: where the predictions lie.
        load_image: image of a row of a set's table.
        skipped: by set, images that were excluded: missing, empty or not decodable.
        trained_on: by set, how many of the images the model was trained on; empty where its
            training left no record of them.
        unknown: by set, why that is unknown although a training of ours made the model.
        excluded: by set, what was excluded before scoring since the model was trained on it.
        used: values by dotted key that were taken from the run or the server, for the record.
        tables: the sets' label tables, by name.
    """

    predictions: Predictions
    source: ModelSource
    run_dir: Path
    load_image: Callable[[str, int], Image.Image]
    skipped: dict[str, int]
    trained_on: dict[str, TrainedOn]
    unknown: dict[str, str]
    excluded: dict[str, tuple[str, ...]]
    used: dict[str, Any]
    tables: dict[str, pd.DataFrame]


def continued_with(run_dir: Path) -> str:
    """What to do after a process has died."""
    return f"start the evaluation again with {override('run_dir', run_dir)} to continue it"


def score_model(
    config: EvalConfig, console: Console, composed: DictConfig, info: RankInfo
) -> ScoredModel | None:
    """Score all images that are not scored yet; None on all but rank 0.

    Args:
        config: typed configuration.
        console: where progress is printed.
        composed: the same as Hydra composed it, where it shows which values the model gave.
        info: rank information of this process, which is connected with the others.

    Raises:
        UserError: model, images or an evaluation to continue are not as they should be.
    """
    source, config = resolved_model(config, composed)
    # A damaged record is found before any image is scored.
    history = _History.of(None if isinstance(config.backend, ServerConfig) else source.config.path)
    # Hydra names it after the time, which ranks may read at different seconds.
    run_dir = Path(broadcast_from_rank0(lambda: config.run_dir))
    images = raise_on_all_ranks(lambda: PlannedImages(config))
    pairs = raise_on_all_ranks(lambda: _pairs(config, images))
    broadcast_from_rank0(lambda: check_settings(run_dir, _settings(config, images)))
    if info.rank == 0:
        for line in (source.note, *lines_of_defaults(config, composed)):
            if line is not None:
                console.print(line)
    finished = broadcast_from_rank0(lambda: finished_file(run_dir))
    if finished is not None:
        if info.rank:
            return None
        partials(run_dir).remove()
        console.print(f"already scored: {finished}")
        return _scored(config, read_predictions(finished), source, run_dir, images, history, pairs)
    left = broadcast_from_rank0(lambda: _left(images, run_dir, console))
    share_work(
        partial(_score, config, images, run_dir),
        partial(_open_and_score, config, run_dir),
        left,
        [len(batch.images) for batch in images.plan],
        info,
        config.hardware.devices,
        label="images",
        resume_with=continued_with(run_dir),
    )
    if info.rank:
        return None
    merged = merge(run_dir, images.plan, f".{config.output}")
    return _scored(config, merged, source, run_dir, images, history, pairs)


def _score(
    config: EvalConfig, images: PlannedImages, run_dir: Path, info: RankInfo, numbers: list[int],
    advance: Advance,
) -> None:  # fmt: skip
    score_share(config, images, run_dir, info, numbers, advance)


def _open_and_score(
    config: EvalConfig, run_dir: Path, info: RankInfo, numbers: list[int], advance: Advance
) -> None:
    """A started process opens the images anew."""
    score_share(config, PlannedImages(config), run_dir, info, numbers, advance)


def score_share(
    config: EvalConfig,
    images: PlannedImages,
    run_dir: Path,
    info: RankInfo,
    numbers: Sequence[int],
    on_progress: Advance | None = None,
) -> None:
    """Score some batches and append them to this rank's partial file.

    Args:
        config: the evaluation, its model resolved.
        images: its images.
        run_dir: where the partial file lies.
        info: rank information of this process.
        numbers: batches to score.
        on_progress: gets the number of images of each finished batch.
    """
    if not numbers:
        return
    setup = InferenceSetup.of(config)
    backend, request = setup.open(info.local_rank), setup.request

    def scored(batch: RankingBatch) -> Predictions:
        return predictions_of(batch, backend.reply(batch.prompts.images, request), request)

    stream = PredictionStream(partials(run_dir).of(info.rank))
    try:
        for predictions in score_batches(scored, images.batches(numbers), on_progress):
            stream.append(with_labels(predictions, images.tables))
    finally:
        stream.close()


def resolved_model(config: EvalConfig, composed: DictConfig) -> tuple[ModelSource, EvalConfig]:
    """What is evaluated, a checkpoint or the model of a server, and the configuration naming it.

    The configuration's `prompt.vision_id` is then true or false.

    Raises:
        ModelError: no such run or checkpoint, or a server that cannot be used.
    """
    if not isinstance(config.backend, ServerConfig):
        given = SIZES - taken_from_model(composed).keys()
        source = resolve_model(config.model, config.logger, _set_names(config), given)
        prompt = _asked(config.prompt, source)
        config = replace(config, model=source.config, prompt=prompt)
        return source, _as_trained(config, source, composed) if source.of_run else config
    backend = InferenceSetup.of(config).named().backend
    assert isinstance(backend, ServerConfig)
    source = ModelSource(
        config.model,
        f"{backend.model} at {backend.url}",
        vision_id=trained_vision_id(config.model, hub=False),
    )
    return source, replace(config, backend=backend, prompt=_asked(config.prompt, source))


def _set_names(config: EvalConfig) -> tuple[str, ...]:
    dataset = config.dataset
    return tuple(dataset.parts) if isinstance(dataset, MixtureConfig) else (dataset.set_name,)


def _asked(prompt: PromptConfig, source: ModelSource) -> PromptConfig:
    """The prompt as the model's training had it, where the command asks nothing else."""
    vision_id = prompt.vision_id
    return replace(prompt, vision_id=bool(source.vision_id) if vision_id is None else vision_id)


def _as_trained(config: EvalConfig, source: ModelSource, composed: DictConfig) -> EvalConfig:
    """The values that belong to a run's model, which is known only now, where nothing set them."""
    taken = taken_from_model(composed)
    values = source_of({"name": config.model.name, "path": config.model.path}).values
    if "model.dtype" in taken:
        dtype = default_of("dtype", values, adapters=False, training=False)
        config = replace(config, model=replace(config.model, dtype=dtype))
    if "mode.sampling.max_new_tokens" in taken:
        # A run that was given longer responses needs them now too.
        longest = max(int(values["answer_tokens"]), source.rollout_tokens or 0)
        sampling = replace(config.mode.sampling, max_new_tokens=longest)
        config = replace(config, mode=replace(config.mode, sampling=sampling))
    return config


def lines_of_defaults(config: EvalConfig, composed: DictConfig) -> list[str]:
    """What is printed of the values that nothing but the model has set."""
    if config.model.run is None:
        # With a server the model gives image sizes and the length of an answer only.
        return lines_about(composed, if_other=isinstance(config.backend, ServerConfig))
    return [
        f"from the model of run {config.model.run}: model.dtype={config.model.dtype}, "
        f"model.max_pixels={config.model.max_pixels}, model.min_pixels={config.model.min_pixels}, "
        f"mode.sampling.max_new_tokens={config.mode.sampling.max_new_tokens}"
    ]


def _left(images: PlannedImages, run_dir: Path, console: Console) -> list[int]:
    left = remaining(images.plan, read_partials(run_dir))
    total = sum(len(batch.images) for batch in images.plan)
    if len(left) < len(images.plan):
        done = total - sum(len(images.plan[number].images) for number in left)
        console.print(f"continuing: {done} of {total} images are scored")
    else:
        again = setting("run_dir", run_dir)
        console.print(f"{counted(total, 'image')}; if this stops, continue it with {again}")
    return left


@dataclass(frozen=True)
class _History:
    """What is known of the training of the model whose answers are scored.

    Attributes:
        recorded: its images; None without a record.
        sets: formats of the sets that it trained on, where that is all that is known.
    """

    recorded: Sequence[RecordedImage] | None
    sets: frozenset[str] = frozenset()

    @classmethod
    def of(cls, path: str | None) -> _History:
        """The history of a model's folder; None for the packaged model and that of a server."""
        recorded = record_of_model(path)
        return cls(recorded, frozenset() if recorded is not None else trained_sets(path))


def _pairs(config: EvalConfig, images: PlannedImages) -> dict[str, StatedPairs]:
    """The stated pairs that are evaluated, by set."""
    return stated_pairs(images.data.sets) if config.target == "pairs" else {}


def _scored(
    config: EvalConfig,
    predictions: Predictions,
    source: ModelSource,
    run_dir: Path,
    images: PlannedImages,
    history: _History,
    pairs: Mapping[str, StatedPairs],
) -> ScoredModel:
    predictions = with_present_labels(run_dir, predictions, images.tables)
    predictions = with_pairs(predictions, pairs)
    sets: dict[str, LabelledSet] = images.data.sets

    def image(dataset: str, row: int) -> Image.Image:
        labelled = sets[dataset]
        return load_image(labelled.image_path(row), labelled.config.short_edge)

    trained_on: dict[str, TrainedOn] = {}
    if history.recorded is not None:
        trained_on = _trained_on(predictions, TrainingImages(history.recorded), sets)
    unknown = {
        name: f"the run that made this model trained on images of {labelled.config.name} and left "
        f"no {FILE}: how many of these images it was trained on is unknown"
        for name, labelled in sets.items()
        if labelled.config.name in history.sets
    }
    return ScoredModel(
        predictions,
        source,
        run_dir,
        image,
        images.skipped(predictions),
        trained_on,
        unknown,
        {name: labelled.excluded for name, labelled in sets.items()},
        used_values(config),
        images.tables,
    )


def used_values(config: EvalConfig) -> dict[str, Any]:
    """What a run, a checkpoint's record or a server has given to a resolved configuration."""
    model = config.model
    used: dict[str, Any] = {
        "model.path": model.path,
        "model.revision": model.revision,
        "model.dtype": model.dtype,
        "model.min_pixels": model.min_pixels,
        "model.max_pixels": model.max_pixels,
        "mode.sampling.max_new_tokens": config.mode.sampling.max_new_tokens,
        "prompt.vision_id": bool(config.prompt.vision_id),
    }
    if isinstance(config.backend, ServerConfig):
        used["backend.model"] = config.backend.model
    return used


def _trained_on(
    predictions: Predictions, training: TrainingImages, sets: dict[str, LabelledSet]
) -> dict[str, TrainedOn]:
    """By set, how many of its scored images a training has seen."""
    return {
        name: training.seen(
            sets[name].config.name,
            sets[name].own_files(part.index.tolist()),
            hashed=sets[name].config.split.near_duplicates != "ignore",
        )
        for name, part in predictions.by_dataset().items()
    }


def _settings(config: EvalConfig, images: PlannedImages) -> dict[str, Any]:
    """What decides the answers; everything else may change when an evaluation is continued."""
    asked: dict[str, Any] = {}
    for name in images.data.sets:
        asked[f"images of {name}"] = sum(len(b.images) for b in images.plan if b.dataset == name)
        asked[f"image names of {name} (SHA-256)"] = plan_digest(images.plan, name)
    return {**answer_settings(config), **asked}
