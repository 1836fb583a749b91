"""`vqr1 score PATHS... [key=value ...]`: score, describe or compare images; `serve`.

Exit codes: 0; 1 where an image could not be read (all others are scored); 2 for a user's mistake or
a server that fails, with one message; 74 where the results cannot be written (a full disk); 130
when stopped by Ctrl-C. What a CSV or JSON lines file holds by then stays, and the same command
continues it.

Several processes of torchrun or srun share the images. Not here: the work itself
(`vqr1.inference.run`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

from omegaconf import DictConfig

from vqr1.cli.app import EXIT_USER_ERROR, refuse_launcher, reports, stop
from vqr1.cli.compose import USER_ERRORS, compose_config, plain_values, user_message
from vqr1.cli.help import asks_for_help, keys_if_asked, model_choices
from vqr1.cli.options import OptionParser
from vqr1.cli.serve import serve
from vqr1.config import ScoreConfig, validate
from vqr1.config.model_defaults import lines_about
from vqr1.distributed.environment import RankInfo, find_rank_info
from vqr1.distributed.launcher_tasks import is_first_task
from vqr1.errors import ConfigError, RunFaultError, UserError
from vqr1.inference.arguments import files_after_mark, split_arguments
from vqr1.inference.run import Job, run
from vqr1.inference.score_checks import check_scoring
from vqr1.process_memory import bound_memory
from vqr1.program import name_of, program
from vqr1.standard_streams import FULL, drop_output, guard_output

EXIT_SIGINT = 130
EXIT_BROKEN_PIPE = 141

SERVE = "serve"
"""First argument that starts the service (`./serve` is a file or folder of that name)."""

MODES = {
    "thinking": "prompt=thinking",
    "non_thinking": "prompt=non_thinking",
    "describe": "prompt=describe",
    "compare": "task=compare",
}
"""Words of `--mode`, and the override that each is short for."""

FULL_REFERENCE = "prompt=full_reference"

_EXAMPLES = """\
MODELS
         prompt=thinking|non_thinking|full_reference|levels|describe
         mode=expected|greedy|levels|sampled (mode.samples=N)
         backend=local|openai|transformers_serve|vllm (backend.url=... backend.model=...)
         hardware=cpu|1gpu   seed=N   batch_size=N   output=FILE   format=table|csv|jsonl

examples: SCORE photos/ output=scores.csv          (again: continues where it stopped)
          SCORE list.csv column=file               (names from a column)
          find . -name '*.png' | SCORE -           (names on standard input)
          SCORE 'photos/**/*.png' mode=sampled mode.samples=6 format=jsonl
          SCORE photo.jpg --mode describe
          SCORE --reference sharp.png coded/       (full reference; or a folder of references)
          SCORE a.png b.png --mode compare         (a folder becomes a ranking)
          SCORE --mode compare results=scores.csv  (of what is scored already)
          SERVE --help                       (the same over HTTP)"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `score.py`, `vqr1 score` and `vqr1-score`."""
    bound_memory()
    given = sys.argv[1:] if arguments is None else list(arguments)
    if asks_for_help(given):
        guard_output(quiet=True)
    if given[:1] == [SERVE]:
        refuse_launcher(name_of("serve"))
        sys.exit(_code_of(lambda: serve(given[1:]), RankInfo()))
    try:
        info = find_rank_info()
    except UserError as error:
        stop(error, lambda message, code: is_first_task())
    refuse_launcher(name_of("score"), torchrun=True)
    parser = OptionParser(
        "score",
        description="Score the quality of images, describe it, or compare images.",
        epilog=_EXAMPLES.replace("MODELS", model_choices())
        .replace("SCORE", program("score"))
        .replace("SERVE", program("serve"))
        + keys_if_asked("score", ScoreConfig, given),
        groups={"--mode": "mode"},
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH|key=value",
        help="image files, folders (with all below them), globs, CSV lists, - for names on "
        "standard input; configuration overrides",
    )
    parser.add_argument(
        "--mode",
        choices=list(MODES),
        help="short for " + ", ".join(MODES.values()),
    )
    parser.add_argument(
        "--reference",
        metavar="PATH",
        help="undistorted image that all are compared with, or a folder with one of the name of "
        f"each: references=PATH, and {FULL_REFERENCE} where no prompt is chosen",
    )
    parsed = parser.parse_intermixed_args(files_after_mark(given))
    paths, overrides = split_arguments(parsed.paths)
    if parsed.mode is not None:
        overrides.insert(0, MODES[parsed.mode])
    if parsed.reference is not None and not any(o.startswith("prompt=") for o in overrides):
        overrides.insert(0, FULL_REFERENCE)
    sys.exit(_code_of(lambda: _score(overrides, paths, info, parsed.reference), info))


def _score(
    overrides: Sequence[str], paths: Sequence[str], info: RankInfo, reference: str | None = None
) -> int:
    closed = sys.stdout is None
    # The rows on standard output are the result: what does not take them ends the command.
    guard_output(stdout=False)
    composed = _composed(overrides)
    values = plain_values(composed)
    if reference is not None:
        if values.get("references") is not None:
            raise ConfigError([f"references={values['references']}: given by --reference too"])
        # A path may hold marks that mean something to Hydra.
        values["references"] = reference
    config = validate(ScoreConfig, values)
    if closed and config.output is None:
        raise ConfigError(["output=null: standard output is closed; name a file, output=FILE"])
    form = check_scoring(config, paths)
    if info.world_size > 1:
        from vqr1.inference.parallel import connect_to_share
        from vqr1.training.run_record import changed_keys

        same = partial(changed_keys, schema=ScoreConfig)
        connect_to_share(info, config.hardware, values, same)
    try:
        code = run(Job(config, form, lines_about(composed, if_other=True), info), paths)
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in FULL:
            raise
        target = error.filename or config.output or "standard output"
        raise RunFaultError(
            f"{target}: cannot be written ({error.strerror}); make room there, and give the "
            "command again, which continues an output of CSV or JSON lines"
        ) from error
    return code


def _composed(overrides: Sequence[str]) -> DictConfig:
    try:
        return compose_config("score", overrides)
    except ConfigError as error:
        # A file of such a name would have been taken for an image.
        raise ConfigError([_or_no_file(one, overrides) for one in error.problems]) from error


def _or_no_file(problem: str, overrides: Sequence[str]) -> str:
    for override in overrides:
        if problem.startswith(f"{override.partition('=')[0]}: no such key"):
            return f"{problem}; and there is no file {override}"
    return problem


def _code_of(task: Callable[[], int], info: RankInfo) -> int:
    """Exit code of a task; a user's mistake becomes one message."""
    try:
        return task()
    except USER_ERRORS as error:
        return _mistake(user_message(error), getattr(error, "exit_code", EXIT_USER_ERROR), info)
    except BrokenPipeError:
        # Whoever reads the rows, such as `head`, has seen enough.
        drop_output()
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command continues an output of CSV or JSON lines\n")
        return EXIT_SIGINT


def _mistake(message: str, code: int, info: RankInfo) -> int:
    try:
        sys.stdout.flush()
    except OSError:
        drop_output()
    if reports(info, message.strip(), code):
        sys.stderr.write(f"error: {message.strip()}\n")
    return code
