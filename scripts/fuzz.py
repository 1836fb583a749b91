"""Throw a million odd answers at the parser, and damaged files at the loaders.

    python scripts/fuzz.py parser --count 1000000
    python scripts/fuzz.py labels --minutes 10
    python scripts/fuzz.py jsonl --minutes 10
    python scripts/fuzz.py config --minutes 10

What is allowed: a result, or one of our own errors with a message. Anything else (another
exception, more than `--hang` seconds for one input) is a finding: it is printed, its input is kept
below `--keep`, and the exit code is 1. Everything follows from `--seed`. Official label files are
damaged where `--shared` has them, small ones of the same form elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from fuzzing.configs import damage_yaml, dotted, odd_overrides
from fuzzing.files import damaged, label_files
from fuzzing.texts import long_texts, random_texts

from vqr1.iqa.answers import PUBLISHED, accepted_range

Case = tuple[str, Callable[[], str]]
"""What to keep of an input, and the trial: returns the kind of its end."""

GROWTH = 10
"""Ratio of the lengths at which the parser is timed."""

QUADRATIC = 60
"""Ratio of the times from which the parser counts as not linear; longer texts leave the caches."""


class HangError(Exception):
    """One input took longer than allowed."""


def fuzz_parser(seed: int, count: int) -> int:
    """Parse `count` texts; the number of findings."""
    started = time.monotonic()
    low, high = accepted_range((1.0, 5.0))
    counts: Counter[str] = Counter()
    for text in random_texts(seed, count):
        score = PUBLISHED.parse(text).score
        if score is not None and not low <= score <= high:
            print(f"FINDING: {score} from {text!r}")
            return 1
        counts["score" if score is not None else "none"] += 1
    print(f"{count} texts, seed {seed}: {dict(counts)}, no exception, "
          f"{time.monotonic() - started:.0f} s")  # fmt: skip
    return 0


def fuzz_long_texts() -> int:
    """Compare the time of long texts with that of ten times longer ones; 1 if it is not linear."""
    ratios = parser_growth()
    print(f"time for {GROWTH} times the characters, worst of {len(ratios)} families: "
          f"{max(ratios):.1f} times (linear: {GROWTH}, quadratic: {GROWTH**2})")  # fmt: skip
    return 0 if max(ratios) < QUADRATIC else 1


def parser_growth(length: int = 100_000, repeats: int = 5) -> list[float]:
    """How much longer ten times the text takes, for each family of long texts."""
    pairs = zip(long_texts(length), long_texts(length * GROWTH), strict=True)
    return [_best(long, repeats) / _best(short, repeats) for short, long in pairs]


def _best(text: str, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.process_time()
        PUBLISHED.parse(text)
        times.append(time.process_time() - started)
    return max(min(times), 1e-4)  # what is faster is noise


def label_cases(
    rng: random.Random, folder: Path, shared: Path | None, only: str
) -> Generator[Case, None, None]:
    """Damaged label files of every format (or of one), read as a command reads them."""
    from vqr1.data.labels import load_labels

    files = label_files(shared)
    names = sorted(name for name in files if name == only or (not only and name != "jsonl"))
    while True:
        name = rng.choice(names)
        victim = rng.choice(sorted(files[name]))
        for file, data in files[name].items():
            content = damaged(data, rng) if file == victim else data
            (folder / file).write_bytes(content)
        own = victim if name in ("csv", "jsonl") else None

        def trial(name: str = name, own: str | None = own) -> str:
            load_labels(name, folder, label_file=own)
            return f"{name} read"

        yield f"{name}/{victim}", trial


def config_cases(rng: random.Random, folder: Path) -> Generator[Case, None, None]:
    """Odd command lines, and command lines over damaged configuration files."""
    import shutil

    from vqr1.cli import compose
    from vqr1.cli.compose import compose_config, plain_values
    from vqr1.config import EvalConfig, ScoreConfig, TrainConfig, config_dir, validate
    from vqr1.rewards.build import build_rewards
    from vqr1.training.checks import check_training

    schemas = {"train": TrainConfig, "eval": EvalConfig, "score": ScoreConfig}
    own = folder / "conf"
    shutil.copytree(config_dir(), own)
    base = {"train": ["run_dir=x"], "eval": ["run_dir=x"], "score": []}
    keys = {name: list(dotted(plain_values(compose_config(name, base[name])))) for name in schemas}
    while True:
        command = rng.choice(sorted(schemas))
        arguments = odd_overrides(keys[command], rng) if rng.random() < 0.6 else []
        damage = None if arguments else damage_yaml(own, rng)

        def trial(command: str = command, arguments: list[str] = arguments) -> str:
            composed = compose_config(command, [*base[command], *arguments])
            config: Any = validate(schemas[command], plain_values(composed))
            if isinstance(config, TrainConfig):
                check_training(config, build_rewards(config.reward))
            return f"{command} accepted"

        before = compose.config_dir
        compose.config_dir = lambda: own
        try:
            yield f"{command} {arguments} {damage and damage[0].relative_to(own)}", trial
        finally:
            compose.config_dir = before
            if damage is not None:
                damage[0].write_text(damage[1], encoding="utf-8")


def fuzz_loader(
    cases: Iterator[Case], folder: Path, keep: Path, seconds: float, hang: float
) -> int:
    """Try cases until the time is over; the number of findings."""
    from vqr1.cli.compose import USER_ERRORS, user_message

    def too_long(number: int, frame: FrameType | None) -> None:
        raise HangError(f"more than {hang:g} s")

    signal.signal(signal.SIGALRM, too_long)
    ends: Counter[str] = Counter()
    findings = 0
    end = time.monotonic() + seconds
    for what, trial in cases:
        signal.setitimer(signal.ITIMER_REAL, hang)
        try:
            ends[trial()] += 1
        except USER_ERRORS as error:
            ends[type(error).__name__] += 1
            if not user_message(error).strip():
                findings += 1
                print(f"FINDING {what}: an error without a message")
        except Exception:  # noqa: BLE001 any exception that is not ours is the finding
            findings += 1
            print(f"FINDING {findings} {what}\n{traceback.format_exc(limit=-4)}", flush=True)
            _keep(folder, keep / f"{findings:03d}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if time.monotonic() > end or findings >= 20:
            break
    print(f"{sum(ends.values()) + findings} inputs, {findings} findings; ends: "
          f"{dict(ends.most_common())}")  # fmt: skip
    return findings


def _keep(folder: Path, target: Path) -> None:
    import shutil

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", choices=("parser", "labels", "jsonl", "config"))
    parser.add_argument("--count", type=int, default=1_000_000, help="parser: texts to try")
    parser.add_argument("--minutes", type=float, default=10, help="loaders: time to continue")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hang", type=float, default=20, help="most seconds for one input")
    parser.add_argument("--shared", type=Path, default=Path("../shared/labels"))
    parser.add_argument("--keep", type=Path, default=Path("outputs/fuzz"), help="for findings")
    options = parser.parse_args(arguments)
    if options.target == "parser":
        return fuzz_parser(options.seed, options.count) or fuzz_long_texts()
    rng = random.Random(options.seed)
    shared = options.shared if options.shared.is_dir() else None
    keep = options.keep / options.target
    keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.target == "config":
            cases = config_cases(rng, folder)
        else:
            only = "jsonl" if options.target == "jsonl" else ""
            cases = label_cases(rng, folder, shared, only)
        with contextlib.closing(cases):
            found = fuzz_loader(cases, folder, keep, options.minutes * 60, options.hang)
        return min(found, 1)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
