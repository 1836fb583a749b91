"""The README's image: photographs of the demo set with the score, its uncertainty and the answer.

    python scripts/readme_image.py --model RUN/export --out docs/images/scored.png

Four test images from the best to the worst MOS are scored by the checkpoint of a training
(`python train.py`, or another one). The text below each is what the model wrote before its score.

Not here: plots of a run (`vqr1.evaluation.report`).
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pandas as pd
from PIL import Image

import vqr1
from vqr1.data.demo import ensure_demo_set
from vqr1.inference.compare import compare
from vqr1.inference.result import Result

COUNT = 4


def chosen(root: Path) -> pd.DataFrame:
    """`COUNT` test images from the best to the worst MOS, of different photographs.

    Args:
        root: folder of the demo set.
    """
    table = pd.read_csv(root / "dmos.csv")
    test = (root / "splits" / "test.txt").read_text().split()
    table = table[table["dist_img"].isin(test) | table["ref_img"].isin(test)]
    table = table.sort_values(["dmos", "dist_img"], ascending=[False, True])
    rows = table.iloc[[round(n * (len(table) - 1) / (COUNT - 1)) for n in range(COUNT)]]
    return rows.reset_index(drop=True)


def reasoning(text: str | None) -> str:
    """What stands between the tags of the reasoning; all of the text where there are none."""
    found = re.search(r"<think>(.*?)</think>", text or "", re.DOTALL)
    return " ".join((found[1] if found else text or "").split())


def draw(rows: pd.DataFrame, root: Path, results: Sequence[Result], out: Path) -> None:
    """Write the image.

    Args:
        rows: of the set's table, as `chosen` gives them.
        root: folder of the demo set.
        results: one for each row.
        out: PNG file.
    """
    figure, axes = plt.subplots(1, COUNT, figsize=(10, 3.9), dpi=110)
    for axis, name, mos, result in zip(axes, rows["dist_img"], rows["dmos"], results, strict=True):
        axis.imshow(Image.open(root / "images" / name))
        axis.axis("off")
        axis.set_title(f"{result.score:.2f} ± {result.std:.2f}", fontsize=15, weight="bold")
        words = textwrap.fill(f"“{reasoning(result.text)}”", 30)
        axis.text(
            0.5, -0.05, f"MOS {mos:.2f}\n\n{words}",
            transform=axis.transAxes, ha="center", va="top", fontsize=9,
        )  # fmt: skip
    better = compare(results).probability(0, COUNT - 1)
    figure.suptitle(f"P(first better than last) = {better:.2f}", y=0.06, fontsize=9)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.92, bottom=0.36, wspace=0.08)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    plt.close(figure)
    Image.open(out).convert("P", palette=Image.Palette.ADAPTIVE).save(out, optimize=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Score and draw."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python scripts/readme_image.py")
    parser.add_argument("--model", required=True, help="folder of an exported checkpoint")
    parser.add_argument("--out", type=Path, default=Path("docs/images/scored.png"))
    options = parser.parse_args(arguments)
    root = ensure_demo_set()
    rows = chosen(root)
    metric = vqr1.create_metric("tiny", model=options.model)
    results = metric.scorer.score([root / "images" / name for name in rows["dist_img"]])
    draw(rows, root, results, options.out)


if __name__ == "__main__":
    main()
