"""The images that an evaluation is of: its sets, its plan and its batches.

Not here: who answers (`vqr1.inference`): batches carry resized images, and a backend builds its own
prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from vqr1.config import EvalConfig, ServerConfig
from vqr1.data.datamodule import RankingDataModule
from vqr1.data.labels import Split
from vqr1.data.opened_sets import open_sets
from vqr1.data.prompts import ResizeRule, image_groups
from vqr1.data.ranking_images import RankingImages, RankingLoader
from vqr1.evaluation.attributes import check_columns
from vqr1.evaluation.labels import whole_sets
from vqr1.evaluation.partial_predictions import PlannedBatch
from vqr1.evaluation.perturbations import CHANGES
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.trained_on import without_trained
from vqr1.inference.setup import InferenceSetup
from vqr1.records import PromptBatch


class ResizedImages:
    """Batches of resized images without prompts.

    Args:
        rule: how an image is resized.
        images: images of a prompt.
        change: what is done to an image before; None: nothing.
    """

    def __init__(
        self,
        rule: ResizeRule,
        images: int = 1,
        change: Callable[[Image.Image], Image.Image] | None = None,
    ) -> None:
        self.rule = rule
        self._change = change
        self.text = ""
        self.images = images

    def resize(self, image: Image.Image) -> Tensor:
        """[H, W, 3] uint8 pixels of an image after resizing."""
        return self.rule.pixels(image if self._change is None else self._change(image))

    def from_resized(self, pixels: Sequence[Tensor | Sequence[Tensor]]) -> PromptBatch:
        """B prompts' resized images [H, W, 3] uint8."""
        none = torch.empty(0, dtype=torch.int64)
        return PromptBatch((none,) * len(pixels), image_groups(pixels, self.images))

    def with_keys(self, prompts: PromptBatch) -> PromptBatch:
        """The batch as it is: features are kept by nobody."""
        return prompts


class PlannedImages:
    """The images of an evaluation: sets, plan and batches.

    Args:
        config: the evaluation, its model resolved.
    """

    def __init__(self, config: EvalConfig) -> None:
        self._split: Split = "test" if config.split == "all" else config.split
        dataset = whole_sets(config.dataset) if config.split == "all" else config.dataset
        # Before the model's own files, which a hub name may have to fetch.
        served = isinstance(config.backend, ServerConfig)
        model = None if served else config.model.path
        sets = without_trained(open_sets(dataset, compared=False), self._split, model)
        tables = {name: labelled.table for name, labelled in sets.items()}
        check_columns(config.answer.form, tables)
        change, loader_config = None, config.loader
        if config.perturbation is not None:
            # A cache would keep altered images under the names of the others.
            change, loader_config = (
                CHANGES[config.perturbation],
                replace(loader_config, cache_dir=None),
            )
        rule = InferenceSetup.of(config).resize_rule()
        source = ResizedImages(rule, config.prompt.images, change)
        self.data = RankingDataModule(dataset, loader_config, source, seed=config.seed, sets=sets)
        self._workers = config.loader.workers
        loader = self.data.eval_dataloader(self._split)
        assert isinstance(loader.dataset, RankingImages)
        self._images = loader.dataset
        self._plans = list(loader.sampler)
        self.plan = [
            PlannedBatch(
                plan.dataset,
                tuple(self._images.sets[plan.dataset].names[i] for i in plan.positions),
            )
            for plan in self._plans
        ]
        self.tables = tables

    def skipped(self, scored: Predictions) -> dict[str, int]:
        """By set, the images that were excluded: missing or empty, or not decodable.

        The first are counted over the whole set, as `RankingDataModule.skipped_images` does, whose
        count of the others knows nothing of other processes and earlier starts: those are the
        planned images without a row.

        Args:
            scored: the finished predictions.
        """
        planned = Counter(batch.dataset for batch in self.plan for _ in batch.images)
        rows = Counter(scored.datasets)
        return {
            name: labelled.skipped + planned[name] - rows[name]
            for name, labelled in self.data.sets.items()
        }

    def batches(self, numbers: Sequence[int]) -> RankingLoader:
        """The batches of the plan with the given numbers, in that order."""
        return RankingLoader(self._images, [self._plans[i] for i in numbers], self._workers)
