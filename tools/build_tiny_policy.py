"""Builds the tiny policy that ships in `vqr1/assets/tiny` and prints what it measured.

    python tools/build_tiny_policy.py                       # replaces the packaged folder
    python tools/build_tiny_policy.py --output /some/folder --seed 2

Its two stages took 350 s and 377 s on two busy cores. The folder is a function of the seed, of the
number of threads and of the library versions (float sums depend on the last two); the packaged one
comes from seed 1 with two threads, stage by stage. The measurements sample the finished policy on
the demo set's validation and test photographs, which the warm start has not seen.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.tiny_policy.factory import (
    VISION_ID,
    VOCABULARY,
    build_processor,
    build_tokenizer,
    random_tiny_model,
    save_policy_folder,
)
from tools.tiny_policy.synthetic import SEVERITIES, corpus, make_pool
from tools.tiny_policy.warm_start import PROMPT_SHARES, WarmStartSettings, warm_start
from vqr1.cli.options import load_data_config, positive
from vqr1.config import LoaderConfig, PromptConfig, SamplingConfig, config_dir
from vqr1.data.datamodule import RankingDataModule
from vqr1.data.demo import CROP
from vqr1.data.distortions import DISTORTIONS
from vqr1.data.splits import draw_subset
from vqr1.errors import ConfigError
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.protocol import score_images
from vqr1.evaluation.summary import summarise
from vqr1.inference.request import Request
from vqr1.iqa.answers import PUBLISHED
from vqr1.iqa.correlation import srcc
from vqr1.outputs import check_folder
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.packaged import tiny_policy_folder
from vqr1.policy.prompts import PromptBuilder
from vqr1.rollout.local import LocalEngine

SAMPLED = SamplingConfig(temperature=1.0, top_k=50, max_new_tokens=48, stop="answer")
GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=48, stop="answer")


@dataclass(frozen=True)
class Reading:
    """What answers state about damage, against what was done.

    Attributes:
        severity_srcc: Spearman's correlation of the mean level named with the true level.
        type_accuracy: share of answers that name the true type.
    """

    severity_srcc: float
    type_accuracy: float


def prompt_texts() -> dict[str, str]:
    """The published prompts by name, from `conf/prompt`."""
    return {
        name: str(OmegaConf.load(config_dir() / "prompt" / f"{name}.yaml").text)
        for name in PROMPT_SHARES
    }


def read_answers(predictions: Predictions) -> Reading:
    """Levels and types named in the answers, against those in the file names."""
    named: list[float] = []
    true: list[int] = []
    hits: list[bool] = []
    for image, texts in zip(predictions.images, predictions.texts, strict=True):
        match = re.search(r"_(\d\d)_(\d\d)\.png$", image)
        assert match is not None
        words = DISTORTIONS[int(match.group(1)) - 1].words
        levels = [
            i + 1 for text in texts for i, word in enumerate(SEVERITIES) if f" {word} " in text
        ]
        hits += [
            re.search(rf" (?:{'|'.join(SEVERITIES)}) {words}\b", text) is not None for text in texts
        ]
        named.append(float(np.mean(levels)) if levels else 0.0)
        true.append(int(match.group(2)))
    return Reading(srcc(np.array(named), np.array(true, dtype=np.float64)), float(np.mean(hits)))


def measure(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    console: Console,
) -> None:
    """Prints a table of zero-shot metrics on the demo set's unseen photographs."""
    builder = PromptBuilder(
        FAMILY, processor, prompt_texts()["thinking"], CROP**2, CROP**2, vision_id=VISION_ID
    )
    images = RankingDataModule(
        load_data_config(["dataset=demo"]).dataset,
        LoaderConfig(batch_size=50),
        builder,
        seed=0,
    )
    asked = PromptConfig(name="thinking", text=prompt_texts()["thinking"])
    engine = LocalEngine(model, processor.tokenizer, micro_batch_tokens=65536)
    table = Table(title="zero-shot on unseen photographs, thinking prompt")
    columns = ("part", "answers", "SRCC", "PLCC", "invalid", "format-compliant", "std of scores")
    for column in (*columns, "SRCC of named level", "type named"):
        table.add_column(column)
    for part in ("val", "test"):
        for name, sampling, samples in (("6 sampled", SAMPLED, 6), ("greedy", GREEDY, 1)):
            scored = score_images(
                engine,
                images.eval_dataloader(part),
                request=Request(asked, PUBLISHED, sampling, samples),
            )
            summary = summarise(scored, draws=0)
            reading = read_answers(scored)
            metrics = (
                summary.srcc,
                summary.metrics["plcc"].value,
                summary.invalid_rate,
                summary.format_compliance_rate,
                summary.score_std,
                reading.severity_srcc,
                reading.type_accuracy,
            )
            table.add_row(part, name, *(f"{metric:.3f}" for metric in metrics))
            if samples > 1:
                for row in draw_subset(scored.images, 4, 0, part):
                    console.print(scored.texts[row][0], markup=False)
    console.print(table)


def build(
    output: Path, settings: WarmStartSettings, prompts: Mapping[str, str], console: Console
) -> None:
    """Makes the tokenizer, trains the policy, writes the folder, measures it."""
    started = time.perf_counter()
    tokenizer = build_tokenizer(corpus(prompts), VOCABULARY)
    processor = build_processor(tokenizer)
    model = random_tiny_model(tokenizer, seed=settings.seed)
    bars = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*bars, console=console) as progress:
        pool = make_pool(settings.pool, settings.seed, progress)
        warm_start(model, processor, prompts, pool, settings, progress)
    save_policy_folder(model, tokenizer, output)
    seconds = time.perf_counter() - started
    size = (output / "model.safetensors").stat().st_size
    weights = sum(parameter.numel() for parameter in model.parameters())
    console.print(
        f"{output}: {weights:,} weights, {size / 1e6:.2f} MB, {len(tokenizer)} tokens, "
        f"built in {seconds:.0f} s"
    )
    for name, text in prompts.items():
        console.print(
            f"prompt {name}: {len(text)} characters, {len(tokenizer(text).input_ids)} tokens"
        )
    measure(model, processor, console)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build the tiny policy.")
    parser.add_argument("--output", type=Path, default=tiny_policy_folder(), help="policy folder")
    parser.add_argument("--seed", type=int, default=WarmStartSettings.seed)
    parser.add_argument("--threads", type=positive, default=2, help="CPU threads")
    parser.add_argument(
        "--measure-only", action="store_true", help="measure the folder instead of building it"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console()
    if options.measure_only:
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            options.output, dtype=torch.float32
        )
        processor = Qwen2_5_VLProcessor.from_pretrained(options.output)
        measure(model.eval(), processor, console)
        return
    if options.output.resolve() != tiny_policy_folder().resolve():
        try:
            check_folder(options.output, "this script", "--output")
        except ConfigError as error:
            sys.exit(f"error: {error}")
    build(options.output, WarmStartSettings(seed=options.seed), prompt_texts(), console)


if __name__ == "__main__":
    main()
