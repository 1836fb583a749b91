"""`vqr1 train`: compose, validate, hand over to `vqr1.training.run`.

What trains is there. It needs PyTorch, transformers, Lightning and more, which take
seconds to import. A mistake on the command line, `--help`, and the parents of a sweep or of several
processes do not wait for what they do not need: everything heavy is imported here, by the function
that takes over.

Exit codes are in `vqr1.errors`; which run `resume=` names is found in
`vqr1.training.resumed_arguments`.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from vqr1.cli.app import reports, run_command, stop
from vqr1.cli.compose import USER_ERRORS, compose_config, plain_values, user_message
from vqr1.cli.help import asks_for_help
from vqr1.cli.vote_rounds import with_rounds
from vqr1.config import TrainConfig, validate
from vqr1.distributed.environment import RankInfo, exit_process, find_rank_info
from vqr1.errors import EXIT_INTERRUPTED, ConfigError, PrunedError, UserError, raise_together
from vqr1.outputs import TRAINING, check_folder
from vqr1.policy.without_sklearn import hide_sklearn_from_transformers
from vqr1.process_memory import collection_paused
from vqr1.program import override
from vqr1.sweeps.chain import run_chain
from vqr1.training.initial_run import inherit, take_initial_run
from vqr1.training.resumed_arguments import arguments_of, kept_overrides
from vqr1.training.run_lookup import AUTO, finished_metric, key_of, resume_command

if TYPE_CHECKING:
    from vqr1.training.command import RunCommand

COMMAND = (sys.executable, "-P", "-m", "vqr1.cli.train")
"""This command by its module: in a job of submitit `sys.argv[0]` is submitit's script. `-P` keeps
files of the working directory from hiding packages."""


def main() -> None:
    """Entry point of `train.py`, `vqr1 train` and `vqr1-train`."""
    reports_here = partial(reports, RankInfo())
    try:
        info = find_rank_info()
        reports_here = partial(reports, info)
        if not asks_for_help(sys.argv[1:]):
            arguments = with_rounds(info, sys.argv[1:])
            if run_chain(info, arguments, COMMAND, check_link):
                return
        sys.argv[1:] = arguments_of(info, sys.argv[1:])
    except UserError as error:
        stop(error, reports_here)
    code = 0
    try:
        run_command("train", TrainConfig, partial(train, info=info), check, reports_here,
                    complete=take_initial_run)  # fmt: skip
    except SystemExit as end:
        code = int(end.code or 0)
    if info.world_size > 1:
        if code == EXIT_INTERRUPTED:
            from vqr1.distributed.rendezvous import wait_for_all_ranks

            wait_for_all_ranks(info)
        exit_process(code)
    sys.exit(code)


def check(config: TrainConfig) -> None:
    """Check what needs neither data nor a model.

    Raises:
        ConfigError: every rule that the configuration breaks.
    """
    with collection_paused():
        from vqr1.distributed.launch import check_one_machine
        from vqr1.rewards.build import build_rewards
        from vqr1.training.checks import check_training

    raise_together(
        lambda: check_training(config, build_rewards(config.reward)),
        lambda: check_one_machine(config.hardware),
    )


def check_link(overrides: list[str], before: dict[str, Any] | None) -> dict[str, Any]:
    """Compose and check one training of a chain.

    Args:
        overrides: its own.
        before: plain values of the one that it starts from; None of the first.

    Returns:
        Its plain values.

    Raises:
        ConfigError: every rule that it breaks.
    """
    try:
        composed = compose_config("train", overrides)
        if before is None:
            take_initial_run(composed, overrides)
        else:
            _check_continuable(before)
            inherit(composed, before, {key_of(override) for override in overrides})
            composed.init_from = "the training before it"
        values = plain_values(composed)
        check(validate(TrainConfig, values))
    except ConfigError:
        raise
    except USER_ERRORS as error:
        raise ConfigError([user_message(error)]) from error
    return values


def _check_continuable(before: dict[str, Any]) -> None:
    from vqr1.training.stages import build_stage

    if not build_stage(validate(TrainConfig, before).stage).gives_policy:
        raise ConfigError(["the training before it gives a student, which ends a chain"])


def train(config: TrainConfig, composed: DictConfig, info: RankInfo | None = None) -> float:
    """Run one training from its validated configuration, or resume one (`config.resume`).

    Args:
        config: typed configuration.
        composed: the same as Hydra composed it, for the log.
        info: this process among those that a launcher started; None is alone.

    Returns:
        Test SRCC after training (validation SRCC of the best checkpoint without a test), the
        metric that a sweep optimises; NaN on all but rank 0.

    Raises:
        UserError: a mistake, or a fault that stopped the run.
        Interrupted: a signal stopped the run, which is saved.
    """
    from vqr1.data.location import check_folders

    info = info or RankInfo()
    if not info.launched:
        # A run that is resumed may have finished, and its data may be gone.
        folders = [partial(check_folders, config.dataset)] if config.resume in (None, AUTO) else []
        raise_together(partial(check, config), *folders)
        if config.hardware.devices * config.hardware.nodes > 1:
            return _launch(config)
    with collection_paused():
        hide_sklearn_from_transformers()
        from vqr1.training.run import run_training

    try:
        return run_training(config, composed, info, _run_command())
    except PrunedError as error:
        if info.world_size == 1:
            raise
        from vqr1.distributed.rendezvous import report_once

        report_once(info, str(error), 1, pruned=True)
        sys.exit(1)


def _run_command() -> RunCommand:
    from vqr1.sweeps.child import child_tags, trial_callbacks
    from vqr1.sweeps.folder import JOB_FILE
    from vqr1.training.command import RunCommand

    hydra = HydraConfig.get()
    return RunCommand(
        overrides=tuple(kept_overrides(hydra.overrides)),
        choices={str(group): choice for group, choice in hydra.runtime.choices.items()},
        sweep_tags=child_tags,
        sweep_callbacks=trial_callbacks,
        in_sweep=lambda run_dir: (run_dir / JOB_FILE).is_file(),
    )


def _launch(config: TrainConfig) -> float:
    from vqr1.distributed.launch import launch

    run_dir = Path(config.run_dir)
    # Before the processes write into it.
    check_folder(run_dir, TRAINING, "run_dir")
    # The run directory, which each process would otherwise name after the time. Not by `run_dir`:
    # with `resume=auto` it matters whether the command gives it.
    own = kept_overrides(HydraConfig.get().overrides)
    arguments = [*own, override("hydra.run.dir", run_dir)]
    resume_with = resume_command(run_dir, RankInfo())
    launch([*COMMAND, *arguments], config.hardware.devices, resume_with)
    # With resume=auto the processes may have continued in another folder, and have reported it.
    return finished_metric(run_dir) if (run_dir / "summary.json").is_file() else float("nan")


if __name__ == "__main__":
    main()
