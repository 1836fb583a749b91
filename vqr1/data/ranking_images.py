"""From planned positions to ranking batches: decoding and preprocessing, run in loader workers.

Each image of a batch is decoded and resized once; the K responses share it.
Images that turn out not to decode stop the run, or are counted and excluded, as the data set's
`on_bad_image` states: in training the set's next image that the step does not hold takes the place,
in evaluation, and where there is no such image, the batch is smaller by it. Counts are kept in
shared memory, so that they hold over all workers.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vqr1.counted import counted
from vqr1.data.cache import ImageCache
from vqr1.data.degraded import Damage
from vqr1.data.images import WHOLE, decoded_at, load_image
from vqr1.data.labelled_set import LabelledSet
from vqr1.data.loader_workers import end_where_a_batch_is_lost, start_method, watched
from vqr1.data.prompts import AskedTask, ImageSource
from vqr1.data.ranking_batches import BatchPlan, RankingBatchSampler
from vqr1.errors import ConfigError, DataError
from vqr1.records import BatchLabels, RankingBatch, row_name

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class SetImages:
    """The images of one set that one loader draws from.

    Args:
        labelled: the set.
        rows: the rows of its table to draw from, under their numbers.
        bad: [rows of the whole table] uint8 in shared memory, 1 where an image did not decode.
        scores: [rows] scores on [1, 5] in place of the MOS.
        task: what is asked about them; None: for their score, by the loader's prompt.

    Attributes:
        task: name of the task; empty for the score.
        prompts: of the task; None: the loader's.
    """

    def __init__(
        self, labelled: LabelledSet, rows: pd.DataFrame, bad: Tensor,
        scores: npt.ArrayLike | None = None, task: AskedTask | None = None,
    ) -> None:  # fmt: skip
        self.name = labelled.name
        self.task = "" if task is None else task.name
        self.prompts = None if task is None else task.prompts
        self.key = labelled.key
        self.root = labelled.image_root
        self.short_edge = labelled.config.short_edge
        self.skips = labelled.config.on_bad_image == "skip"
        self.max_bad = labelled.config.max_bad_share * (len(labelled.table) + labelled.skipped)
        self.skipped = labelled.skipped
        self.images: list[tuple[str, ...]] = rows["images"].tolist()
        self.names: list[str] = rows["image"].tolist()
        mos = rows["mos_scaled"].to_numpy() if scores is None else scores
        self.mos = torch.tensor(mos, dtype=torch.float32)
        self.std = torch.tensor(rows["std_scaled"].to_numpy(), dtype=torch.float32)
        self.references = [_name(value) for value in rows["reference"]]
        self.distortions = [_name(value) for value in rows["distortion"]]
        self.further: list[dict[str, float | str]] = rows["further"].tolist()
        self.columns = tuple(dict.fromkeys(name for row in self.further for name in row))
        self.damage: list[Damage | None] = rows["damage"].tolist() if "damage" in rows else []
        self.rows = torch.tensor(rows.index.to_numpy(), dtype=torch.int64)
        self.bad = bad

    def __len__(self) -> int:
        return len(self.images)

    def paths(self, position: int) -> list[Path]:
        """Full paths of a row's images."""
        return [self.root / image for image in self.images[position]]

    def shown(self, position: int, pixels: list[Tensor]) -> list[Tensor]:
        """The resized images [H, W, 3] uint8 of a row as they are asked about."""
        damage = self.damage[position] if self.damage else None
        return pixels if damage is None else [damage.apply(image) for image in pixels]

    def check_fits(self, images: int) -> None:
        """Check that each row has as many images as a prompt takes.

        Raises:
            ConfigError: another number.
        """
        found = next((len(row) for row in self.images if len(row) != images), images)
        if found != images and self.task:
            raise ConfigError(
                [
                    f"tasks.{self.task}.prompt.images={images}: {self.key}: a row of {self.name} "
                    f"has {found} image{'s' * (found != 1)}; ask about as many, or take another "
                    f"set (tasks.{self.task}.dataset)"
                ]
            )
        if found != images:
            raise ConfigError(
                [
                    f"prompt.images={images}: {self.key}: a row of {self.name} has "
                    f"{counted(found, 'image')}; use a prompt for {found}, such as prompt="
                    f"{'thinking' if found == 1 else 'full_reference'}, or rows of {images} ("
                    f"{self.key}.full_reference, {self.key}.columns.image)"
                ]
            )

    def labels(self, positions: Sequence[int]) -> BatchLabels:
        """What the labels state of some images beside their MOS."""
        return BatchLabels(
            std=self.std[list(positions)],
            references=tuple(self.references[p] for p in positions),
            distortions=tuple(self.distortions[p] for p in positions),
            columns={
                name: tuple(self.further[p].get(name) for p in positions) for name in self.columns
            },
        )

    def mark_bad(self, position: int, error: DataError) -> None:
        """Count a row with an image that does not decode.

        Raises:
            DataError: bad images stop the run, or there are now too many of them.
        """
        if not self.skips:
            raise DataError(
                f"{error}; repair or remove it, or leave such images out with "
                f"{self.key}.on_bad_image=skip"
            ) from error
        row = int(self.rows[position])
        if not self.bad[row]:
            self.bad[row] = 1
            logger.warning("%s: excluded: %s", self.key, error)
        if bool(self.bad[self.rows].all()):
            raise DataError(
                f"{error}; with it none of the {counted(len(self), 'image')} of {self.name} here "
                "can be used: repair them, or choose another split"
            ) from error
        count = self.skipped + int(self.bad.sum())
        if count > self.max_bad:
            raise DataError(
                f"{error}; {count} images of {self.name} are bad now, above {self.key}."
                f"max_bad_share of {self.max_bad:g} images"
            ) from error


@dataclass(frozen=True)
class _Failure:
    """A data error that a worker met: raised by the loader, without the worker's traceback."""

    message: str


def _name(value: object) -> str | None:
    """A name from a table, None for a missing one."""
    return None if value is None or value != value else str(value)


class RankingImages(Dataset[RankingBatch | _Failure | None]):
    """Maps a `BatchPlan` to its `RankingBatch`.

    Args:
        sets: images by set name.
        prompts: turns images into prompts, where a set's task has none of its own.
        cache: resized images kept on disk; None decodes each time.
        replace_bad: fill the place of an image that does not decode with the next one of the set
            that the step does not hold.

    Raises:
        ConfigError: a row of a set has another number of images than a prompt takes.
    """

    def __init__(
        self,
        sets: Mapping[str, SetImages],
        prompts: ImageSource,
        cache: ImageCache | None,
        replace_bad: bool,
    ) -> None:
        self.sets = dict(sets)
        for images in self.sets.values():
            images.check_fits((images.prompts or prompts).images)
        self.prompts = prompts
        self.cache = cache
        self.replace_bad = replace_bad
        self._reduced: dict[Path, str] = {}

    def __getitem__(self, plan: BatchPlan) -> RankingBatch | _Failure | None:
        """The batch; None if no image of it decodes; a failure to be raised by the loader."""
        try:
            return self.batch(plan)
        except DataError as error:
            return _Failure(str(error))

    def batch(self, plan: BatchPlan) -> RankingBatch | None:
        """The batch of a plan.

        Raises:
            DataError: an image does not decode and the set's rule stops the run.
        """
        images = self.sets[plan.dataset]
        found: dict[int, list[Tensor]] = {}
        loaded: dict[Path, Tensor] = {}
        for wanted in plan.positions:
            for position in self._candidates(wanted, plan, found, len(images)):
                row = self._pixels(images, position, loaded)
                if row is not None:
                    found[position] = row
                    break
        positions, pixels = list(found), list(found.values())
        if not positions:
            return None
        prompts = images.prompts or self.prompts
        return RankingBatch(
            dataset=images.name,
            images=tuple(images.images[p] for p in positions),
            prompts=prompts.with_keys(prompts.from_resized(pixels)),
            mos=images.mos[positions],
            index=images.rows[positions],
            labels=images.labels(positions),
            row_names=tuple(images.names[p] for p in positions),
            decoded_at=self._decoded_at([images.paths(p) for p in positions]),
            task=images.task,
        )

    def _decoded_at(self, rows: Sequence[Sequence[Path]]) -> tuple[str | None, ...]:
        """`RankingBatch.decoded_at` of rows whose images are loaded."""
        if not self._reduced:
            return ()
        return tuple(
            row_name([self._reduced.get(path, WHOLE) for path in row])
            if any(path in self._reduced for path in row)
            else None
            for row in rows
        )

    def _candidates(
        self, wanted: int, plan: BatchPlan, chosen: Collection[int], total: int
    ) -> Iterator[int]:
        """The wanted position, then those that may take its place: images that the step lacks.

        Where none is left the place stays empty, for an image must not meet its own copy. But a
        process without any image would keep the others waiting: the last place of such a batch
        takes one of another process, which the pair mathematics knows by its row.
        """
        yield wanted
        if not self.replace_bad:
            return
        taken = {*plan.step, *plan.positions, *chosen}
        others = [(wanted + step) % total for step in range(1, total)]
        yield from (position for position in others if position not in taken)
        if not chosen and wanted == plan.positions[-1]:
            yield from (position for position in others if position not in plan.positions)

    def _pixels(
        self, images: SetImages, position: int, loaded: dict[Path, Tensor]
    ) -> list[Tensor] | None:
        """[H, W, 3] uint8 resized images of a row, or None if one does not decode: then excluded.

        Args:
            images: the set.
            position: of the row.
            loaded: the batch's images so far; an image of several rows is one tensor.
        """
        if images.bad[images.rows[position]]:
            return None
        paths = images.paths(position)
        try:
            for path in paths:
                if path not in loaded:
                    loaded[path] = self._load(path, images.short_edge)
        except DataError as error:
            images.mark_bad(position, error)
            return None
        return images.shown(position, [loaded[path] for path in paths])

    def _load(self, path: Path, short_edge: int | None) -> Tensor:
        if self.cache is None:
            return self._decode(path, short_edge)
        try:
            key = self.cache.key(path, short_edge, self.prompts.rule)
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such image") from error
        pixels = self.cache.get(key)
        if pixels is None:
            pixels = self._decode(path, short_edge)
            if path not in self._reduced:  # an entry does not state what it was decoded at
                self.cache.put(key, pixels)
        return pixels

    def _decode(self, path: Path, short_edge: int | None) -> Tensor:
        image = load_image(path, short_edge)
        size = decoded_at(image)
        if size is not None:
            self._reduced[path] = size
        try:
            return self.prompts.resize(image)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error


class RankingLoader(DataLoader[RankingBatch]):
    """Hands out ranking batches in the order of their plans.

    Args:
        images: where batches come from.
        plans: the plans in order, or the sampler that walks them (training).
        workers: processes that prepare batches; 0 prepares them here.
    """

    def __init__(
        self,
        images: RankingImages,
        plans: Sequence[BatchPlan] | RankingBatchSampler,
        workers: int,
    ) -> None:
        super().__init__(
            images,  # type: ignore[arg-type]  # failures are raised and empty batches excluded below
            sampler=plans,
            batch_size=None,
            num_workers=workers,
            multiprocessing_context=start_method() if workers else None,
            worker_init_fn=end_where_a_batch_is_lost,
            persistent_workers=workers > 0 and isinstance(plans, RankingBatchSampler),
        )
        self._resumable = plans if isinstance(plans, RankingBatchSampler) else None
        self._epoch: Iterator[RankingBatch] | None = None
        self._next_epoch: Iterator[RankingBatch] | None = None
        self._held: RankingBatch | None = None

    def __iter__(self) -> Iterator[RankingBatch]:  # type: ignore[override]
        """The rest of the epoch (training), or all batches.

        Raises:
            DataError: an image does not decode and the set's rule stops the run.
            RuntimeError: a worker died.
        """
        if self._resumable is None:
            yield from self._batches()
            return
        if self._next_epoch is None:
            # Not handed out, so that the sampler begins with it.
            self._held = None
        self._epoch, self._next_epoch = self._next_epoch or self._batches(), None
        while (batch := self._take()) is not None:
            self._resumable.consumed()
            yield batch

    def upcoming(self) -> RankingBatch:
        """The batch that training is given next, of the next epoch after the last one of this.

        It does not count as handed out. Of a loader of training that is being iterated.

        Raises:
            DataError, RuntimeError: as iterating.
        """
        assert self._epoch is not None
        if self._held is None:
            self._held = next(self._epoch, None)
        if self._held is None:
            self._next_epoch = self._batches()
            self._held = next(self._next_epoch)
        return self._held

    def _take(self) -> RankingBatch | None:
        """The epoch's next batch, None after its last one."""
        assert self._epoch is not None
        if self._next_epoch is not None:
            return None
        held, self._held = self._held, None
        return next(self._epoch, None) if held is None else held

    def _batches(self) -> Iterator[RankingBatch]:
        batches: Iterator[RankingBatch] = super().__iter__()
        if self.num_workers:
            batches = watched(batches)
        for batch in batches if self._resumable is not None else _one_ahead(batches):
            if isinstance(batch, _Failure):
                raise DataError(batch.message)
            if batch is not None:
                yield batch
            elif self._resumable is not None:
                self._resumable.consumed()

    def close(self) -> None:
        """End the worker processes."""
        if self._iterator is not None:
            self._iterator._shutdown_workers()  # type: ignore[attr-defined]
            self._iterator = None


def _one_ahead(batches: Iterator[_T]) -> Iterator[_T]:
    """The same batches, each after the next was asked for.

    Lightning counts and never asks beyond the last batch; the workers, copies of this process that
    hold its memory, would live on until the next validation.
    """
    held: list[_T] = []
    for batch in batches:
        yield from held
        held = [batch]
    yield from held
