"""Runs the lines of the study, one after the other, and keeps a small file of each.

    python experiments/real_vlm/study.py --data DIR                 # all, or what is missing
    python experiments/real_vlm/study.py --data DIR --list          # what is missing
    python experiments/real_vlm/study.py --data DIR --lines mse,sft --steps 2   # a trial

DIR is BIQ2021 in its own layout. Each run is an ordinary training and two ordinary evaluations (the
set's test split, and the demo set's as images that nothing was learned on); what is left of it is
`results/NAME.json` and `results/NAME_SET.csv` (image, MOS, score, standard deviation of the
answers' scores), and where answers have reasoning `results/NAME_SET_reasoning.csv`. A run whose
JSON file is there is passed over, one that was stopped continues, one that was begun with other
settings is refused. A command that fails ends its run only; which ones did is printed at the end.
`--steps` writes to the folder of runs, never to `results/`.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]
from lines import (  # noqa: E402
    ASSEMBLED,
    LINES,
    PLAIN,
    REASONING,
    THINKING,
    THINKING_STEPS,
    WARM_SEED,
    Line,
)

from vqr1.training.run_record import read_record  # noqa: E402

PAIRS_AN_IMAGE = 16
OUTSIDE = ("dataset=demo",)
FLOAT32 = ("model.dtype=float32",)
"""Weights of all evaluations, as of the trainings."""

RECORDED = (
    "max_steps", "loader.batch_size", "grpo.group_size", "reward.terms", "advantage",
    "loss.kl_weight", "loss.kl_until", "optimizer.lr", "optimizer.lr_connector", "optimizer.betas",
    "optimizer.max_grad_norm", "validation.every_steps",
)  # fmt: skip
"""Keys of a run's own configuration that stand in its results."""


class OtherSettingsError(Exception):
    """A folder holds a run that was begun with other settings."""


@dataclass(frozen=True)
class Place:
    """Where everything lies.

    Attributes:
        data: BIQ2021.
        work: models, sets and runs; not committed.
        results: small files of finished runs.
        common: overrides of all commands.
        steps: of a trial; None trains as long as the lines and warm starts are.
    """

    data: Path
    work: Path
    results: Path
    common: tuple[str, ...]
    steps: int | None = None

    def run(self, script: str, *arguments: str) -> None:
        """Run a command of the project; its output goes where this one's goes.

        Raises:
            CalledProcessError: it failed.
        """
        subprocess.run([sys.executable, str(ROOT / script), *arguments], check=True)

    def prepare(self) -> None:
        """The assembled model, the set of damaged photographs and the pairs, made once."""
        if not (self.work / ASSEMBLED / "config.json").is_file():
            self.run("tools/assemble_small_vlm.py", f"--output={self.work / ASSEMBLED}")
        if not (self.work / "damaged" / "labels.csv").is_file():
            self.run(
                "tools/damage_photographs.py", f"--images={self.data / 'Images'}",
                f"--names={self.data / 'Train (Images and MOS).csv'}",
                f"--output={self.work / 'damaged'}",
            )  # fmt: skip
        self._write_pairs()

    def _write_pairs(self) -> None:
        """Which of two training images is better, by their MOS: a set beside BIQ2021's images."""
        import numpy as np

        folder = self.work / "with_pairs"
        if (folder / "pairs.csv").is_file():
            return
        folder.mkdir(parents=True, exist_ok=True)
        for source in self.data.iterdir():
            if not (folder / source.name).exists():
                (folder / source.name).symlink_to(source)
        with (self.data / "Train (Images and MOS).csv").open(newline="", encoding="utf-8") as file:
            mos = {row[0]: float(row[1]) for row in list(csv.reader(file))[1:]}
        names, rng = sorted(mos), np.random.default_rng(0)
        with (folder / "pairs.part").open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(("first", "second", "preference"))
            for first in names:
                for number in rng.choice(len(names), PAIRS_AN_IMAGE // 2, replace=False):
                    second = names[number]
                    if second != first:
                        sign = (mos[first] > mos[second]) - (mos[first] < mos[second])
                        lines.writerow((first, second, sign))
        (folder / "pairs.part").rename(folder / "pairs.csv")

    def warm(self, name: str) -> Path:
        """A warm start's folder, trained once."""
        folder = self.work / name
        answers, settings, start = "answers.jsonl", [], f"model.path={self.work / ASSEMBLED}"
        if name == THINKING:
            # It looks and answers already, and learns to write what it has seen.
            answers, settings = "answers_thinking.jsonl", [*REASONING]
            start = f"init_from={self.warm(PLAIN)}"
        if name == THINKING or self.steps is not None:
            settings.append(f"max_steps={self.steps or THINKING_STEPS}")
        self.train(
            folder, ("experiment=real_vlm_warm", f"seed={WARM_SEED}", *settings),
            (f"dataset.root={self.work / 'damaged'}",
             f"stage.answers={self.work / 'damaged' / answers}", start),
        )  # fmt: skip
        return folder

    def line(self, line: Line, seed: int) -> Path:
        """The folder of a run of a line, trained once, after what it starts from."""
        folder = self.work / run_name(line, seed)
        settings = [f"seed={seed}", f"max_steps={line.steps}", *line.overrides]
        if line.start in (PLAIN, THINKING, ASSEMBLED):
            settings.insert(0, "experiment=real_vlm")
        if line.start == ASSEMBLED:
            start = f"model.path={self.work / ASSEMBLED}"
        elif line.start in (PLAIN, THINKING):
            start = f"init_from={self.warm(line.start)}"
        else:
            (earlier,) = [other for other in LINES if other.name == line.start]
            earlier = replace(earlier, steps=self.steps or earlier.steps)
            start = f"init_from={self.line(earlier, seed)}"
        self.train(folder, tuple(settings), (*self.inside(line), start))
        return folder

    def inside(self, line: Line) -> tuple[str, str]:
        """Overrides of the data set that a line is trained and tested on."""
        pairs = any(text.startswith("target=pairs") for text in line.overrides)
        return "dataset=biq2021", f"dataset.root={self.work / 'with_pairs' if pairs else self.data}"

    def train(self, folder: Path, settings: tuple[str, ...], places: tuple[str, ...]) -> None:
        """Train in a folder, or continue there; nothing where it is done.

        Args:
            folder: of the run.
            settings: overrides that state what is trained.
            places: overrides that state from where.

        Raises:
            OtherSettingsError: the folder's run was begun with others.
            CalledProcessError: the training failed.
        """
        record = read_record(folder)
        if record is not None and (missing := set(settings) - set(record.overrides)):
            raise OtherSettingsError(
                f"{folder}: this run was begun without {' '.join(sorted(missing))}; move the "
                "folder away, and it is trained anew"
            )
        if record is not None and record.finished:
            return
        for evaluated in folder.parent.glob(f"{folder.name}_*side"):
            shutil.rmtree(evaluated)  # of other weights
        if record is not None:
            self.run("train.py", f"resume={folder}")
            return
        self.run(
            "train.py", *settings, *places, *self.common, "validation.test=false",
            f"run_dir={folder}", f"hardware.vision_cache_dir={self.work / 'features'}",
        )  # fmt: skip


def run_name(line: Line, seed: int) -> str:
    """Name of a run, in folders and tables."""
    return f"{line.name}_seed{seed}"


def run_line(place: Place, line: Line, seed: int) -> None:
    """Train and score one run, and keep its small files."""
    name, folder = run_name(line, seed), place.line(line, seed)
    metrics = score(place, folder / "export", line, name)
    values = {"line": line.name, "seed": seed, "start": line.start, **trained(folder), **metrics}
    write_json(place.results / f"{name}.json", values)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def trained(folder: Path) -> dict[str, Any]:
    """What a run was trained with, by its own record, and for how long: seconds of its steps."""
    record = read_record(folder)
    assert record is not None, folder
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    seconds = 0.0
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            seconds += sum(float(row[key]) for key in row if "/time/" in key and row[key])
    return {
        "settings": {key: of_dotted(record.config, key) for key in RECORDED},
        "exported_step": summary["exported_step"],
        "step_seconds": round(seconds),
    }


def of_dotted(config: Any, key: str) -> Any:
    """Value of a dotted key in nested mappings; None where there is none."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def score(place: Place, weights: Path, line: Line, name: str) -> dict[str, object]:
    """Both evaluations of a model, and their predictions as small tables."""
    found: dict[str, object] = {}
    for label, dataset in (("inside", place.inside(line)), ("outside", OUTSIDE)):
        folder = place.work / f"{name}_{label}"
        place.run(
            "eval.py", *dataset, f"model.path={weights}", *FLOAT32, *line.scoring,
            *place.common, f"run_dir={folder}",
        )  # fmt: skip
        rows = image_rows(folder / "predictions.csv")
        table = place.results / f"{name}_{label}.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("image", "mos", "score", "std"))
            writer.writerows(rows)
        found[label] = {"images": len(rows), "scored": sum(row[2] != "" for row in rows)}
        write_reasoning(folder / "predictions.csv", place.results / f"{name}_{label}_reasoning.csv")
    return found


def write_reasoning(predictions: Path, table: Path) -> None:
    """What was reasoned, and which scores and images it stands with; nothing without reasoning."""
    scores: defaultdict[str, list[float]] = defaultdict(list)
    mos: defaultdict[str, list[float]] = defaultdict(list)
    with predictions.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            reasoning, closed, _ = row["text"].removeprefix("<think>").partition("</think>")
            if closed and row["score"]:
                scores[reasoning.strip()].append(float(row["score"]))
                mos[reasoning.strip()].append(float(row["mos"]))
    if not scores:
        return
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("reasoning", "answers", "score", "score_std", "mos", "mos_std"))
        for text in sorted(scores, key=lambda text: -len(scores[text])):
            found = [
                measure(numbers[text])
                for numbers in (scores, mos)
                for measure in (statistics.fmean, statistics.pstdev)
            ]
            writer.writerow((text, len(scores[text]), *(f"{value:.5g}" for value in found)))


def image_rows(predictions: Path) -> list[tuple[str, str, str, str]]:
    """Image, MOS, mean score and standard deviation of the answers of each image of a table."""
    scores: dict[str, list[float]] = {}
    mos: dict[str, str] = {}
    with predictions.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            mos[row["image"]] = f"{float(row['mos']):.5g}"
            valid = scores.setdefault(row["image"], [])
            if row["score"]:
                valid.append(float(row["score"]))
    return [
        (
            image,
            mos[image],
            f"{statistics.fmean(valid):.5g}" if valid else "",
            f"{statistics.stdev(valid):.4g}" if len(valid) > 1 else "",
        )
        for image, valid in scores.items()
    ]


def write_json(path: Path, values: dict[str, Any]) -> None:
    """As a whole or not at all."""
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)


def score_start(place: Place, name: str) -> None:
    """Score a warm start as it is."""
    scoring = next(line.scoring for line in LINES if line.start == name)
    before = f"{name}_before"
    metrics = score(place, place.warm(name) / "export", Line(name, scoring=scoring), before)
    write_json(place.results / f"{before}.json", {"line": name, "seed": WARM_SEED, **metrics})


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of BIQ2021")
    parser.add_argument("--work", type=Path, default=Path("outputs/real_vlm_study"))
    parser.add_argument("--lines", help="these only; a warm start's name scores it as it is")
    parser.add_argument("--seeds", help="these seeds only")
    parser.add_argument("--steps", type=int, help="a trial of so many steps")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so many")
    parser.add_argument("--list", action="store_true", help="print what is missing")
    parser.add_argument("overrides", nargs="*", help="of all commands, such as hardware.threads=1")
    given = parser.parse_args()
    chosen = None if given.lines is None else given.lines.split(",")
    known = {PLAIN, THINKING, *(line.name for line in LINES)}
    if strange := set(chosen or ()) - known:
        parser.error(f"--lines: {', '.join(sorted(strange))}: one of {', '.join(sorted(known))}")
    lines = [line for line in LINES if chosen is None or line.name in chosen]
    work = given.work.resolve() / ("trial" if given.steps else "")
    if given.steps:
        lines = [replace(line, steps=given.steps, seeds=(1,)) for line in lines]
    results = work / "results" if given.steps else HERE / "results"
    common = ("logger=csv", *given.overrides)
    place = Place(given.data.resolve(), work, results, common, given.steps)
    starts = [name for name in (PLAIN, THINKING) if chosen is None or name in chosen]
    jobs: dict[str, Callable[[], None]] = {}
    if given.seeds is None:
        jobs |= {f"{name}_before": partial(score_start, place, name) for name in starts}
    seeds = None if given.seeds is None else [int(seed) for seed in given.seeds.split(",")]
    for line in lines:
        for seed in line.seeds:
            if seeds is None or seed in seeds:
                jobs[run_name(line, seed)] = partial(run_line, place, line, seed)
    missing = [name for name in jobs if not (results / f"{name}.json").is_file()]
    end = time.monotonic() + 60 * given.minutes
    if not given.list:
        place.prepare()
        results.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in missing:
        print(f"-- {name}", flush=True)
        if given.list or time.monotonic() > end:
            continue
        try:
            jobs[name]()
        except (subprocess.CalledProcessError, OtherSettingsError) as error:
            print(f"{name}: {error}", flush=True)
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; what each printed stands above")


if __name__ == "__main__":
    main()
