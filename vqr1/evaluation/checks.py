"""Keys of `python eval.py` that belong together, checked before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from vqr1.config import EvalConfig, ServerConfig
from vqr1.config.model_defaults import is_own_path
from vqr1.distributed.cores import crowding_problems, usable_cores
from vqr1.errors import ConfigError
from vqr1.inference.mode_checks import backend_problems, mode_problems
from vqr1.outputs import SWEEP, kinds_of
from vqr1.student.files import is_student
from vqr1.tracking.other_loggers import logger_problems


def compares_sweep(config: EvalConfig) -> bool:
    """Whether what is compared is one sweep's folder."""
    compared = config.compare or []
    return len(compared) == 1 and SWEEP in kinds_of(Path(compared[0]).expanduser())


def _run_problems(config: EvalConfig) -> list[str]:
    """What does not go with `model.run`."""
    model = config.model
    if model.run is None:
        return []
    problems = []
    if isinstance(config.backend, ServerConfig):
        problems.append(
            f"model.run={model.run}: backend=openai evaluates the server's own model; leave one of "
            "them out"
        )
    # The path of the chosen file of `conf/model` is only its default.
    if model.path is not None and not is_own_path(model.name, model.path):
        problems.append(
            f"model.run={model.run}, model.path={model.path}: a run's model is its own export; "
            "leave one of them out"
        )
    return problems


def check_evaluation(config: EvalConfig) -> None:
    """Raise one ConfigError with every problem of keys that belong together."""
    problems = logger_problems(config.logger)
    if config.predictions is not None and config.compare is not None:
        problems.append("predictions, compare: only one of them may be given")
    if config.compare is not None and len(config.compare) < 2 and not compares_sweep(config):
        problems.append(f"compare={config.compare}: name at least two runs, compare=[A,B]")
    if config.suite == "from_predictions" and config.predictions is None:
        problems.append("predictions=None: give the file to evaluate, predictions=FILE")
    if config.predictions is not None:
        problems += _column_problems(config)
    problems += _question_problems(config) + answering_problems(config)
    unasked = config.questions is None
    scores = unasked and config.predictions is None and config.compare is None
    if scores and not config.answer.form.scored:
        problems.append(
            f"prompt={config.prompt.name}, answer: it asks for no score; choose prompt=thinking or "
            "prompt=non_thinking, without answer=free"
        )
    if unasked:
        problems += _consistency_problems(config, scores)
        problems += mode_problems(config.mode, config.answer.form)
    problems += backend_problems(config.backend, config.mode, config.model)
    problems += _run_problems(config)
    problems += crowding_problems(config.hardware, usable_cores())
    if config.hardware.nodes > 1:
        problems.append(
            f"hardware.nodes={config.hardware.nodes}: set it to 1 and start one process a device "
            "with torchrun or srun; the processes find each other"
        )
    if len(set(config.statistics.curves)) < len(config.statistics.curves):
        problems.append(f"statistics.curves={config.statistics.curves}: name each curve once")
    problems += _target_problems(config)
    if config.metrics:
        problems += _metric_problems(config)
    if problems:
        raise ConfigError(problems)


def _question_problems(config: EvalConfig) -> list[str]:
    """Why questions cannot be asked together with what else is given."""
    if config.questions is None:
        if config.questions_root is None:
            return []
        return [f"questions_root={config.questions_root}: give questions=FILE too, or leave it out"]
    others = {
        "predictions": config.predictions is not None,
        "compare": config.compare is not None,
        "consistency": config.consistency,
        "perturbation": config.perturbation is not None,
    }
    return [
        f"questions={config.questions}, {name}: questions are asked alone; give one of them"
        for name, given in others.items()
        if given
    ]


def answering_problems(config: EvalConfig) -> list[str]:
    """Why the model cannot be asked questions, in at most one line.

    Args:
        config: the evaluation; a model that `model.run` names is known once it is resolved.
    """
    if config.questions is None or isinstance(config.backend, ServerConfig):
        return []
    if not is_student(config.model):
        return []
    return [
        f"questions={config.questions}, model.path={config.model.path}: a student gives scores and "
        "answers no questions; name the model of its teacher, or leave questions out"
    ]


def _consistency_problems(config: EvalConfig, scores: bool) -> list[str]:
    """Why images cannot be scored again, in at most one line."""
    if not config.consistency:
        return []
    if not scores:
        return [
            "consistency=true: nothing is scored here, so that nothing can be scored again; give a "
            "model instead of predictions or compare"
        ]
    if config.perturbation is not None:
        return [
            f"consistency=true, perturbation={config.perturbation}: the report has every "
            "perturbation; set one of them only"
        ]
    return []


def _target_problems(config: EvalConfig) -> list[str]:
    """Why pairs cannot be evaluated, in at most one line."""
    if config.target == "mos":
        return []
    if config.compare is not None:
        return [
            "target=pairs, compare: finished evaluations are compared by MOS; evaluate each with "
            "target=pairs"
        ]
    if config.predictions is not None and config.labels == "file":
        return [
            "target=pairs, labels=file: pairs are those of a data set; set labels=dataset, dataset "
            "and dataset.pairs.file"
        ]
    return []


def _metric_problems(config: EvalConfig) -> list[str]:
    """Why metrics of the user's own cannot be computed."""
    from vqr1.evaluation.metrics import metrics_of

    try:
        metrics_of(config.metrics, config.target)
    except ConfigError as error:
        return error.problems
    return []


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
