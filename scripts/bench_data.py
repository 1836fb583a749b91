"""Images per second of the data path, beside a plain loop and beside what a step needs.

    python scripts/bench_data.py dataset=biq2021 dataset.root=data/biq2021 model=tiny

Rows: a plain single-process loop as in the published evaluation code (open, `process_vision_info`,
processor, one image at a time); the training loader with 0, 1, 2, ... workers; the loader on a warm
cache of resized images. `--step` also samples K responses for one batch with the model's own
weights: sampling alone, the smallest part of a step, must need fewer images per second than the
loader gives.

    python scripts/bench_data.py --opening 40000

makes a set of so many small JPEGs instead, and measures from opening it to the first training
batch, after imports: with the files in the page cache, and without (names and sizes of files stay
cached by the kernel, which only its owner may drop).
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from qwen_vl_utils import process_vision_info
from rich.console import Console
from rich.table import Table

from vqr1.cli.options import run_options
from vqr1.config import DataConfig, DatasetConfig, LoaderConfig, SamplingConfig, SplitConfig
from vqr1.data.datamodule import RankingDataModule
from vqr1.policy.checkpoint_config import load_family
from vqr1.policy.loading import load_policy, load_processor
from vqr1.policy.prompts import PromptBuilder
from vqr1.policy.training_prompt import vision_id_of
from vqr1.records import RankingBatch
from vqr1.rollout.local import LocalEngine


def published_loop(
    config: DataConfig, processor: Any, data: RankingDataModule, count: int
) -> float:
    """Images per second of the plain loop, over `count` training images."""
    labelled = next(iter(data.sets.values()))
    rows = labelled.rows("train", count).index
    vision_id = vision_id_of(config.prompt, config.model)
    limits = {"min_pixels": config.model.min_pixels, "max_pixels": config.model.max_pixels}
    start = time.perf_counter()
    for row in rows:
        with Image.open(labelled.image_path(row)) as image:
            content = [
                {"type": "image", "image": image, **limits},
                {"type": "text", "text": config.prompt.text},
            ]
            message = {"role": "user", "content": content}
            text = processor.apply_chat_template(
                [message], tokenize=False, add_generation_prompt=True, add_vision_id=vision_id
            )
            images, _ = process_vision_info([message])
        processor(text=[text], images=images, return_tensors="pt")
    return len(rows) / (time.perf_counter() - start)


def loader_rate(data: RankingDataModule, count: int) -> tuple[float, float]:
    """Seconds to the first batch, and images per second after it."""
    start = time.perf_counter()
    batches: Iterable[RankingBatch] = iter(data.train_dataloader())
    first = next(iter(batches))
    begun = time.perf_counter()
    images = sum(len(batch) for batch in islice(batches, max(1, count // len(first))))
    return begun - start, images / (time.perf_counter() - begun)


def step_rate(config: DataConfig, data: RankingDataModule, group: int, tokens: int) -> float:
    """Images per second that sampling K responses of a batch takes up, on the CPU."""
    policy = load_policy(config.model)
    engine = LocalEngine(policy.model, policy.processor.tokenizer, micro_batch_tokens=16384)
    sampling = SamplingConfig(max_new_tokens=tokens, stop="answer")
    batch = next(iter(data.train_dataloader()))
    engine.sample(batch.prompts, group_size=group, sampling=sampling, seed=0)
    start = time.perf_counter()
    engine.sample(batch.prompts, group_size=group, sampling=sampling, seed=1)
    return len(batch) / (time.perf_counter() - start)


def make_set(root: Path, count: int) -> DatasetConfig:
    """A CSV set of small JPEGs, in folders of a thousand, whose bytes repeat."""
    draw = np.random.default_rng(0)
    contents = []
    for number in range(64):
        file = root / f"{number}.jpg"
        pixels = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((128, 96)).save(file, quality=80)
        contents.append(file.read_bytes())
        file.unlink()
    lines = ["image,mos,std"]
    for number in range(count):
        name = f"{number // 1000:03d}/{number:06d}.jpg"
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_bytes(contents[number % len(contents)])
        lines.append(f"{name},{1 + number * 7919 % 4001 / 1000},0.5")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return DatasetConfig(
        name="csv", root=str(root), label_file="labels.csv", split=SplitConfig(by="image")
    )


def evict(root: Path) -> None:
    """Take the content of all files below a folder out of the page cache."""
    os.sync()
    for folder, _, names in os.walk(root):
        for name in names:
            file = os.open(os.path.join(folder, name), os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def processor_seconds() -> float:
    """Processor time of this process and of those that it has waited for."""
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(use.ru_utime + use.ru_stime for use in map(resource.getrusage, both))


def bench_opening(config: DataConfig, prompts: PromptBuilder, count: int) -> None:
    """Measure from opening a set to its first batch, and print the table."""
    table = Table(title=f"{count} images, {config.loader.workers} workers", title_justify="left")
    for heading in ("files", "opened [s]", "first batch [s]", "together [s]", "processor [s]"):
        table.add_column(heading, justify="left" if heading == "files" else "right")
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_set(Path(folder), count)
        for files in ("cached", "cached, again", "not cached"):
            if files == "not cached":
                evict(Path(folder))
            used, start = processor_seconds(), time.perf_counter()
            data = RankingDataModule(dataset, config.loader, prompts, config.seed)
            opened = len(data.sets) and time.perf_counter()
            next(iter(data.train_dataloader()))
            end = time.perf_counter()
            data.close()
            used = processor_seconds() - used
            times = (opened - start, end - opened, end - start, used)
            table.add_row(files, *(f"{seconds:.2f}" for seconds in times))
    Console().print(table)


def bench(options: argparse.Namespace, config: DataConfig) -> None:
    """Measure and print the table."""
    processor = load_processor(config.model)
    limits = (config.model.min_pixels, config.model.max_pixels)
    vision_id = vision_id_of(config.prompt, config.model)
    family = load_family(config.model)
    prompts = PromptBuilder(family, processor, config.prompt.text, *limits, vision_id=vision_id)

    if options.opening:
        bench_opening(config, prompts, options.opening)
        return

    def module(**changes: Any) -> RankingDataModule:
        loader: LoaderConfig = replace(config.loader, **changes)
        return RankingDataModule(config.dataset, loader, prompts, config.seed)

    start = time.perf_counter()
    data = module(workers=0, cache_dir=None)
    opened = f"{sum(len(s.table) for s in data.sets.values())} labelled images"
    console = Console()
    console.print(f"{opened} opened in {time.perf_counter() - start:.2f} s")
    table = Table()
    for heading in ("data path", "first batch [s]", "images/s"):
        table.add_column(heading, justify="left" if heading == "data path" else "right")
    plain = published_loop(config, processor, data, options.images)
    table.add_row("plain single-process loop", "-", f"{plain:.0f}")
    for workers in range(options.workers + 1):
        first, rate = loader_rate(module(workers=workers, cache_dir=None), options.images)
        table.add_row(f"loader, {workers} workers", f"{first:.2f}", f"{rate:.0f}")
    with tempfile.TemporaryDirectory() as folder:
        loader_rate(module(workers=options.workers, cache_dir=folder), options.images)
        cached = module(workers=options.workers, cache_dir=folder)
        first, rate = loader_rate(cached, options.images)
        table.add_row(
            f"loader, {options.workers} workers, warm cache", f"{first:.2f}", f"{rate:.0f}"
        )
    if options.step:
        needed = step_rate(config, data, options.group_size, options.tokens)
        row = f"needed by sampling, K={options.group_size}, {options.tokens} tokens"
        table.add_row(row, "-", f"{needed:.1f}")
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    parser = argparse.ArgumentParser(description="Measure the data path.")
    parser.add_argument("--images", type=int, default=256, help="images in each measurement")
    parser.add_argument("--workers", type=int, default=2, help="largest number of workers")
    parser.add_argument("--opening", type=int, help="images of a set made to be opened")
    parser.add_argument("--step", action="store_true", help="also sample with the model")
    parser.add_argument("--group-size", type=int, default=6, help="K of --step")
    parser.add_argument("--tokens", type=int, default=48, help="longest response of --step")
    return run_options(parser, bench, arguments)


if __name__ == "__main__":
    sys.exit(main())
