"""Ridge regression on exactly the features that the model is given: what all lines are held to.

    python experiments/real_vlm/ridge.py --data DIR --model FOLDER --features DIR2

The tower's rows of an image (cells x channels, as the projector takes them) in three forms: their
mean, mean and standard deviation over the cells, and all cells side by side. It is fitted to the
images that the lines train on. Channels are standardised by them; penalty and form are chosen by
the leave-one-out error on them. Writes `results/ridge.json` and the chosen form's predictions,
`results/ridge_inside.csv`; and `results/near_identical.txt`, the test images that are
near-identical to an image of the training split, which the set's own split does not part.

Not here: the features (`features.py`), anything that the language model adds.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from features import opened, parse_arguments, read_features  # noqa: E402

from vqr1.data.near_duplicates import image_hashes, near_pairs  # noqa: E402
from vqr1.iqa.correlation import srcc  # noqa: E402


def ridge(x: Any, y: Any, test: Any) -> tuple[Any, float]:
    """A ridge on `x` [N, F] and `y` [N] with the best of some penalties.

    Returns:
        [M] predictions for `test` [M, F], and the mean squared leave-one-out error on `x`, whose
        channels stay standardised by all.
    """
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    x, test = (x - mean) / std, (test - mean) / std
    values, vectors = np.linalg.eigh(x @ x.T)
    centred = vectors.T @ (y - y.mean())
    best, chosen = np.inf, None
    for power in np.arange(-4, 3, 0.5):
        penalty = 10.0**power * x.shape[1]
        # 1 - leverage, of which the mean of all has 1 / N.
        left = penalty / (values + penalty)
        rest = (vectors**2 @ left) - 1 / len(y)
        error = float((((vectors @ (left * centred)) / rest) ** 2).mean())
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
    given = parse_arguments(__doc__)
    features = read_features(given.data, given.model, given.features)
    train, test = features["train"], features["test"]
    known, asked = train.forms(), test.forms()
    found = {form: ridge(known[form], train.mos, asked[form]) for form in known}
    scores = {form: srcc(values, test.mos) for form, (values, _) in found.items()}
    chosen = min(found, key=lambda form: found[form][1])
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    with (results / "ridge_inside.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "mos", "score", "std"))
        writer.writerows(
            (name, f"{value:.5g}", f"{score:.5g}", "")
            for name, value, score in zip(test.names, test.mos, found[chosen][0], strict=True)
        )
    shapes = list(train.rows.shape[1:])
    record = {"features": shapes, "images": len(train.mos), "srcc": scores, "chosen": chosen}
    text = json.dumps(record, indent=1) + "\n"
    (results / "ridge.json").write_text(text, encoding="utf-8")
    _, data = opened(given.data, given.model)
    lines = "".join(f"{name}\n" for name in near_identical(data))
    (results / "near_identical.txt").write_text(lines, encoding="utf-8")
    print({form: round(value, 4) for form, value in scores.items()}, "on", shapes, chosen)


if __name__ == "__main__":
    main()
