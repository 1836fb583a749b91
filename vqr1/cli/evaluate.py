"""`vqr1 eval`: evaluate a model, a table of predictions, or compare finished evaluations.

The evaluation itself is `vqr1.evaluation.run`, which takes seconds to import; a mistake on the
command line is reported before.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from vqr1.cli.app import refuse_launcher, reports, run_command, stop
from vqr1.cli.compose import plain_values
from vqr1.config import EvalConfig
from vqr1.distributed.environment import find_rank_info
from vqr1.distributed.launcher_tasks import is_first_task
from vqr1.errors import UserError, raise_together
from vqr1.evaluation.checks import check_evaluation, compares_sweep
from vqr1.outputs import EVALUATION, check_folder, make_folders
from vqr1.process_memory import collection_paused
from vqr1.program import command_line, name_of, override
from vqr1.training.resumed_arguments import NO_FOLDER
from vqr1.training.run_lookup import key_of


def main() -> None:
    """Entry point of `eval.py`, `vqr1 eval` and `vqr1-eval`."""
    try:
        # Sets what torchrun would set for the tasks of srun too.
        info = find_rank_info()
    except UserError as error:
        stop(error, lambda message, code: is_first_task())
    refuse_launcher(name_of("eval"), torchrun=True)
    if info.rank:
        # Rank 0's folder is the evaluation's; Hydra would name another one after the time.
        sys.argv[1:] = [*sys.argv[1:], *NO_FOLDER]
    run_command(
        "eval",
        EvalConfig,
        evaluate,
        reports_here=partial(reports, info),
        go_on=continue_with,
    )


def continue_with(run_dir: Path | None) -> str:
    """How a stopped evaluation continues: its command, with the folder that it began in."""
    if run_dir is None:
        return ""
    given = [one for one in sys.argv[1:] if key_of(one) not in ("run_dir", "hydra.run.dir")]
    command = command_line("eval", *given, override("run_dir", run_dir))
    return f"; what was evaluated is kept, and continues with: {command}"


def evaluate(config: EvalConfig, composed: DictConfig) -> float | None:
    """Run one evaluation from its validated configuration.

    Returns:
        As `vqr1.evaluation.run.run_evaluation`.
    """
    from vqr1.data.location import check_folders

    labelled = config.compare is None and config.questions is None
    if config.predictions is not None:
        labelled = config.labels == "dataset"
    raise_together(
        partial(check_evaluation, config),
        partial(check_folders, config.dataset) if labelled else list,
    )
    with collection_paused():
        from vqr1.evaluation.run import compare_sweep, needs_model, run_evaluation
        from vqr1.training.run_record import RunLock, changed_keys

    info = find_rank_info()
    run_dir = Path(config.run_dir)
    first = info.rank == 0
    if first:
        check_folder(run_dir, EVALUATION, "run_dir")
    make_folders(run_dir=config.run_dir, loader__cache_dir=config.loader.cache_dir)
    lock: AbstractContextManager[object] = RunLock(run_dir) if first else nullcontext()
    with lock:
        if needs_model(config):
            # PyTorch takes seconds to import, and a table of predictions needs none.
            from vqr1.inference.parallel import connect_to_share

            same = partial(changed_keys, schema=EvalConfig, moved=True)
            connect_to_share(info, config.hardware, plain_values(composed), same)
        if first and compares_sweep(config):
            from vqr1.sweeps.predictions import read_settings

            assert config.compare is not None
            folder = Path(config.compare[0]).expanduser().resolve()
            compare_sweep(config, composed, folder, read_settings(folder))
            return None
        return run_evaluation(config, composed, info)
