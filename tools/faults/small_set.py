"""A small set in KADID-10k's official form, for processes that need one on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_kadid(root: Path, references: int = 6, levels: int = 4) -> Path:
    """A small set in KADID's format: noise of rising strength over random colours."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["dist_img,ref_img,dmos,var"]
    for reference in range(1, references + 1):
        base = np.full((56, 56, 3), rng.integers(60, 200, 3))
        for level in range(1, levels + 1):
            name = f"I{reference:02d}_01_{level:02d}.png"
            noisy = base + rng.normal(0, 12 * (level - 1) + 1, base.shape)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / "images" / name)
            rows.append(f"{name},I{reference:02d}.png,{5 - level + 0.1 * reference:.2f},0.2")
    (root / "dmos.csv").write_text("\n".join(rows) + "\n")
    return root
