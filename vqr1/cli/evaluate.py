"""`python eval.py`: judge a model, a table of predictions, or compare finished evaluations.

The work itself is in `evaluate_run.py`, which takes seconds to import; a mistake on the command
line is reported before.
"""

from __future__ import annotations

from functools import partial

from omegaconf import DictConfig

from vqr1.cli.app import refuse_launcher, reports, run_command, stop
from vqr1.cli.mode_checks import backend_problems, mode_problems
from vqr1.config import EvalConfig, ServerConfig, VllmBackendConfig
from vqr1.distributed.environment import find_rank_info
from vqr1.distributed.launcher_tasks import is_first_task
from vqr1.errors import ConfigError, UserError


def main() -> None:
    """Entry point of `eval.py` and `vqr1-eval`."""
    try:
        # Sets what torchrun would set for the tasks of srun too.
        info = find_rank_info()
    except UserError as error:
        stop(error, lambda message, code: is_first_task())
    refuse_launcher("eval.py", torchrun=True)
    run_command(
        "eval",
        EvalConfig,
        evaluate,
        speaks=partial(reports, info),
        go_on="; the same command with run_dir={run_dir} goes on",
    )


def evaluate(config: EvalConfig, composed: DictConfig) -> float | None:
    """Run one evaluation from its validated configuration.

    Returns:
        SRCC (the plain mean over sets); NaN where it does not exist; None in processes that only
        help, and for comparisons.
    """
    check_evaluation(config)
    from vqr1.cli.evaluate_run import run_evaluation

    return run_evaluation(config, composed)


def check_evaluation(config: EvalConfig) -> None:
    """Raise one ConfigError with every problem of keys that belong together."""
    problems = []
    if config.predictions is not None and config.compare is not None:
        problems.append("predictions, compare: only one of them may be given")
    if config.compare is not None and len(config.compare) < 2:
        problems.append(f"compare={config.compare}: name at least two runs, compare=[A,B]")
    if config.suite == "from_predictions" and config.predictions is None:
        problems.append("predictions=None: give the file to judge, predictions=FILE")
    if config.predictions is not None:
        problems += _column_problems(config)
    scores = config.predictions is None and config.compare is None
    if scores and config.prompt.answer_format == "free":
        problems.append(
            f"prompt={config.prompt.name}: it asks for no score; choose prompt=thinking or "
            "prompt=non_thinking"
        )
    problems += mode_problems(config.mode, config.prompt)
    problems += backend_problems(config.backend, config.mode)
    if scores and isinstance(config.backend, VllmBackendConfig):
        problems.append(
            "backend=vllm: an evaluation takes local or openai; start `vllm serve` and give "
            "backend=openai backend.url=..."
        )
    if isinstance(config.backend, ServerConfig) and config.model.run is not None:
        problems.append(
            f"model.run={config.model.run}: backend=openai judges the server's own model; leave "
            "one of them out"
        )
    if config.hardware.nodes > 1:
        problems.append(
            f"hardware.nodes={config.hardware.nodes}: set it to 1 and start one process a device "
            "with torchrun or srun; the processes find each other"
        )
    if len(set(config.figures.curves)) < len(config.figures.curves):
        problems.append(f"figures.curves={config.figures.curves}: name each curve once")
    if problems:
        raise ConfigError(problems)


def _column_problems(config: EvalConfig) -> list[str]:
    """Why columns of a file of predictions cannot be what they are named for.

    One column as score and MOS would have an SRCC of 1.
    """
    names = ("image", "score", "mos") if config.labels == "file" else ("image", "score")
    columns = {f"columns.{name}": getattr(config.columns, name) for name in names}
    found = []
    for column in dict.fromkeys(columns.values()):
        keys = [key for key, value in columns.items() if value == column]
        if len(keys) > 1:
            found.append(
                f"{', '.join(f'{key}={column}' for key in keys)}: one column cannot be both; name "
                "each one's own"
            )
    return found
