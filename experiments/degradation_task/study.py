"""Does a policy learn an auxiliary task? Runs the study and writes `results.csv`.

    python experiments/degradation_task/study.py   # continues what was stopped

The packaged policy is first taught the form of `tasks=degradation` by answers that state random
classes and severities, one to each image, so that the form is learned and nothing about any image.
Then it trains on the task alone.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from vqr1.data.demo import ensure_demo_set  # noqa: E402

OUT = ROOT / "outputs/degradation_task"
SEEDS = (1, 2, 3)
FORM_STEPS, STEPS = 150, 150
COMMON = (
    "dataset=demo", "hardware.threads=1", "loader.workers=0", "logger=csv",
    "validation.every_steps=100000", "validation.samples=1", "validation.max_images=400",
    "validation.test=false", "optimizer.lr=4e-4",
)  # fmt: skip
WORDS = ("I look at the edges.", "I look at the flat parts.", "I look at the light.")
METRICS = ("class", "severity", "accuracy")


def task() -> dict[str, dict[str, object]]:
    """The task's file."""
    values = yaml.safe_load((ROOT / "conf/tasks/degradation.yaml").read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def write_lessons(path: Path) -> None:
    """Random answers in the task's form; "null" is as frequent as one class, as in the task."""
    data = task()["data"]
    classes, levels = [*data["classes"], "null"], data["levels"]  # type: ignore[misc]
    rng = np.random.default_rng(0)
    with (ensure_demo_set() / "dmos.csv").open(newline="", encoding="utf-8") as file:
        names = [row["dist_img"] for row in csv.DictReader(file)]
    lines = []
    for name in names:
        kind = str(rng.choice(classes))
        severity = "null" if kind == "null" else str(rng.choice(levels))  # type: ignore[arg-type]
        # Supervised responses state a score too (`answer=distortion_json`).
        rating = round(float(rng.uniform(1, 5)), 2)
        stated = json.dumps({"distortion_class": kind, "severity": severity, "rating": rating})
        response = f"<think>{rng.choice(WORDS)}</think><answer>{stated}</answer>"
        lines.append(json.dumps({"image": name, "response": response}) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def train(folder: Path, *overrides: str) -> None:
    """Train in a folder, or continue there; nothing where it is done."""
    if (folder / "export" / "config.json").is_file():
        return
    given = [*overrides, *COMMON, f"run_dir={folder}"]
    if (folder / "run.json").is_file():
        given = [f"resume={folder}"]
    subprocess.run([sys.executable, str(ROOT / "train.py"), *given], check=True)


def last_values(folder: Path) -> dict[str, float]:
    """The last value of each metric of a run."""
    found: dict[str, float] = {}
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found |= {name: float(value) for name, value in row.items() if value}
    return found


def main() -> None:
    """Run what is missing."""
    answers = OUT / "lessons.jsonl"
    write_lessons(answers)
    asked = task()["prompt"]
    train(
        OUT / "form", "stage=sft", "answer=distortion_json", f"stage.answers={answers}",
        f"max_steps={FORM_STEPS}",
        f"prompt.system='{asked['system']}'", f"prompt.text='{asked['text']}'", "seed=1",
    )  # fmt: skip
    rows = []
    for seed in SEEDS:
        folder = OUT / f"seed{seed}"
        train(
            folder, f"model.path={OUT / 'form' / 'export'}", "tasks=degradation",
            "tasks.degradation.share=1", f"max_steps={STEPS}", f"seed={seed}",
        )  # fmt: skip
        values = last_values(folder)
        rows.append(
            {"seed": seed}
            | {
                f"{name}_{when}": round(values[f"questions/degradation/{name}_{when}"], 4)
                for name in METRICS
                for when in ("before", "after")
            }
        )
    with (HERE / "results.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
