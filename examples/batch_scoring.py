"""Score a folder through the HTTP service, sixteen images a request: FOLDER TABLE.csv [ADDRESS]."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import requests

TYPES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def main(arguments: Sequence[str]) -> None:
    """Write a row for each image: its score, standard deviation and the answer's text."""
    folder, table, address, *_ = [*arguments, "http://127.0.0.1:8000"]
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in TYPES)
    rows = []
    for start in range(0, len(paths), 16):
        files = [("images", (str(path), path.read_bytes())) for path in paths[start : start + 16]]
        answer = requests.post(f"{address}/score", files=files, timeout=600)
        answer.raise_for_status()
        rows += answer.json()["results"]
    pd.DataFrame(rows).to_csv(table, index=False)


if __name__ == "__main__":
    main(sys.argv[1:])
