"""`python score.py PATHS... [key=value ...]`: score or describe images.

Exit codes: 0; 1 where an image could not be read (all others are scored); 2 for a user's mistake,
with one message and nothing scored.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vqr1.cli.app import EXIT_USER_ERROR
from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import ScoreConfig, validate
from vqr1.errors import ConfigError, DataError, UserError
from vqr1.scoring.files import find_images
from vqr1.scoring.result import Result
from vqr1.scoring.writers import Format, ResultWriter

if TYPE_CHECKING:
    from vqr1.scoring.scorer import Scorer

EXIT_UNREADABLE = 1

BAR_FROM = 8
"""Images from which a progress bar is worth its lines."""

_FORMATS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".txt": "table"}

_EXAMPLES = """\
choices: model=tiny|qwen2_5_vl_3b|qwen2_5_vl_7b|visualquality_r1 (model.path=FOLDER)
         prompt=thinking|non_thinking|describe   mode=expected|greedy|sampled (mode.samples=N)
         hardware=cpu|1gpu   seed=N   batch_size=N   output=FILE   format=table|csv|jsonl

examples: python score.py photos/ output=scores.csv
          python score.py 'photos/**/*.png' mode=sampled mode.samples=6 format=jsonl
          python score.py photo.jpg prompt=describe"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `score.py` and `vqr1-score`."""
    parser = argparse.ArgumentParser(
        description="Score the quality of images, or describe it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH|key=value",
        help="image files, folders (with all below them) and globs; configuration overrides",
    )
    paths, overrides = split_arguments(parser.parse_args(arguments).paths)
    try:
        config = validate(ScoreConfig, plain_values(compose_config("score", overrides)))
        code = score(config, paths)
    except UserError as error:
        code = _mistake(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        code = _mistake(f"{error}\n{error.__cause__ or ''}")
    sys.exit(code)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths and overrides: an override has `=` before any folder separator and names no file."""
    paths: list[str] = []
    overrides: list[str] = []
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        separators = {os.sep, os.altsep or os.sep}
        is_path = not equals or any(mark in key for mark in separators) or Path(argument).exists()
        (paths if is_path else overrides).append(argument)
    return paths, overrides


def score(config: ScoreConfig, patterns: Sequence[str]) -> int:
    """Score the images that the patterns name and write the results.

    Returns:
        The exit code: 0, or 1 where an image could not be read.

    Raises:
        UserError: configuration, paths, output file or model are not as they should be; nothing
            has been written then.
    """
    form = check_scoring(config, patterns)
    paths = find_images(patterns)
    scorer = _load(config)
    counts: Counter[str] = Counter()
    with _output(config.output) as stream, _progress(len(paths), stream) as progress:
        task = progress.add_task("images", total=len(paths))
        writer = ResultWriter(stream, form, descriptions=config.prompt.answer_format == "free")
        for result in scorer.stream(paths):
            writer.write(result)
            counts[_kind(result)] += 1
            if result.error is not None:
                _say(progress, f"unreadable: {result.error}")
            progress.advance(task)
    done = "described" if config.prompt.answer_format == "free" else "scored"
    sys.stderr.write(
        f"{counts['valid']} {done}, {counts['unreadable']} unreadable, "
        f"{counts['invalid']} invalid\n"
    )
    return EXIT_UNREADABLE if counts["unreadable"] else 0


def check_scoring(config: ScoreConfig, patterns: Sequence[str]) -> Format:
    """Check keys that belong together, before anything is loaded.

    Returns:
        The format of the results.

    Raises:
        ConfigError: every problem.
    """
    problems = []
    mode = config.mode
    if not patterns:
        problems.append("no images: name files, folders or globs, such as `photos/`")
    if mode.name != "sampled" and mode.samples != 1:
        problems.append(
            f"mode.samples={mode.samples}: mode={mode.name} gives one answer an image; choose "
            "mode=sampled"
        )
    if mode.name == "sampled" and mode.samples > 1 and mode.sampling.temperature == 0:
        problems.append(
            f"mode.samples={mode.samples}: greedy answers (mode.sampling.temperature=0) are all "
            "alike; raise the temperature, or choose mode=greedy"
        )
    if config.hardware.devices * config.hardware.nodes > 1:
        problems.append(
            f"hardware.devices={config.hardware.devices}, hardware.nodes={config.hardware.nodes}: "
            "scoring runs in one process; set both to 1"
        )
    form = config.format
    if form is None:
        suffix = ".txt" if config.output is None else Path(config.output).suffix.lower()
        form = _FORMATS.get(suffix)
        if form is None:
            problems.append(
                f"output={config.output}: its ending does not say the format; use .csv, .jsonl or "
                ".txt, or set format"
            )
    if config.output is not None and not Path(config.output).expanduser().parent.is_dir():
        problems.append(
            f"output={config.output}: there is no folder {Path(config.output).parent}; make it, or "
            "choose another place"
        )
    if problems:
        raise ConfigError(problems)
    assert form is not None
    return form


def _load(config: ScoreConfig) -> Scorer:
    # Importing PyTorch takes seconds; a mistake on the command line is reported before.
    import torch
    from transformers.utils.logging import disable_progress_bar

    from vqr1.policy.loading import load_policy
    from vqr1.scoring.backends.local import LocalBackend
    from vqr1.scoring.scorer import Scorer

    hardware = config.hardware
    gpu = hardware.accelerator == "gpu"
    if gpu and not torch.cuda.is_available():
        raise ConfigError(
            ["hardware.accelerator=gpu: PyTorch finds no GPU on this machine; use hardware=cpu"]
        )
    if hardware.threads is not None:
        torch.set_num_threads(hardware.threads)
    if config.model.path is None:
        # The tiny policy loads in a blink; larger ones keep their bar.
        disable_progress_bar()
    policy = load_policy(
        config.model, attention=hardware.attention, device="cuda" if gpu else "cpu"
    )
    return Scorer(
        LocalBackend(policy, config.model),
        config.prompt,
        config.mode,
        seed=config.seed,
        batch_size=config.batch_size,
    )


@contextmanager
def _output(output: str | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    try:
        stream = (
            Path(output)
            .expanduser()
            .open("w", encoding="utf-8", errors="backslashreplace", newline="")
        )
    except OSError as error:
        raise DataError(
            f"output={output}: the file cannot be written ({error.strerror}); choose another place"
        ) from error
    with stream:
        yield stream


def _progress(total: int, stream: TextIO) -> Progress:
    """A bar on standard error; none where the rows appear on the same terminal."""
    shown = total >= BAR_FROM and sys.stderr.isatty() and not stream.isatty()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _say(progress: Progress, message: str) -> None:
    progress.console.print(message, markup=False, highlight=False, soft_wrap=True)


def _kind(result: Result) -> str:
    if result.error is not None:
        return "unreadable"
    return "valid" if result.valid else "invalid"


def _mistake(message: str) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"error: {message.strip()}\n")
    return EXIT_USER_ERROR
