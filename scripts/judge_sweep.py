"""Judges the exported policies of a sweep on test images, side by side on the same images.

    python scripts/judge_sweep.py multirun/train/<date> --output FOLDER [--set key=value ...]

One process loads the test images once and scores them with the policy of every job that finished. A
setting's figure is the mean of its seeds' SRCC; its interval, and that of its difference to the
first one, come from draws of the images that all policies share (paired bootstrap), so that both
images and the same seeds are common to what is compared. What an interval over images cannot know
is how much seeds differ: the spread over seeds stands beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import ModelConfig, TrainConfig, validate
from vqr1.data.datamodule import RankingDataModule
from vqr1.errors import ConfigError
from vqr1.evaluation.protocol import score_images
from vqr1.iqa.correlation import srcc
from vqr1.outputs import check_file
from vqr1.policy.loading import load_policy
from vqr1.policy.prompts import load_prompts
from vqr1.policy.training_prompt import vision_id_of
from vqr1.rollout.local import LocalEngine
from vqr1.sweeps.folder import FINISHED, SweepFolder
from vqr1.training.validation import validation_modes

DRAWS = 1000
COLUMNS = (
    "setting", "seeds", "srcc", "low", "high", "std_over_seeds", "by_seed", "difference",
    "difference_low", "difference_high",
)  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """One policy's scores of the test images.

    Attributes:
        setting: swept values without the seed.
        seed: the run's seed.
        scores: [n] mean score of each image, NaN without a valid answer.
    """

    setting: str
    seed: str
    scores: np.ndarray


def swept_values(folder: Path) -> dict[str, str]:
    """A job's swept values: from its record, or from Hydra's list of overrides."""
    record = folder / "job.json"
    if record.is_file():
        values = json.loads(record.read_text())
        return dict(values["job"]["swept"])
    lines = (folder / ".hydra" / "overrides.yaml").read_text().splitlines()
    pairs = dict(line.removeprefix("- ").split("=", 1) for line in lines if "=" in line)
    return {key: pairs[key] for key in ("reward", "grpo.group_size", "seed") if key in pairs}


def judge_all(
    folders: list[Path], config: TrainConfig, samples: int, limit: int
) -> tuple[np.ndarray, list[Judged]]:
    """Opinion scores of the test images, and every policy's scores of them."""
    vision_id = vision_id_of(config.prompt, config.model)
    prompts = load_prompts(config.model, config.prompt.text, vision_id=vision_id)
    data = RankingDataModule(
        config.dataset, config.loader, prompts, seed=1, val_max_images=None, val_batch_size=64
    )
    data.setup("test")
    batches = list(data.eval_dataloader("test", max_images=limit, batch_size=64))
    request = validation_modes(config.rollout.sampling, samples, 0, config.prompt).primary
    judged, mos = [], np.zeros(0)
    for folder in folders:
        swept = swept_values(folder)
        seed = swept.pop("seed", "1")
        values = {**vars(config.model), "path": str(folder / "export")}
        policy = load_policy(validate(ModelConfig, values))
        engine = LocalEngine(policy.model, policy.processor.tokenizer, 16384)
        predictions = score_images(engine, batches, request=request)
        setting = ", ".join(f"{key}={value}" for key, value in swept.items())
        judged.append(Judged(setting, seed, predictions.image_scores()))
        mos = predictions.mos
        print(f"{folder.name}: {setting} seed {seed}", flush=True)
    return mos, judged


def figure_of(scores: np.ndarray, mos: np.ndarray) -> float:
    """SRCC over the images that have a score."""
    known = np.isfinite(scores)
    return float(srcc(scores[known], mos[known]))


def table(mos: np.ndarray, judged: list[Judged]) -> pd.DataFrame:
    """A row for each setting, with paired intervals against the first."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(mos), (DRAWS, len(mos)))
    settings = list(dict.fromkeys(j.setting for j in judged))
    drawn: dict[str, np.ndarray] = {}
    rows: list[dict[str, Any]] = []
    for setting in settings:
        members = [j for j in judged if j.setting == setting]
        seeds = [figure_of(j.scores, mos) for j in members]
        drawn[setting] = np.array(
            [[figure_of(j.scores[d], mos[d]) for d in draws] for j in members]
        ).mean(axis=0)
        low, high = np.percentile(drawn[setting], [2.5, 97.5])
        gain = drawn[setting] - drawn[settings[0]]
        gain_low, gain_high = np.percentile(gain, [2.5, 97.5])
        rows.append(
            {
                "setting": setting, "seeds": len(seeds), "srcc": np.mean(seeds), "low": low,
                "high": high, "std_over_seeds": np.std(seeds, ddof=1) if len(seeds) > 1 else None,
                "by_seed": " ".join(f"{value:.3f}" for value in seeds),
                "images": len(mos),
                "unscored": " ".join(str(int(np.isnan(j.scores).sum())) for j in members),
                "difference": np.mean(seeds) - rows[0]["srcc"] if rows else 0.0,
                "difference_low": gain_low, "difference_high": gain_high,
            }
        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def is_own_table(path: Path) -> bool:
    """Whether a file begins as the tables of this script do."""
    with path.open("rb") as file:
        return file.readline().strip() == ",".join(COLUMNS).encode()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Judge the policies of a sweep on test images.")
    parser.add_argument("sweep", type=Path, nargs="+", help="folder of a sweep")
    parser.add_argument("--output", type=Path, required=True, help="folder for judged.csv")
    parser.add_argument("--samples", type=int, default=2, help="answers for each image")
    parser.add_argument("--images", type=int, default=600, help="test images at most")
    parser.add_argument("--set", nargs="*", default=[], help="configuration, as in train.py")
    options = parser.parse_args()
    target = options.output / "judged.csv"
    try:
        check_file(target, "--output", is_own_table)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    torch.set_num_threads(1)
    composed = compose_config("train", ["run_dir=unused", *options.set])
    config = validate(TrainConfig, plain_values(composed))
    attempts = [a for sweep in options.sweep for a in SweepFolder(sweep).results().values()]
    folders = [attempt.folder for attempt in attempts if attempt.status == FINISHED]
    if not folders:
        sys.exit(f"error: no finished job in {', '.join(map(str, options.sweep))}")
    mos, judged = judge_all(folders, config, options.samples, options.images)
    options.output.mkdir(parents=True, exist_ok=True)
    result = table(mos, judged)
    result.to_csv(target, index=False, float_format="%.4f")
    print(result.to_string())
    print(f"{len(mos)} images, {options.samples} answers each; unscored: without a valid answer")
    print(f"{len(folders)} of {len(attempts)} jobs; the others did not finish and are left out")


if __name__ == "__main__":
    main()
