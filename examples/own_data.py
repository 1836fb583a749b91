"""Train on images and scores of your own; here photographs that are blurred more and more."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from PIL import Image, ImageFilter
from skimage import data

from vqr1.cli.train import main


def write_set(root: Path) -> None:
    """Write a folder of images and `labels.csv`, whose columns may have any name."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for name in ("astronaut", "chelsea", "coffee", "rocket", "retina"):
        photo = Image.fromarray(getattr(data, name)()).convert("RGB").resize((224, 224))
        for blur in range(4):
            photo.filter(ImageFilter.GaussianBlur(blur)).save(root / f"images/{name}_{blur}.png")
            rows.append((f"{name}_{blur}.png", 5.0 - blur, name))
    table = pd.DataFrame(rows, columns=["file", "score", "photograph"])
    table.to_csv(root / "labels.csv", index=False)


if __name__ == "__main__":
    write_set(Path("own_data"))
    # Copies of one photograph go into one split.
    sys.argv[1:1] = [
        *("dataset=csv", "dataset.root=own_data", "dataset.label_file=labels.csv"),
        *("dataset.columns.image=file", "dataset.columns.mos=score"),
        *("dataset.columns.reference=photograph", "dataset.split.by=reference"),
        *("dataset.split.fractions=[0.6,0.2,0.2]", "loader.batch_size=4"),
    ]
    main()
