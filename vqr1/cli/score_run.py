"""The work of `python score.py`: find images, score them, write what comes out."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vqr1.cli.score_checks import FORMATS, check_scoring, deciding_settings, print_notes
from vqr1.config import ScoreConfig, ServerConfig
from vqr1.errors import DataError, ModelError
from vqr1.inference.files import find_images
from vqr1.inference.result import Result
from vqr1.inference.result_file import ResultFile, held, not_written, read_results, settings_file
from vqr1.inference.writers import Format, ResultWriter, write_pairs, write_ranking

if TYPE_CHECKING:
    from vqr1.inference.scorer import Scorer

EXIT_UNREADABLE = 1

BAR_FROM = 8
"""Images from which a progress bar is worth its lines."""


def run(config: ScoreConfig, patterns: Sequence[str], notes: Sequence[str] = ()) -> int:
    """Score, describe or compare the images that the patterns name, and write the results.

    Args:
        config: typed configuration.
        patterns: files, folders, globs and lists.
        notes: lines about the values that the model gave, printed where one is loaded.

    Returns:
        The exit code: 0, or 1 where an image could not be read.

    Raises:
        UserError: configuration, paths, output file or model are not as they should be, and nothing
            has been written then; or a server failed while its answers were written.
    """
    # Pictures of that many pixels are refused with a line of their own.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    form = check_scoring(config, patterns)
    if config.task == "compare":
        return _compare(config, patterns, form, notes)
    paths = find_images(patterns, column=config.column, names=sys.stdin)
    if config.output is not None and form != "table":
        return _score_to_file(config, paths, form, notes)
    scorer = load_scorer(config, notes)
    with _output(config.output) as stream:
        writer = ResultWriter(stream, form, descriptions=config.prompt.answer_format == "free")
        counts = _score(scorer, paths, writer.write, stream)
    return _closing(config, counts)


def load_scorer(config: ScoreConfig, notes: Sequence[str] = ()) -> Scorer:
    """The scorer of a configuration, its model loaded or its server asked.

    Args:
        config: typed configuration.
        notes: lines to print on standard error once the model is there.

    Raises:
        UserError: backend, model or prompt are not as they should be.
    """
    # Importing PyTorch takes seconds; a mistake on the command line is reported before.
    from vqr1.inference.backends import build_backend
    from vqr1.inference.scorer import Scorer

    backend = build_backend(config.backend, config.model, config.hardware)
    sys.stderr.writelines(f"{note}\n" for note in notes)
    print_notes(config)
    return Scorer(
        backend,
        config.prompt,
        config.mode,
        seed=config.seed,
        batch_size=config.batch_size,
    )


def _named(config: ScoreConfig) -> ScoreConfig:
    """The configuration with the name of a server's model, which decides the scores.

    Raises:
        ModelError: the server has to be asked and cannot be used.
    """
    if not isinstance(config.backend, ServerConfig) or config.backend.model is not None:
        return config
    from vqr1.rollout.server import ChatServer

    with ChatServer(config.backend) as server:
        return replace(config, backend=replace(config.backend, model=server.model()))


def _score_to_file(
    config: ScoreConfig, paths: Sequence[Path], form: Format, notes: Sequence[str]
) -> int:
    """Append to the output what it does not hold yet."""
    assert config.output is not None
    assert form != "table"
    place = Path(config.output).expanduser()
    with held(place):
        config = _named(config)
        file = ResultFile(place, form, deciding_settings(config), resume=config.resume)
        left = [path for path in paths if not file.holds(path)]
        if file.kept:
            sys.stderr.write(f"continuing {config.output}: {len(file.kept)} images are in it\n")
        scorer = load_scorer(config, notes) if left else None
        with file:
            counts = Counter[str]() if scorer is None else _scored(config, scorer, left, file)
    return _closing(config, counts)


def _scored(
    config: ScoreConfig, scorer: Scorer, paths: Sequence[Path], file: ResultFile
) -> Counter[str]:
    try:
        return _score(scorer, paths, file.write, sys.stderr)
    except ModelError as error:
        raise ModelError(
            f"{error}\n{config.output} holds what was scored until now; the same command "
            "continues it"
        ) from error


def _compare(
    config: ScoreConfig, patterns: Sequence[str], form: Format, notes: Sequence[str]
) -> int:
    from vqr1.inference.compare import compare

    _check_targets(config)
    counts: Counter[str] = Counter()
    if config.results is not None:
        results = _earlier(config.results)
    else:
        paths = find_images(patterns, column=config.column, names=sys.stdin)
        results = []
        counts = _score(load_scorer(config, notes), paths, results.append, sys.stderr)
    comparison = compare(results, config.comparison, seed=config.seed)
    with _output(config.output) as stream:
        write_ranking(stream, form, comparison)
    if config.pairs is not None:
        with _output(config.pairs, "pairs") as stream:
            write_pairs(stream, comparison)
    sys.stderr.write(f"{len(comparison.ranking)} compared, {len(comparison.left_out)} left out\n")
    return EXIT_UNREADABLE if counts["unreadable"] else 0


def _check_targets(config: ScoreConfig) -> None:
    """Check that no file is written over that is read, or by two tables.

    Raises:
        DataError: it would be.
    """
    read = [config.results] if config.results is not None else []
    for key, target in (("output", config.output), ("pairs", config.pairs)):
        if target is None:
            continue
        path = Path(target).expanduser().resolve()
        if path in [Path(other).expanduser().resolve() for other in read]:
            raise DataError(f"{key}={target}: another key names the same file; choose another one")
        read.append(target)


def _earlier(results: str) -> list[Result]:
    path = Path(results).expanduser()
    form = FORMATS.get(path.suffix.lower())
    if form is None or form == "table":
        raise DataError(f"results={results}: give a .csv or .jsonl file that score.py wrote")
    return read_results(path, form)


def _score(
    scorer: Scorer, paths: Sequence[Path], write: Callable[[Result], None], stream: TextIO
) -> Counter[str]:
    """Score images one batch after the other; `stream` is where rows appear, if on a terminal."""
    counts: Counter[str] = Counter()
    with _progress(len(paths), stream) as progress:
        task = progress.add_task("images", total=len(paths))
        for result in scorer.stream(paths):
            write(result)
            counts[_kind(result)] += 1
            if result.error is not None:
                _say(progress, f"unreadable: {result.error}")
            progress.advance(task)
    return counts


def _closing(config: ScoreConfig, counts: Counter[str]) -> int:
    done = "described" if config.prompt.answer_format == "free" else "scored"
    sys.stderr.write(
        f"{counts['valid']} {done}, {counts['unreadable']} unreadable, "
        f"{counts['invalid']} invalid\n"
    )
    return EXIT_UNREADABLE if counts["unreadable"] else 0


@contextmanager
def _output(output: str | None, key: str = "output") -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    path = Path(output).expanduser()
    with held(path, key):
        try:
            stream = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        except OSError as error:
            raise DataError(not_written(output, error, key)) from error
        # What settings lie beside it are those of scores that are gone now.
        settings_file(path).unlink(missing_ok=True)
        with stream:
            yield stream


def _progress(total: int, stream: TextIO) -> Progress:
    """A bar on standard error; none where the rows appear on the same terminal."""
    rows_on_terminal = stream is sys.stdout and stream.isatty()
    shown = total >= BAR_FROM and sys.stderr.isatty() and not rows_on_terminal
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
