"""Runs the lines of the study, one after the other, and keeps a small file of each.

    python experiments/real_vlm/study.py --data DIR                 # all, or what is missing
    python experiments/real_vlm/study.py --data DIR --list          # what is missing
    python experiments/real_vlm/study.py --data DIR --lines mse,sft --steps 2   # a trial

DIR is BIQ2021 in its own layout. Each run is an ordinary training and two ordinary evaluations (the
set's test split, and the demo set's as images that nothing was learned on); what is left of it is
`results/NAME.json` and `results/NAME_SET.csv` (image, MOS, score, standard deviation of the
answers' scores), and where answers have reasoning `results/NAME_SET_reasoning.csv`. A run whose
JSON file is there is passed over, one that was stopped continues.
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
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]
from lines import (  # noqa: E402
    LINES,
    PLAIN,
    THINKING,
    THINKING_STEPS,
    THOUGHT,
    UNTAUGHT,
    WARM_SEED,
    Line,
)

PAIRS_AN_IMAGE = 16
OUTSIDE = ("dataset=demo",)
AS_TRAINED = ("model.dtype=float32",)
"""Weights of all evaluations."""


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
        if not (self.work / UNTAUGHT / "config.json").is_file():
            self.run("tools/assemble_small_vlm.py", f"--output={self.work / UNTAUGHT}")
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
        answers, given = "answers.jsonl", [f"model.path={self.work / UNTAUGHT}"]
        if name == THINKING:
            # It looks and answers already, and learns to write what it has seen.
            answers = "answers_thinking.jsonl"
            begun = self.warm(PLAIN)
            given = [f"init_from={begun}", *THOUGHT, f"max_steps={THINKING_STEPS}"]
        self.train(
            folder, "experiment=real_vlm_warm", f"dataset.root={self.work / 'damaged'}",
            f"stage.answers={self.work / 'damaged' / answers}", f"seed={WARM_SEED}", *given,
            *([] if self.steps is None else [f"max_steps={self.steps}"]),
        )  # fmt: skip
        return folder

    def train(self, folder: Path, *overrides: str) -> None:
        """Train in a folder, or continue there; nothing where it is done."""
        if (folder / "summary.json").is_file():
            return
        if (folder / "run.json").is_file():
            self.run("train.py", f"resume={folder}")
            return
        self.run(
            "train.py", *overrides, *self.common, "validation.test=false", f"run_dir={folder}",
            f"hardware.vision_cache_dir={self.work / 'features'}",
        )  # fmt: skip


def begun(place: Place, line: Line, seed: int) -> tuple[str, ...]:
    """Overrides by which a run of a line begins where the line starts."""
    if line.start == UNTAUGHT:
        return ("experiment=real_vlm", f"model.path={place.work / UNTAUGHT}")
    if line.start in (PLAIN, THINKING):
        return ("experiment=real_vlm", f"init_from={place.warm(line.start)}")
    return (f"init_from={place.work / f'{line.start}_seed{seed}'}",)


def run_line(place: Place, line: Line, seed: int, name: str) -> None:
    """Train and score one run."""
    folder = place.work / name
    pairs = any(text.startswith("target=pairs") for text in line.overrides)
    root = place.work / "with_pairs" if pairs else place.data
    inside = ("dataset=biq2021", f"dataset.root={root}")
    place.train(
        folder, *begun(place, line, seed), *inside, f"seed={seed}", f"max_steps={line.steps}",
        *line.overrides,
    )  # fmt: skip
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    metrics = score(place, folder / "export", line, name, inside)
    values = {
        "line": line.name, "seed": seed, "steps": line.steps, "start": line.start,
        "overrides": list(line.overrides), "seconds": round(summary["seconds"]), **metrics,
    }  # fmt: skip
    write_json(place.results / f"{name}.json", values)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def score(
    place: Place, weights: Path, line: Line, name: str, inside: tuple[str, ...]
) -> dict[str, object]:
    """Both evaluations of a model, and their predictions as small tables."""
    found: dict[str, object] = {}
    for label, dataset in (("inside", inside), ("outside", OUTSIDE)):
        folder = place.work / f"{name}_{label}"
        place.run(
            "eval.py", *dataset, f"model.path={weights}", *AS_TRAINED, *line.scoring,
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


def write_json(path: Path, values: dict[str, object]) -> None:
    """As a whole or not at all."""
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)


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
    jobs = [(line, seed, f"{line.name}_seed{seed}") for line in lines for seed in line.seeds]
    starts = [name for name in (PLAIN, THINKING) if chosen is None or name in chosen]
    before = [(Line(name), 0, f"{name}_before") for name in starts]
    seeds = None if given.seeds is None else given.seeds.split(",")
    missing = [
        (line, seed, name)
        for line, seed, name in (*before, *jobs)
        if not (results / f"{name}.json").is_file() and (seeds is None or str(seed) in seeds)
    ]
    end = time.monotonic() + 60 * given.minutes
    if not given.list:
        place.prepare()
        results.mkdir(parents=True, exist_ok=True)
    for line, seed, name in missing:
        print(f"-- {name}", flush=True)
        if given.list or time.monotonic() > end:
            continue
        if seed == 0:
            scoring = next(found.scoring for found in LINES if found.start == line.name)
            weights = place.warm(line.name) / "export"
            inside = ("dataset=biq2021", f"dataset.root={place.data}")
            metrics = score(place, weights, replace(line, scoring=scoring), name, inside)
            write_json(results / f"{name}.json", {"line": line.name, "seed": 0, **metrics})
        else:
            run_line(place, line, seed, name)


if __name__ == "__main__":
    main()
