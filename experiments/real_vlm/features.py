"""The tower's rows of all images, as the projector takes them: computed once, kept in a folder.

Not here: what is fitted to them (`ridge.py`, `simulate.py`).
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from vqr1.cli.compose import compose_config, plain_values  # noqa: E402
from vqr1.config import TrainConfig, validate  # noqa: E402
from vqr1.policy.loading import load_policy  # noqa: E402
from vqr1.rewards.build import build_rewards  # noqa: E402
from vqr1.training.opening import open_data  # noqa: E402
from vqr1.training.stages import build_stage  # noqa: E402


@dataclass(frozen=True)
class SplitFeatures:
    """One split, in the set's order.

    Attributes:
        rows: [N, T, C] float16, T cells of C channels.
        mos: [N].
        names: of the images.
    """

    rows: Any
    mos: Any
    names: list[str]

    def forms(self) -> dict[str, Any]:
        """[N, F] float64 by name: cells together, with their deviations, side by side."""
        rows = self.rows.astype(np.float64)
        mean = rows.mean(axis=1)
        return {
            "mean": mean,
            "mean_and_deviation": np.concatenate([mean, rows.std(axis=1)], axis=1),
            "all_cells": rows.reshape(len(rows), -1),
        }


def parse_arguments(description: str) -> argparse.Namespace:
    """`data`, `model` and `features` of the command line, the arguments of `read_features`.

    Args:
        description: docstring of the script, of which `--help` shows the first line.
    """
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of BIQ2021")
    parser.add_argument("--model", type=Path, required=True, help="assembled folder")
    parser.add_argument("--features", type=Path, default=Path("outputs/real_vlm_features"))
    return parser.parse_args()


def opened(data: Path, model: Path) -> tuple[TrainConfig, Any]:
    """Configuration and images of the lines' trainings, of a model whose tower is frozen."""
    overrides = [
        "experiment=real_vlm", "dataset=biq2021", f"dataset.root={data}", f"model.path={model}",
        "model.lora=null", "model.freeze_vision=true", "optimizer.lr_connector=null",
        "run_dir=unused", "dataset.split.near_duplicates=ignore",
    ]  # fmt: skip
    config = validate(TrainConfig, plain_values(compose_config("train", overrides)))
    return config, open_data(config, build_stage(config.stage), build_rewards(config.reward))


def read_features(data: Path, model: Path, folder: Path) -> dict[str, SplitFeatures]:
    """Rows of the training and test images; those that `folder` holds are not computed again.

    Args:
        data: folder of BIQ2021.
        model: assembled checkpoint.
        folder: two files are read there, or written, named by the model's weights and `data`.
    """
    with (model / "model.safetensors").open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256")
    digest.update(str(data.resolve()).encode())
    files = {s: folder / f"{s}_{digest.hexdigest()[:12]}.npz" for s in ("train", "test")}
    if not all(file.is_file() for file in files.values()):
        folder.mkdir(parents=True, exist_ok=True)
        config, images = opened(data, model)
        policy = load_policy(config.model)
        for split, file in files.items():
            found = _rows_of(policy, images, split)
            aside = file.with_suffix(".part.npz")
            np.savez(aside, rows=found.rows, mos=found.mos, names=np.array(found.names))
            aside.replace(file)
    kept = {}
    for split, file in files.items():
        with np.load(file, allow_pickle=False) as arrays:
            names = arrays["names"].tolist()
            kept[split] = SplitFeatures(arrays["rows"], arrays["mos"], names)
    return kept


@torch.inference_mode()
def _rows_of(policy: Any, data: Any, split: str) -> SplitFeatures:
    rows, mos, names = [], [], []
    for batch in data.eval_dataloader(split, None, 32):
        for image in batch.prompts.flat_images:
            encoding = policy.model.image_encoding
            (found,) = policy.family.tower_rows(policy.model, encoding, [image])
            rows.append(found.half().numpy())
        mos += batch.mos.tolist()
        names += [name for group in batch.images for name in group]
        print(f"\r{split}: {len(names)}", end="", flush=True)
    print()
    return SplitFeatures(np.stack(rows), np.array(mos), names)
