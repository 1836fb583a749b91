"""Ridge regression on exactly the features that the model is given: the ceiling of all lines.

    python experiments/real_vlm/ridge.py --data DIR --model FOLDER

The tower's rows of an image (cells x channels, as the projector takes them) in three forms: their
mean, mean and standard deviation over the cells, and all cells side by side. It is fitted to the
images that the lines train on. Channels are standardised by them; penalty and form are chosen by
the leave-one-out error on them. Writes `results/ridge.json` and the chosen form's predictions,
`results/ridge_inside.csv`; and `results/near_identical.txt`, the test images that are
near-identical to an image of the training split, which the set's own split does not part.

Not here: anything that the language model adds.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from vqr1.cli.compose import compose_config, plain_values  # noqa: E402
from vqr1.config import TrainConfig, validate  # noqa: E402
from vqr1.data.near_duplicates import image_hashes, near_pairs  # noqa: E402
from vqr1.iqa.correlation import srcc  # noqa: E402
from vqr1.policy.loading import load_policy  # noqa: E402
from vqr1.rewards.build import build_rewards  # noqa: E402
from vqr1.training.opening import open_data  # noqa: E402
from vqr1.training.stages import build_stage  # noqa: E402


@torch.inference_mode()
def rows_of(config: TrainConfig, split: str, policy: Any, data: Any) -> tuple[Any, Any, list[str]]:
    """[N, T, C] rows of a split's images, their MOS [N] and names."""
    rows, mos, names = [], [], []
    for batch in data.eval_dataloader(split, None, 32):
        images = list(batch.prompts.flat_images)
        encoding = policy.model.image_encoding
        for image in images:
            (found,) = policy.family.tower_rows(policy.model, encoding, [image])
            rows.append(found.half().numpy())
        mos += batch.mos.tolist()
        names += [name for group in batch.images for name in group]
        print(f"\r{split}: {len(names)}", end="", flush=True)
    print()
    return np.stack(rows), np.array(mos), names


def forms(rows: Any) -> dict[str, Any]:
    """[N, F] by name."""
    rows = rows.astype(np.float64)
    mean = rows.mean(axis=1)
    return {
        "mean": mean,
        "mean_and_deviation": np.concatenate([mean, rows.std(axis=1)], axis=1),
        "all_cells": rows.reshape(len(rows), -1),
    }


def ridge(x: Any, y: Any, test: Any) -> tuple[Any, float]:
    """A ridge on `x` [N, F] and `y` [N] with the best of some penalties.

    Returns:
        [M] predictions for `test` [M, F], and the mean squared leave-one-out error on `x`.
    """
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    x, test = (x - mean) / std, (test - mean) / std
    values, vectors = np.linalg.eigh(x @ x.T)
    centred = vectors.T @ (y - y.mean())
    best, chosen = np.inf, None
    for power in np.arange(-4, 3, 0.5):
        penalty = 10.0**power * x.shape[1]
        share = values / (values + penalty)
        left = (y - y.mean() - vectors @ (share * centred)) / (1 - (vectors**2 * share).sum(axis=1))
        error = float((left**2).mean())
        if error < best:
            best, chosen = error, vectors @ (centred / (values + penalty))
    return test @ (x.T @ chosen) + y.mean(), best


def near_identical(data: Any) -> list[str]:
    """Names of test images that are near-identical to a training image, by perceptual hash."""
    (labelled,) = data.sets.values()
    hashes = {}
    for split in ("train", "test"):
        rows = labelled.rows(split)
        hashes[split] = image_hashes([labelled.image_path(row) for row in rows.index])
    names = labelled.rows("test")["image"].tolist()
    found = near_pairs(hashes["test"], hashes["train"])[:, 0]
    return [names[position] for position in sorted(set(found.tolist()))]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="folder of BIQ2021")
    parser.add_argument("--model", required=True, help="assembled folder")
    parser.add_argument("--images", type=int, help="a trial with so many images of each split")
    given = parser.parse_args()
    overrides = [
        "experiment=real_vlm", "dataset=biq2021", f"dataset.root={given.data}",
        f"model.path={given.model}", "model.lora=null", "model.freeze_vision=true",
        "optimizer.lr_connector=null", "run_dir=unused", "dataset.split.near_duplicates=ignore",
    ]  # fmt: skip
    if given.images:
        overrides.append(f"dataset.max_images={given.images}")
    config = validate(TrainConfig, plain_values(compose_config("train", overrides)))
    torch.set_num_threads(config.hardware.threads or 1)
    policy = load_policy(config.model)
    data = open_data(config, build_stage(config.stage), build_rewards(config.reward))
    train, y, _ = rows_of(config, "train", policy, data)
    test, mos, names = rows_of(config, "test", policy, data)
    shapes = list(train.shape[1:])
    known, asked = forms(train), forms(test)
    found = {form: ridge(known[form], y, asked[form]) for form in known}
    scores = {form: srcc(values, mos) for form, (values, _) in found.items()}
    chosen = min(found, key=lambda form: found[form][1])
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    if not given.images:
        with (results / "ridge_inside.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("image", "mos", "score", "std"))
            writer.writerows(
                (name, f"{value:.5g}", f"{score:.5g}", "")
                for name, value, score in zip(names, mos, found[chosen][0], strict=True)
            )
        record = {"features": shapes, "images": len(y), "srcc": scores, "chosen": chosen}
        text = json.dumps(record, indent=1) + "\n"
        (results / "ridge.json").write_text(text, encoding="utf-8")
        lines = "".join(f"{name}\n" for name in near_identical(data))
        (results / "near_identical.txt").write_text(lines, encoding="utf-8")
    print({form: round(value, 4) for form, value in scores.items()}, "on", shapes)


if __name__ == "__main__":
    main()
