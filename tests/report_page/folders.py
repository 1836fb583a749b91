"""Folders of finished runs, written by hand, with names and answers that are markup."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>'\"&.png"
"""A file name, and a text of a model."""
SECRET = "+logger.tags.api_key=hunter2hunter2"


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def predictions(path: Path, rows: list[tuple[str, float, str, str]]) -> None:
    """Rows of image, MOS, score as text, answer; rows of one image are its answers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("dataset", "image", "mos", "score", "text"))
        writer.writerows(("demo", *row) for row in rows)


def training(folder: Path) -> Path:
    """A training of twelve test images, the first one hostile."""
    names = [HOSTILE, *(f"{i}.png" for i in range(1, 12))]
    before = [(name, 1 + i / 3, str(3 + i % 3 / 10), f"<think>a {i}</think>") for i, name in
              enumerate(names)]  # fmt: skip
    after = [(name, 1 + i / 3, str(1.1 + i / 4), f"<think>b {i}</think>") for i, name in
             enumerate(names)]  # fmt: skip
    after[0] = (HOSTILE, 1.0, "1.5", HOSTILE)
    predictions(folder / "predictions/test_before.csv", before)
    predictions(folder / "predictions/test_after.csv", after)
    steps = ["step,train/loss,train/reward/total,val/srcc"]
    steps += [f"{i},{1 / (i + 1)},{i / 40},{i / 50 if i % 10 == 0 else ''}" for i in range(31)]
    write(folder / "metrics.csv", "\n".join(steps) + "\n")
    write(
        folder / "run.json", {"started": "2026-01-01", "overrides": [f"run_dir={HOSTILE}", SECRET]}
    )
    named = json.dumps({"seed": 3, "model": {"name": "tiny"}, "dataset": {"name": HOSTILE}})
    write(folder / "config.yaml", named)
    write(folder / "environment.json", {"vqr1": "1", "GPUs": HOSTILE})
    worst = {"dataset": "demo", "image": HOSTILE, "mos": 1.0, "score": 4.0, "fitted": 3.5,
             "reasoning": HOSTILE, "thumbnail": "javascript:alert(1)"}  # fmt: skip
    write(folder / "worst/demo.json", [worst])
    table = {"title": HOSTILE, "columns": ["policy", "SRCC"], "name": "test", "rules": [],
             "rows": [["before", "0.1"], ["after", "0.9"]], "notes": [HOSTILE]}  # fmt: skip
    write(folder / "tables/tables.json", [table])
    values = {"test_srcc_before": 0.1, "test_srcc_after": 0.9, "test_images": 12, "seconds": 75.0,
              "test_srcc_gain_interval": [0.4, 0.95], "exported_step": 30,
              "exported_by": "validation"}  # fmt: skip
    write(folder / "summary.json", values)
    return folder


def evaluation(folder: Path) -> Path:
    """An evaluation of two sets with a fitted curve."""
    one = {"srcc": {"value": 0.8, "low": 0.6, "high": 0.9},
           "fits": {"logistic4": {"parameters": [5.0, 1.0, 3.0, 0.5], "reason": None}}}  # fmt: skip
    write(folder / "metrics.json", {"sets": {"demo": one, "other": {**one, "fits": {}}}})
    predictions(
        folder / "predictions.csv", [(f"{i}.png", i / 3, str(i / 4), "x") for i in range(12)]
    )
    write(folder / "evaluation.json", {})
    sets = {"demo": {"images": 12, "scored": 12}, "other": {"images": 9, "scored": 8}}
    write(folder / "summary.json", {"srcc": 0.8, "srcc_interval": [0.7, 0.9], "sets": sets})
    return folder


def sweep(folder: Path) -> Path:
    """A sweep of two settings; the second one failed."""
    write(folder / "sweep.json", {})
    rows = [{"setting": {"reward": "mse"}, "by_seed": {"1": 0.5}, "jobs": 1, "missing": {},
             "mean": 0.5, "interval": [0.4, 0.6], "std": 0.1, "best": 0.6, "p_value": None},
            {"setting": {"reward": "fidelity"}, "by_seed": {}, "jobs": 1, "missing": {"failed": 1},
             "mean": None, "interval": [None, None], "p_value": 0.04}]  # fmt: skip
    jobs = [
        {"number": 0, "status": "FINISHED", "swept": {"reward": "mse"}, "value": 0.5},
        {"number": 1, "status": "FAILED", "swept": {"reward": "fidelity"}, "error": HOSTILE},
    ]
    values = {"command": "train.py -m", "metric": "test/srcc_after", "rows": rows, "jobs": jobs,
              "counts": {"FINISHED": 1, "FAILED": 1}}  # fmt: skip
    write(folder / "sweep_summary.json", values)
    write(folder / "0/metrics.csv", "step,val/srcc\n0,0.1\n5,0.5\n")
    write(folder / "0/report.html", "")
    return folder
