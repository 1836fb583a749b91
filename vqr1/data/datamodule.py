"""The data sets of a run as Lightning sees them: which sets, which splits, which order.

Wires labels, splits, sampler and workers together; every rule lives in the module it belongs to.
The order of training batches is a function of seed and epoch, and its position travels with
Lightning's checkpoints. Use `Trainer(use_distributed_sampler=False)`: the sampler already deals
one set's images to all processes, and Lightning's would mix them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
import torch.distributed
from PIL import Image

from vqr1.config import DatasetConfig, LoaderConfig, MixtureConfig, TrainingTarget
from vqr1.data.batch_shares import report_small_parts, with_shares
from vqr1.data.cache import ImageCache
from vqr1.data.images import load_image
from vqr1.data.labelled_set import LabelledSet
from vqr1.data.labels import Split
from vqr1.data.opened_sets import open_sets
from vqr1.data.pair_training import TrainingPairs, drawn_pairs, training_pairs
from vqr1.data.prompts import ImageSource
from vqr1.data.ranking_batches import BatchPlan, RankingBatchSampler, RankingPlan
from vqr1.data.ranking_images import RankingImages, RankingLoader, SetImages
from vqr1.data.task_sets import TaskSets, TaskSource, is_task, open_tasks
from vqr1.distributed.collectives import get_rank, get_world_size
from vqr1.errors import ConfigError, DataError
from vqr1.records import RankingBatch

logger = logging.getLogger(__name__)


class RankingDataModule(lightning.LightningDataModule):
    """Training and evaluation batches of one set or a mixture.

    Args:
        dataset: the set or the mixture.
        loader: batch size, workers, cache.
        prompts: turns images into prompts of the model.
        seed: of the order of training batches.
        val_max_images: at most this many validation images of each set; None uses all.
        val_batch_size: images evaluated together; the training batch's number if not given.
        sets: the sets of `dataset`, where they are opened already (`open_sets`).
        target: training draws images by their MOS' sets alone, or so that they have pairs.
        pool: images of a step that are compared, where pairs are: all, those of a process, or a
            number.
        pairs_per_image: random pairs of each training image, where the policy votes on pairs.
        tasks: auxiliary tasks that training batches are shared with, by name.
    """

    def __init__(
        self,
        dataset: DatasetConfig | MixtureConfig,
        loader: LoaderConfig,
        prompts: ImageSource,
        seed: int,
        val_max_images: int | None = None,
        val_batch_size: int | None = None,
        sets: dict[str, LabelledSet] | None = None,
        target: TrainingTarget = "mos",
        pool: Literal["global", "rank"] | int = "global",
        pairs_per_image: int = 16,
        tasks: Mapping[str, TaskSource] | None = None,
    ) -> None:
        super().__init__()
        self._opened = sets
        self._target = target
        self._pairs_per_image = pairs_per_image
        self._tasks = tasks or {}
        sizes = {"global": None, "rank": loader.batch_size}
        self._pool = pool if isinstance(pool, int) else sizes[pool]
        self._val_batch_size = val_batch_size
        self._val_max_images = val_max_images
        self._dataset = dataset
        self._loader = loader
        self._prompts = prompts
        self._seed = seed
        self._sampler: RankingBatchSampler | None = None
        self._saved_position: Mapping[str, Any] | None = None
        self._train_loader: RankingLoader | None = None

    @property
    def prompt_text(self) -> str:
        """The prompt with the chat template around it, up to the response."""
        return self._prompts.text

    @cached_property
    def sets(self) -> dict[str, LabelledSet]:
        """The opened sets by name; opening reads labels and finds images, once.

        Raises:
            ConfigError: a key does not fit its set, or a mixture holds a set twice.
            DataError: labels or images are not as their format states.
        """
        return open_sets(self._dataset) if self._opened is None else self._opened

    @cached_property
    def tasks(self) -> dict[str, TaskSets]:
        """The auxiliary tasks by name, their sets opened.

        Raises:
            ConfigError, DataError: as for `sets`.
        """
        return open_tasks(self._tasks, self.sets, self._seed)

    @property
    def learnt_sets(self) -> dict[str, LabelledSet]:
        """All sets that training draws from: `sets`, and those of tasks as `task:set`."""
        found = dict(self.sets)
        for task in self.tasks.values():
            found |= task.own_sets
        return found

    @cached_property
    def training_pairs(self) -> dict[str, TrainingPairs]:
        """By set, the pairs that are learnt from; empty where MOS are.

        Where the policy votes on pairs, they are drawn, and hold no votes before `learn_from`.

        Raises:
            ConfigError: sets without a file of pairs.
            DataError: a set without a pair of training images.
        """
        if self._target == "mos":
            return {}
        if self._target == "self_vote":
            return {
                name: drawn_pairs(labelled, self._pairs_per_image, self._seed)
                for name, labelled in self.sets.items()
            }
        found, problems = {}, []
        for name, labelled in self.sets.items():
            try:
                found[name] = training_pairs(labelled)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        return found

    def learn_from(self, name: str, pairs: TrainingPairs) -> None:
        """Learn from these pairs of a set: the drawn ones with the votes on them."""
        self.training_pairs[name] = pairs

    @cached_property
    def _bad(self) -> dict[str, torch.Tensor]:
        """By set, [rows] uint8 in memory shared with the workers: 1 where an image is bad."""
        return {
            name: torch.zeros(len(labelled.table), dtype=torch.uint8).share_memory_()
            for name, labelled in self.sets.items()
        }

    @cached_property
    def _cache(self) -> ImageCache | None:
        folder = self._loader.cache_dir
        return None if folder is None else ImageCache(Path(folder))

    def setup(self, stage: str | None = None) -> None:
        """Open the sets, so that data errors come before the first step."""
        logger.debug("opened %d data sets", len(self.sets))

    def load_image(self, name: str, row: int) -> Image.Image:
        """RGB image of a row of a set's table, as prompts show it.

        Raises:
            DataError: it cannot be read.
        """
        labelled = self.sets[name]
        return load_image(labelled.image_path(row), labelled.config.short_edge)

    def skipped_images(self) -> dict[str, int]:
        """By set, the images excluded so far: missing, empty, or not decodable.

        Of those that do not decode, in a run of several processes, all of them have to ask.
        """
        if get_world_size() > 1:
            for bad in self._bad.values():
                torch.distributed.all_reduce(bad, op=torch.distributed.ReduceOp.MAX)
        return {
            name: labelled.skipped + int(self._bad[name].sum())
            for name, labelled in self.sets.items()
        }

    def digests(self) -> dict[str, str]:
        """By set, the digest of the images' names, MOS, splits, and the subsets that are used."""
        return {name: s.digest(self._val_max_images) for name, s in self.learnt_sets.items()}

    def check_same_in_all_processes(self) -> None:
        """Compare what the labels state of the images, and a few of the files, with the first's.

        Raises:
            DataError: this process has read something else.
        """
        rank, world_size = get_rank(), get_world_size()
        if world_size == 1:
            return
        rows_of = self.digests()
        sets = self.learnt_sets
        own = {name: (rows_of[name], s.image_digests()) for name, s in sets.items()}
        box: list[dict[str, tuple[str, dict[str, str]]]] = [own]
        torch.distributed.broadcast_object_list(box, src=0)
        for name, (rows, images) in own.items():
            first_rows, first_images = box[0].get(name, ("", {}))
            key, count = sets[name].key, len(sets[name].table)
            if rows != first_rows:
                raise DataError(
                    f"{key}: process {rank} has read other images, MOS or splits of "
                    f"{name} than process 0 ({count} rows here); every node needs the same label "
                    "files and the same images"
                )
            differing = [image for image in images if images[image] != first_images[image]]
            if differing:
                path = sets[name].image_root / differing[0]
                raise DataError(
                    f"{key}: process {rank} finds another file at {path} than process 0 "
                    f"({len(differing)} of the {len(images)} images that were compared differ); "
                    "every node needs the same images"
                )

    def train_dataloader(self) -> RankingLoader:
        """Training batches of this process, from where training stands.

        Raises:
            DataError: a set has no training images.
        """
        parts = self._train_images()
        if self._sampler is None:
            self._sampler = self._make_sampler(parts)
        images = RankingImages(parts, self._prompts, self._cache, replace_bad=True)
        self.close()
        self._train_loader = RankingLoader(images, self._sampler, self._loader.workers)
        return self._train_loader

    def _train_images(self) -> dict[str, SetImages]:
        """Training images by what the plan takes for a set: those that compare, those of a task."""
        parts: dict[str, SetImages] = {}
        for task in self.tasks.values():
            parts |= task.parts
        if sum(task.share for task in self.tasks.values()) < 1 - 1e-9:
            parts = self._ranked_images() | parts
        return parts

    def _ranked_images(self) -> dict[str, SetImages]:
        """Those of them that are asked for their score."""
        parts: dict[str, SetImages] = {}
        stated = self.training_pairs
        for name, labelled in self.sets.items():
            if name in stated:
                pairs = stated[name]
                parts[name] = SetImages(labelled, pairs.rows, self._bad[name], pairs.scores)
                if not len(parts[name]):
                    raise DataError(f"{labelled.key}.split: {name} has no training images")
                continue
            rows = labelled.rows("train")
            groups = labelled.ranked_together(rows)
            if not len(rows) or not groups:
                what = "two training images of one reference" if len(rows) else "training images"
                raise DataError(f"{labelled.key}.split: {name} has no {what}")
            for part, group in groups.items():
                parts[part] = SetImages(labelled, group, self._bad[name])
        return parts

    def check_comparable(self, within_process: bool) -> None:
        """Check that each step holds two or more distinct images, for rewards that compare them.

        Args:
            within_process: images are compared within each process only (`grpo.pool=rank`, pairs
                of `stage.target=soft_levels`).

        Raises:
            DataError: a set with fewer training images; names the key to change.
        """
        self.train_dataloader()
        assert self._sampler is not None
        plan = self._sampler.plan
        for name, size in plan.sizes.items():
            images = plan.fewest_images(name, within_process)
            if images >= 2 or is_task(name):
                continue
            labelled = self._set_of(name)
            if size >= plan.global_batch:
                key = f"loader.batch_size={plan.batch_size}"
            elif labelled.config.max_images == size:
                key = f"{labelled.key}.max_images={size}"
            else:
                key = f"{labelled.key}.split"
            raise DataError(
                f"{key}: of {name} ({size} training images) a step has 1 image"
                f"{' in some process' if within_process else ''}; a ranking "
                "reward compares images with each other, never one with its own copy, and needs 2"
            )

    def _set_of(self, part: str) -> LabelledSet:
        """The set of what the plan of batches takes for one."""
        return self.sets.get(part) or self.sets[part.partition("/")[0]]

    def upcoming_batch(self) -> RankingBatch:
        """The batch that training is given next, on the host; see `RankingLoader.upcoming`."""
        assert self._train_loader is not None
        return self._train_loader.upcoming()

    def close(self) -> None:
        """End the worker processes of training."""
        if self._train_loader is not None:
            self._train_loader.close()

    def val_dataloader(self) -> RankingLoader:
        """This process's share of the validation batches, for Lightning's loop."""
        return self.eval_dataloader(
            "val", self._val_max_images, self._val_batch_size, get_rank(), get_world_size()
        )

    def eval_dataloader(
        self,
        split: Split,
        max_images: int | None = None,
        batch_size: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> RankingLoader:
        """Every image of a split once, in table order, set after set.

        A batch holds one set; each set's last batch may be smaller. By default every process gets
        all batches.

        Args:
            split: val, test or train.
            max_images: at most this many images of each set (`LabelledSet.split`).
            batch_size: images in a batch; the training batch's number if not given.
            rank: with `world_size`, deal the batches in turn and give this process its share; one
                for which none is left gets the last batch too.
            world_size: number of processes that share the work.

        Raises:
            DataError: no set has images in this part.
        """
        parts = {
            name: SetImages(labelled, labelled.rows(split, max_images), self._bad[name])
            for name, labelled in self.sets.items()
        }
        if not any(len(images) for images in parts.values()):
            keys = ", ".join(f"{images.key}.split" for images in parts.values())
            raise DataError(f"{keys}: no {split} images")
        size = batch_size or self._loader.batch_size
        plans = [
            BatchPlan(name, tuple(range(first, min(first + size, len(images)))))
            for name, images in parts.items()
            for first in range(0, len(images), size)
        ]
        source = RankingImages(parts, self._prompts, self._cache, replace_bad=False)
        # Lightning passes a validation without batches over, which others would wait for.
        own = plans[rank::world_size] or plans[-1:]
        return RankingLoader(source, own, self._loader.workers)

    def state_dict(self) -> dict[str, Any]:
        """Position in the order of training batches, in plain containers."""
        return {} if self._sampler is None else {"sampler": self._sampler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at a saved position.

        Raises:
            ConfigError: the order cannot continue because what it depends on changed.
        """
        self._saved_position = state_dict.get("sampler")
        if self._sampler is not None and self._saved_position is not None:
            self._sampler.load_state_dict(self._saved_position)

    def _make_sampler(self, parts: Mapping[str, SetImages]) -> RankingBatchSampler:
        weights = self._dataset.weights if isinstance(self._dataset, MixtureConfig) else None
        sizes = {part: len(images) for part, images in parts.items()}
        rank, world_size = get_rank(), get_world_size()
        plan = RankingPlan(
            self._seed,
            sizes,
            self._loader.batch_size,
            world_size,
            last_batch=self._loader.last_batch,
            graphs={name: pairs.graph for name, pairs in self.training_pairs.items()},
            pool=self._pool,
        )
        plan = with_shares(plan, parts, weights, self.tasks)
        report_small_parts(plan, parts)
        sampler = RankingBatchSampler(plan, rank)
        if self._saved_position is not None:
            sampler.load_state_dict(self._saved_position)
        return sampler
