"""The part of `python eval.py` that needs a model: find it, score the images, keep the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vqr1.cli.compose import plain_values
from vqr1.cli.mode_checks import expectation_setting
from vqr1.cli.score_checks import server_settings
from vqr1.config import EvalConfig, PromptConfig, ServerConfig
from vqr1.config.model_defaults import default_of, lines_about, source_of, taken_from_model
from vqr1.data.image_record import FILE, RecordedImage, record_of_model
from vqr1.data.images import load_image
from vqr1.data.labelled_set import LabelledSet
from vqr1.distributed.collectives import broadcast_from_rank0, raise_on_all_ranks
from vqr1.distributed.environment import RankInfo, find_rank_info
from vqr1.distributed.rendezvous import connect_ranks
from vqr1.evaluation.model_source import ModelSource, resolve_model, trained_sets
from vqr1.evaluation.prediction_file import read_predictions
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.trained_on import TrainedOn, TrainingImages
from vqr1.evaluation.work import (
    check_settings,
    finished_file,
    image_count,
    merge,
    plan_digest,
    read_partials,
    remaining,
    remove_partials,
    shares,
)
from vqr1.evaluation.workers import Images, score_in_processes, score_share
from vqr1.policy.training_prompt import trained_vision_id
from vqr1.rollout.server import ChatServer
from vqr1.training.run_record import changed_keys

_LONGEST_SHARE_MINUTES = 7 * 24 * 60.0
"""A rank's share may take days longer than that of another one."""


@dataclass(frozen=True)
class ScoredModel:
    """What scoring gives.

    Attributes:
        predictions: every image once.
        source: the model.
        run_dir: where the predictions lie.
        load_image: picture of a row of a set's table.
        skipped: by set, images that were left out: missing, empty or not decodable.
        trained_on: by set, how many of the images the model was trained on; empty where its
            training left no record of them.
        unknown: by set, why that is unknown although a training of ours made the model.
        used: values by dotted key that were taken from the run or the server, for the record.
    """

    predictions: Predictions
    source: ModelSource
    run_dir: Path
    load_image: Callable[[str, int], Image.Image]
    skipped: dict[str, int]
    trained_on: dict[str, TrainedOn]
    unknown: dict[str, str]
    used: dict[str, Any]


def score_model(config: EvalConfig, console: Console, composed: DictConfig) -> ScoredModel | None:
    """Score all images that are not scored yet; None in processes that only help.

    Args:
        config: typed configuration.
        console: where progress is printed.
        composed: the same as Hydra composed it, where it shows which values the model gave.

    Raises:
        UserError: model, images or an evaluation to continue are not as they should be.
    """
    info = find_rank_info()
    _connect(info, config, composed)
    source, config = _resolved(config, composed)
    # A damaged record is found before any image is scored.
    history = _History.of(None if isinstance(config.backend, ServerConfig) else source.config.path)
    # Hydra names it after the time, which ranks may read at different seconds.
    run_dir = Path(broadcast_from_rank0(lambda: config.run_dir))
    images = raise_on_all_ranks(lambda: Images(config))
    broadcast_from_rank0(lambda: check_settings(run_dir, _settings(config, images)))
    if info.rank == 0:
        for line in _defaults(config, composed):
            console.print(line)
    finished = broadcast_from_rank0(lambda: finished_file(run_dir))
    if finished is not None:
        if info.rank:
            return None
        remove_partials(run_dir)
        console.print(f"already scored: {finished}")
        return _scored(config, read_predictions(finished), source, run_dir, images, history)
    left = broadcast_from_rank0(lambda: _left(images, run_dir, console))
    processes = info.world_size if info.world_size > 1 else config.hardware.devices
    dealt = shares(left, processes)
    share = dealt[info.rank] if info.world_size > 1 else left
    with _progress(image_count(images.plan, share), info.rank == 0) as advance:
        if processes > 1 and info.world_size == 1:
            score_in_processes(config, dealt, run_dir, advance)
        else:
            # Returns once every rank has scored its share, or raises what one of them met.
            raise_on_all_ranks(lambda: score_share(config, images, share, run_dir, info, advance))
    if info.rank:
        return None
    merged = merge(run_dir, images.plan, f".{config.output}")
    return _scored(config, merged, source, run_dir, images, history)


def _connect(info: RankInfo, config: EvalConfig, composed: DictConfig) -> None:
    """Find the other ranks of torchrun or srun; does nothing alone.

    Raises:
        ConfigError: a rank did not come, or has another configuration.
    """
    if info.world_size > 1:
        hardware = replace(config.hardware, collective_minutes=_LONGEST_SHARE_MINUTES)
        same = partial(changed_keys, moved=True)
        connect_ranks(info, hardware, plain_values(composed), None, same)


def _resolved(config: EvalConfig, composed: DictConfig) -> tuple[ModelSource, EvalConfig]:
    """What is evaluated, a checkpoint or the model of a server, and the configuration naming it.

    The configuration's `prompt.vision_id` is then true or false.

    Raises:
        ModelError: no such run or checkpoint, or a server that cannot be used.
    """
    if not isinstance(config.backend, ServerConfig):
        source = resolve_model(config.model, config.logger)
        prompt = _asked(config.prompt, source)
        config = replace(config, model=source.config, prompt=prompt)
        return source, config if source.run_id is None else _as_trained(config, source, composed)
    with ChatServer(config.backend) as server:
        backend = replace(config.backend, model=server.model())
    source = ModelSource(
        config.model,
        f"{backend.model} at {backend.url}",
        vision_id=trained_vision_id(config.model, hub=False),
    )
    return source, replace(config, backend=backend, prompt=_asked(config.prompt, source))


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


def _defaults(config: EvalConfig, composed: DictConfig) -> list[str]:
    """What is printed of the values that nothing but the model has set."""
    if config.model.run is None:
        # With a server the model gives image sizes and the length of an answer only.
        return lines_about(composed, if_other=isinstance(config.backend, ServerConfig))
    return [
        f"from the model of run {config.model.run}: model.dtype={config.model.dtype}, "
        f"model.max_pixels={config.model.max_pixels}, model.min_pixels={config.model.min_pixels}, "
        f"mode.sampling.max_new_tokens={config.mode.sampling.max_new_tokens}"
    ]


def _left(images: Images, run_dir: Path, console: Console) -> list[int]:
    left = remaining(images.plan, read_partials(run_dir))
    total = image_count(images.plan, range(len(images.plan)))
    if len(left) < len(images.plan):
        done = total - image_count(images.plan, left)
        console.print(f"continuing: {done} of {total} images are scored")
    else:
        console.print(f"{total} images; if this stops, continue it with run_dir={run_dir}")
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


def _scored(
    config: EvalConfig,
    predictions: Predictions,
    source: ModelSource,
    run_dir: Path,
    images: Images,
    history: _History,
) -> ScoredModel:
    sets: dict[str, LabelledSet] = images.data.sets

    def picture(dataset: str, row: int) -> Image.Image:
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
        picture,
        images.skipped(predictions),
        trained_on,
        unknown,
        _used(config),
    )


def _used(config: EvalConfig) -> dict[str, Any]:
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
            {
                image: sets[name].image_path(row)
                for image, row in zip(part.images, part.index.tolist(), strict=True)
            },
        )
        for name, part in predictions.by_dataset().items()
    }


def _settings(config: EvalConfig, images: Images) -> dict[str, Any]:
    """What decides the answers; everything else may change when an evaluation is continued."""
    model, mode = config.model, config.mode
    judged: dict[str, Any] = {}
    for name, labelled in images.data.sets.items():
        judged[f"images of {name}"] = sum(len(b.images) for b in images.plan if b.dataset == name)
        judged[f"image names of {name} (SHA-256)"] = plan_digest(images.plan, name)
        judged[f"{labelled.key}.short_edge"] = labelled.config.short_edge
    return {
        "backend.name": config.backend.name,
        **server_settings(config.backend),
        "model.path": model.path,
        "model.revision": model.revision,
        "model.dtype": model.dtype,
        "model.min_pixels": model.min_pixels,
        "model.max_pixels": model.max_pixels,
        "prompt.text": config.prompt.text,
        "prompt.vision_id": config.prompt.vision_id,
        "prompt.answer_format": config.prompt.answer_format,
        "prompt.score_range": list(config.prompt.score_range),
        "mode.name": mode.name,
        "mode.samples": mode.samples,
        **{f"mode.sampling.{key}": value for key, value in asdict(mode.sampling).items()},
        "loader.images_per_batch": config.loader.images_per_batch,
        "part": config.part,
        "seed": config.seed,
        **expectation_setting(mode),
        **judged,
    }


@contextmanager
def _progress(total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not shown or not total) as progress:
        task = progress.add_task("images", total=total)

        def advance(images: int) -> None:
            progress.update(task, advance=images)

        yield advance
