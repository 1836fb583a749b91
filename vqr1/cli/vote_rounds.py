"""`votes.rounds` of a training by its own votes, as the chain of trainings that it stands for.

Not here: running a chain (`vqr1.sweeps.chain`), the votes (`vqr1.training.self_vote`).
"""

from __future__ import annotations

from vqr1.cli.compose import USER_ERRORS, compose_config
from vqr1.distributed.environment import RankInfo
from vqr1.training.run_lookup import key_of

_APART = 1000
"""Between the seeds of two rounds, which vote on other pairs; far from a study's 1, 2, 3."""


def with_rounds(info: RankInfo, arguments: list[str]) -> list[str]:
    """A command line with the chain of trainings that `votes.rounds` asks for.

    Args:
        info: this process.
        arguments: the command line without the program.

    Returns:
        As it is where one training is asked for, or rounds cannot be: its check reports that.
    """
    keys = {key_of(argument) for argument in arguments}
    single = info.launched or info.report is not None or {"chain", "resume"} & keys
    flags = any(argument.startswith("-") for argument in arguments)
    if single or flags or not {"votes.rounds", "method", "experiment"} & keys:
        return arguments
    try:
        composed = compose_config("train", arguments)
    except USER_ERRORS:
        # Reported where the training is composed.
        return arguments
    rounds, seed = composed.votes.rounds, composed.seed
    readable = isinstance(rounds, int) and isinstance(seed, int)
    if composed.target != "self_vote" or not readable or rounds < 2:
        return arguments
    trainings = [repr(f"grpo votes.rounds=1 seed={seed + _APART * n}") for n in range(rounds)]
    return [*arguments, f"chain=[{','.join(trainings)}]"]
