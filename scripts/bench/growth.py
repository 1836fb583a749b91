"""What grows, and how each is made and measured; see `bench_growth.py`.

Not here: exponents and the plot.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PARAMS, TAGS, METRICS, POINTS = 250, 30, 15, 10
"""Of a run in the tracking store, as a training logs them."""

SCORE = Path(__file__).resolve().parents[2] / "score.py"
_LINKS = 1000
"""Names that one file on the disk has at most."""


@dataclass(frozen=True)
class Axis:
    """One number that grows.

    Attributes:
        unit: what is counted.
        sizes: measured, ascending.
        make: writes what is measured into a folder; not timed.
        measure: the work, in a process of its own.
    """

    unit: str
    sizes: tuple[int, ...]
    make: Callable[[int, Path], None]
    measure: Callable[[int, Path], None]


def make_images(count: int, folder: Path) -> None:
    """So many names of small JPEGs in folders of a thousand, and a table of labels."""
    draw = np.random.default_rng(0)
    lines, source = ["image,mos,std"], folder
    for number in range(count):
        name = folder / "images" / f"{number // _LINKS:04d}" / f"{number:07d}.jpg"
        if number % _LINKS == 0:
            name.parent.mkdir(parents=True)
            pixels = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((128, 96)).save(name, quality=80)
            source = name
        else:
            os.link(source, name)
        lines.append(f"{name.relative_to(folder / 'images')},{1 + number * 7919 % 4001 / 1000},0.5")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def make_different_images(count: int, folder: Path) -> None:
    """As `make_images`, no two files alike: what follows a JPEG's end is not read."""
    make_images(count, folder)
    for number, file in enumerate(sorted((folder / "images").rglob("*.jpg"))):
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content + str(number).encode())


def open_labels(count: int, folder: Path) -> None:
    """Open the set, split it, and take the first training batch."""
    from vqr1.cli.compose import compose_config, plain_values
    from vqr1.config import TrainConfig, validate
    from vqr1.process_memory import collection_paused
    from vqr1.rewards.build import build_rewards
    from vqr1.training.opening import open_data
    from vqr1.training.stages import build_stage

    overrides = [
        "dataset=csv", f"dataset.root={folder}", "dataset.label_file=labels.csv",
        "dataset.split.by=image", "dataset.split.near_duplicates=ignore", "loader.workers=0",
        "run_dir=unused",
    ]  # fmt: skip
    config = validate(TrainConfig, plain_values(compose_config("train", overrides)))
    stage, rewards = build_stage(config.stage), build_rewards(config.reward)
    # As `run_training` does.
    with collection_paused(), closing(open_data(config, stage, rewards)) as data:
        assert sum(len(found.table) for found in data.sets.values()) == count
        data.digests()
        next(iter(data.train_dataloader()))


def score_images(count: int, folder: Path) -> None:
    """Score a folder with the packaged policy, every answer written to a file that can resume."""
    output = folder / "scores.csv"
    overrides = ["mode=expected", "prompt=non_thinking", f"output={output}", "hardware.threads=1"]
    command = [sys.executable, str(SCORE), str(folder / "images"), *overrides]
    subprocess.run(command, check=True)
    assert len(output.read_text().splitlines()) == count + 1


def make_runs(count: int, folder: Path) -> None:
    """A tracking store with a sweep's parent run and so many finished children."""
    from sqlalchemy import MetaData, create_engine

    from vqr1.sweeps.parent import FOLDER_TAG
    from vqr1.tracking.store import prepare_experiment, quick_client

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    experiment = prepare_experiment(uri, "vqr1")
    client = quick_client(uri)
    tags = {"vqr1.command": "train.py -m ...", FOLDER_TAG: str(folder / "sweep")}
    parent = client.create_run(experiment, tags=tags).info.run_id
    for key in ("optimizer.lr", "seed"):
        client.log_param(parent, key, "*")
    client.set_terminated(parent)
    (folder / "parent").write_text(parent)
    engine = create_engine(uri)
    tables = MetaData()
    tables.reflect(engine)
    with engine.begin() as store:
        for table, rows in _children(count, parent, int(experiment)).items():
            store.execute(tables.tables[table].insert(), rows)
    engine.dispose()


def _children(count: int, parent: str, experiment: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of the store's tables, as MLflow itself writes them."""
    tables: dict[str, list[dict[str, Any]]] = {
        "runs": [], "tags": [], "params": [], "metrics": [], "latest_metrics": [],
    }  # fmt: skip
    for number in range(count):
        run = uuid.UUID(int=number + 1).hex
        tables["runs"].append(
            {
                "run_uuid": run, "name": f"job {number}", "source_type": "LOCAL", "user_id": "any",
                "status": "FINISHED", "start_time": 1000 * number, "end_time": 1000 * number + 500,
                "lifecycle_stage": "active", "experiment_id": experiment,
                "artifact_uri": f"artifacts/{run}",
            }
        )  # fmt: skip
        tags = {
            "mlflow.parentRunId": parent, "vqr1.job": f"{number:012x}",
            "vqr1.job_number": str(number), "optimizer.lr": f"{number // 5}e-6",
            "seed": str(number % 5), **{f"tag{n}": "value" for n in range(TAGS - 5)},
        }  # fmt: skip
        tables["tags"] += [{"key": k, "value": v, "run_uuid": run} for k, v in tags.items()]
        tables["params"] += [
            {"key": f"key.number.{n}", "value": "value", "run_uuid": run} for n in range(PARAMS)
        ]
        for metric in range(METRICS):
            name = "val/srcc" if metric == 0 else f"metric/{metric}"
            for step in range(POINTS):
                value = {"key": name, "value": 0.1 + 0.01 * step, "timestamp": 1000 * number + step}
                row = {**value, "run_uuid": run, "step": step, "is_nan": False}
                tables["metrics"].append(row)
            tables["latest_metrics"].append(row)
    return tables


def summarise_store(count: int, folder: Path) -> None:
    """`vqr1 summarize parent=ID`."""
    from vqr1.cli.summarize import summarise

    report = summarise(
        {
            "parent": (folder / "parent").read_text(),
            "tracking_uri": f"sqlite:///{folder / 'mlflow.db'}",
            "output": str(folder / "summary"),
        }
    )
    assert len(report.jobs) == count


def run_jobs(count: int, folder: Path) -> None:
    """A sweep of jobs that end at once: its plan, its records, its summary, without MLflow."""
    from vqr1.config import LoggerConfig
    from vqr1.sweeps.jobs import SweepJob
    from vqr1.sweeps.session import Sweep, SweepFolder, SweepPlan

    sweep = folder / "sweep"
    jobs = tuple(
        SweepJob(f"{n:012x}", (f"optimizer.lr={n // 5}e-6", f"seed={n % 5}"),
                 {"optimizer.lr": f"{n // 5}e-6", "seed": str(n % 5)})
        for n in range(count)
    )  # fmt: skip
    plan = SweepPlan(
        "key", "train.py -m ...", {}, {"optimizer.lr": "*", "seed": "*"}, jobs,
        LoggerConfig(name="csv"), "{}", None, None, "val/srcc",
    )  # fmt: skip
    config = "".join(f"key{number}: value\n" for number in range(PARAMS))

    def launch(overrides: Any, first: int) -> None:
        for number in range(first, first + len(overrides)):
            place = sweep / str(number)
            (place / "started").touch()
            (place / "config.yaml").write_text(config)
            (place / "metrics.csv").write_text(
                "step,val/srcc\n" + "".join(f"{n},{0.1 * n}\n" for n in range(POINTS))
            )
            (place / "outcome.json").write_text(json.dumps({"status": "FINISHED"}))

    with Sweep(SweepFolder(sweep), plan, lambda line: None) as started:
        for job in _one_by_one(started, jobs):
            started.launch(job, launch)
        report = started.finish()
    assert len(report.jobs) == count


def _one_by_one(sweep: Any, jobs: Any) -> Iterator[Any]:
    """In ten parts, before each of which the sweep looks what is left to do."""
    part = max(1, len(jobs) // 10)
    while waiting := sweep.pending(jobs):
        yield waiting[:part]


def nothing(count: int, folder: Path) -> None:
    """There is nothing to make."""


AXES = {
    "labels": Axis("label rows", (100, 1000, 10_000, 100_000, 1_000_000), make_images, open_labels),
    "scored": Axis("images", (100, 400, 1600), make_different_images, score_images),
    "runs": Axis("runs in the store", (10, 100, 1000, 10_000), make_runs, summarise_store),
    "jobs": Axis("jobs of a sweep", (10, 100, 1000), nothing, run_jobs),
}
"""What is not a training step."""
