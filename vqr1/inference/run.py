"""A whole `score.py`: find images, have them scored by all ranks, write what comes out.

Ranks of torchrun or srun are dealt batches in turn. Rank 0 finds the images, holds the output and
writes it, in the order in which one process would have; the others keep their rows in partial files
beside it until then (`result_file.py`).

Not here: checks of the configuration (`score_checks.py`).
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from PIL import Image

from vqr1.config import ScoreConfig
from vqr1.config.affects import Affects
from vqr1.counted import counted_are
from vqr1.distributed.environment import RankInfo
from vqr1.errors import DataError, ModelError
from vqr1.inference.files import PassedOver, find_images
from vqr1.inference.image_lists import Shown, check_counts, with_references
from vqr1.inference.progress_bar import print_above, scoring_bar
from vqr1.inference.result import Result
from vqr1.inference.result_file import (
    Lines,
    ResultFile,
    RowAppender,
    held,
    not_written,
    partials,
    read_results,
    settings_file,
)
from vqr1.inference.score_checks import FORMATS, notes_on
from vqr1.inference.settings import answer_settings
from vqr1.inference.setup import InferenceSetup
from vqr1.inference.writers import Format, ResultWriter, write_pairs, write_ranking
from vqr1.process_memory import collection_paused

if TYPE_CHECKING:
    from vqr1.inference.scorer import Scorer

EXIT_UNREADABLE = 1

T = TypeVar("T")

Write = Callable[[Result], None]


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        config: typed configuration.
        form: the format of what comes out.
        notes: lines about the values that the model gave, printed where one is loaded.
        info: rank information of this process, which is connected with the others.
    """

    config: ScoreConfig
    form: Format
    notes: Sequence[str]
    info: RankInfo


def run(job: Job, patterns: Sequence[str]) -> int:
    """Score, describe or compare the images that the patterns name, and write the results.

    Args:
        job: the command, whose configuration is checked.
        patterns: files, folders, globs and lists.

    Returns:
        The exit code: 0, or 1 where an image could not be read; the same on all ranks.

    Raises:
        UserError: paths, output file or model are not as they should be, and nothing has been
            written then; or a server failed while its answers were written.
    """
    # Images of that many pixels are refused with a line of their own.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    config = job.config
    if config.task == "compare":
        return _compare(job, patterns)
    paths = _found(job, patterns)
    if config.output is not None and job.form != "table" and not _is_stream(config.output):
        return _score_to_file(job, config.output, paths)
    scorer = _on_all_ranks(job, lambda: _load_for_share(job, paths))
    with ExitStack() as stack:
        stream = _on_rank0(job, stack, _output(config.output)) or sys.stdout
        writer = ResultWriter(stream, job.form, descriptions=not config.answer.form.scored)
        counts = _score(job, scorer, paths, writer.write, stream)
    return _closing(job, counts)


def _is_stream(output: str) -> bool:
    """Whether rows go to a pipe, a terminal or a device, which keeps none to continue from."""
    path = Path(os.path.expanduser(output))
    return path.exists() and not path.is_file() and not path.is_dir()


def load_scorer(job: Job) -> Scorer:
    """The scorer of a command, its model loaded or its server asked.

    Raises:
        UserError: backend, model or prompt are not as they should be.
    """
    from vqr1.inference.scorer import Scorer

    config = job.config
    backend = InferenceSetup.of(config).open(job.info.local_rank)
    if job.info.rank == 0:
        sys.stderr.writelines(f"{note}\n" for note in (*job.notes, *notes_on(config)))
    return Scorer(
        backend,
        config.prompt,
        config.answer.form,
        config.mode,
        seed=config.seed,
        batch_size=config.batch_size,
    )


def _load_for_share(job: Job, paths: Sequence[Shown]) -> Scorer | None:
    """The scorer, None on a rank that has nothing to score."""
    with collection_paused():
        return load_scorer(job) if _share(job, len(paths), job.info.rank) else None


def _found(job: Job, patterns: Sequence[str]) -> list[Shown]:
    """The images that rank 0 finds: the others may see another standard input."""
    passed, config = PassedOver(), job.config

    def find() -> list[Shown]:
        found = find_images(patterns, column=config.column, names=sys.stdin, passed=passed)
        if config.references is not None:
            found = with_references(found, config.references)
        check_counts(found, config.prompt.images, config.prompt.name)
        return found

    found = _from_rank0(job, find)
    sys.stderr.writelines(f"{line}\n" for line in passed.sentences())
    return found


def _score_to_file(job: Job, output: str, paths: Sequence[Shown]) -> int:
    """Append to the output what it does not hold yet."""
    place = Path(os.path.expanduser(output))
    form: Lines = "csv" if job.form == "csv" else "jsonl"
    files: list[ResultFile] = []

    def begin() -> tuple[InferenceSetup, list[Shown]]:
        setup = InferenceSetup.of(job.config).named()
        # Its rows hold scores beside the answers.
        settings = answer_settings(replace(job.config, backend=setup.backend), Affects.SCORES)
        files.append(ResultFile(place, form, settings, resume=job.config.resume))
        if files[0].kept:
            sys.stderr.write(
                f"continuing {output}: {counted_are(len(files[0].kept), 'image')} in it\n"
            )
        return setup, [path for path in paths if not files[0].holds(path)]

    with ExitStack() as stack:
        _on_rank0(job, stack, held(place))
        setup, left = _from_rank0(job, begin)
        job = replace(job, config=replace(job.config, backend=setup.backend))
        scorer = _on_all_ranks(job, lambda: _load_for_share(job, left))
        file = _on_rank0(job, stack, files[0] if files else nullcontext())
        counts = _score_into(job, scorer, left, place, form, file)
    return _closing(job, counts)


def _score_into(
    job: Job,
    scorer: Scorer | None,
    paths: Sequence[Shown],
    place: Path,
    form: Lines,
    file: ResultFile | None,
) -> Counter[str]:
    """Score into a file that rank 0 has open; several ranks keep their rows beside it meanwhile.

    Raises:
        ModelError: the model or its server cannot be used any more.
    """
    write = _no_row if file is None else file.write
    try:
        if job.info.world_size == 1:
            return _score(job, scorer, paths, write, sys.stderr)
        with RowAppender(partials(place).of(job.info.rank), form) as kept:
            return _score(job, scorer, paths, write, sys.stderr, kept.write)
    except ModelError as error:
        raise ModelError(
            f"{error}\n{job.config.output} holds what was scored until now; the same command "
            "continues it"
        ) from error


def _no_row(result: Result) -> None:
    """Only rank 0 writes rows."""


def _compare(job: Job, patterns: Sequence[str]) -> int:
    config = job.config
    _check_targets(config)
    counts: Counter[str] = Counter()
    results: list[Result] = []
    if config.results is not None:
        results = _earlier(config.results)
    else:
        paths = _found(job, patterns)
        scorer = _on_all_ranks(job, lambda: _load_for_share(job, paths))
        counts = _score(job, scorer, paths, results.append, sys.stderr)
    _from_rank0(job, lambda: _write_comparison(config, job.form, results))
    return EXIT_UNREADABLE if counts["unreadable"] else 0


def _write_comparison(config: ScoreConfig, form: Format, results: Sequence[Result]) -> None:
    from vqr1.inference.compare import compare

    comparison = compare(results, config.comparison, seed=config.seed)
    with _output(config.output) as stream:
        write_ranking(stream, form, comparison)
    if config.pairs is not None:
        with _output(config.pairs, "pairs") as stream:
            write_pairs(stream, comparison)
    sys.stderr.write(f"{len(comparison.ranking)} compared, {len(comparison.excluded)} excluded\n")


def _check_targets(config: ScoreConfig) -> None:
    """Check that no file is written over that is read, or by two tables.

    Raises:
        DataError: it would be.
    """
    read = [config.results] if config.results is not None else []
    for key, target in (("output", config.output), ("pairs", config.pairs)):
        if target is None:
            continue
        path = Path(os.path.expanduser(target)).resolve()
        if path in [Path(os.path.expanduser(other)).resolve() for other in read]:
            raise DataError(f"{key}={target}: another key names the same file; choose another one")
        read.append(target)


def _earlier(results: str) -> list[Result]:
    path = Path(os.path.expanduser(results))
    form = FORMATS.get(path.suffix.lower())
    if form is None or form == "table":
        raise DataError(f"results={results}: give a .csv or .jsonl file of scores")
    return read_results(path, form)


def _score(
    job: Job,
    scorer: Scorer | None,
    paths: Sequence[Shown],
    write: Write,
    stream: TextIO,
    keep: Write | None = None,
) -> Counter[str]:
    """Score images batch by batch, shared by all ranks.

    Args:
        job: the command.
        scorer: this rank's; None where it has no share.
        paths: all images.
        write: gets the results of all ranks in order, on rank 0.
        stream: where rows appear, which may be a terminal.
        keep: gets this rank's own results as they come, where several ranks share.

    Returns:
        How many results there are of each kind, on all ranks.
    """
    if job.info.world_size == 1:
        return _score_share(scorer, paths, write, stream)
    from vqr1.distributed.collectives import gather_objects_to_rank0

    own = [paths[number] for number in _share(job, len(paths), job.info.rank)]
    results: list[Result] = []

    def collect(result: Result) -> None:
        if keep is not None:
            keep(result)
        results.append(result)

    _on_all_ranks(job, lambda: _score_share(scorer, own, collect, stream))
    dealt = gather_objects_to_rank0(results)

    def write_all() -> Counter[str]:
        assert dealt is not None
        numbers = [number for rank in range(len(dealt)) for number in _share(job, len(paths), rank)]
        rows = [result for part in dealt for result in part]
        for _, result in sorted(zip(numbers, rows, strict=True), key=lambda pair: pair[0]):
            write(result)
        return Counter(_kind(result) for result in rows)

    return _from_rank0(job, write_all)


def _share(job: Job, images: int, rank: int) -> list[int]:
    """Numbers of a rank's images: whole batches, dealt in turn."""
    size = job.config.batch_size
    starts = range(0, images, size)[rank :: job.info.world_size]
    return [number for start in starts for number in range(start, min(start + size, images))]


def _score_share(
    scorer: Scorer | None, paths: Sequence[Shown], write: Write, stream: TextIO
) -> Counter[str]:
    """Score images one batch after the other in this process."""
    counts: Counter[str] = Counter()
    if scorer is None:
        return counts
    with scoring_bar(len(paths), stream) as progress:
        task = progress.add_task("images", total=len(paths))
        for result in scorer.stream(paths):
            write(result)
            counts[_kind(result)] += 1
            if result.error is not None:
                print_above(progress, f"unreadable: {result.error}")
            progress.advance(task)
    return counts


def _closing(job: Job, counts: Counter[str]) -> int:
    done = "scored" if job.config.answer.form.scored else "described"
    if job.info.rank == 0:
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
    path = Path(os.path.expanduser(output))
    with held(path, key):
        try:
            stream = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        except OSError as error:
            raise DataError(not_written(output, error, key)) from error
        # What settings lie beside it are those of scores that are gone now.
        settings_file(path).unlink(missing_ok=True)
        with stream:
            yield stream


def _kind(result: Result) -> str:
    if result.error is not None:
        return "unreadable"
    return "valid" if result.valid else "invalid"


def _from_rank0(job: Job, produce: Callable[[], T]) -> T:
    """What rank 0 produces, or raises, on all ranks."""
    if job.info.world_size == 1:
        return produce()
    # PyTorch takes seconds to import.
    from vqr1.distributed.collectives import broadcast_from_rank0

    return broadcast_from_rank0(produce)


def _on_all_ranks(job: Job, produce: Callable[[], T]) -> T:
    """What each rank produces; an error of one is raised by all."""
    if job.info.world_size == 1:
        return produce()
    from vqr1.distributed.collectives import raise_on_all_ranks

    return raise_on_all_ranks(produce)


def _on_rank0(job: Job, stack: ExitStack, context: AbstractContextManager[T]) -> T | None:
    """Enter a context on rank 0 until the stack ends; None on the others."""
    entered: list[T] = []
    _from_rank0(job, lambda: entered.append(stack.enter_context(context)))
    return entered[0] if entered else None
