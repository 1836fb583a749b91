"""`init_from=RUN`: a training that starts from the exported weights of a finished one.

The run's `export` becomes `model.path`. What the command does not choose of model, prompt and
answer is that of the run: its LoRA settings (unless the stage trains no policy) and image sizes,
its question and answer form. A prompt that is chosen (by `prompt=`, `answer=`, a method that has
one, or an experiment) is taken with its own answer form, a model that is chosen with its own
settings.

Not here: finding a run (`run_lookup.py`), resuming one (`resume.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from vqr1.config.folder import method_has_prompt
from vqr1.config.plain import flatten
from vqr1.config.training import StageConfig
from vqr1.config.validation import validate
from vqr1.errors import ConfigError
from vqr1.program import command_line, override
from vqr1.training.run_lookup import find_run, key_of
from vqr1.training.run_record import RECORD, read_record

EXPORT = "export"
"""Folder of a run that holds its exported weights."""

_CHOSEN_BY: Mapping[str, frozenset[str]] = {
    "model": frozenset({"model", "experiment"}),
    "prompt": frozenset({"prompt", "answer", "method", "experiment"}),
    "answer": frozenset({"prompt", "answer", "method", "experiment"}),
}
"""By group that is taken over, the choices on the command line that keep it from that."""

_OWN_MODEL_KEYS = ("path", "revision", "dtype")
"""Keys of `model` that are the new run's: it has other weights, and may train others of them."""


def take_initial_run(composed: DictConfig, overrides: Sequence[str]) -> None:
    """Complete a composed configuration by the run that `init_from` names; null changes nothing.

    Args:
        composed: of `conf/train.yaml`; changed in place.
        overrides: the command line's.

    Raises:
        ConfigError: no such run, it has not finished, its export is gone, or `model.path` is given.
    """
    name = composed.get("init_from")
    if name is None:
        return
    given = {key_of(override) for override in overrides}
    if "model.path" in given:
        raise ConfigError(
            [
                f"init_from={name}, model.path={composed.model.path}: two places to start from; "
                "give one of them"
            ]
        )
    run_dir, recorded = _finished_run(str(name), composed.logger.get("tracking_uri"))
    inherit(composed, recorded, given)
    with open_dict(composed):
        composed.model.path = str(run_dir / EXPORT)
        composed.model.revision = None


def inherit(composed: DictConfig, recorded: Mapping[str, Any], given: set[str]) -> None:
    """Take over a run's model, prompt and answer form, apart from what a command chooses.

    Args:
        composed: of the new run; changed in place.
        recorded: plain values of the run that it starts from.
        given: keys of the new run's command line.
    """
    method = composed.get("method")
    if method is not None and not method_has_prompt(str(method.name)):
        given = given - {"method"}
    for group, choices in _CHOSEN_BY.items():
        if not given & choices and isinstance(recorded.get(group), Mapping):
            values = dict(recorded[group])
            if group == "model" and not _trains_policy(composed.stage):
                values["lora"] = None  # merged in the exported weights, which stay as they are
            _take_group(composed, group, values, given)


def _trains_policy(stage: DictConfig) -> bool:
    """Whether a composed `conf/stage` group trains the model that the run begins with."""
    from vqr1.training.stages import build_stage

    arguments = {str(key): value for key, value in stage.items() if key != "_target_"}
    values = {"_target_": stage["_target_"], "arguments": arguments}
    return build_stage(validate(StageConfig, values)).gives_policy


def _finished_run(name: str, tracking_uri: str | None) -> tuple[Path, Mapping[str, Any]]:
    """Folder and recorded configuration of a run whose weights are exported."""
    folder = Path(name)
    near = [folder.parent] if folder.name == EXPORT else sorted(folder.glob("*/"))
    runs = [str(place) for place in near if (place / RECORD).is_file()]
    if runs and not (folder / RECORD).is_file():
        raise ConfigError([f"init_from={name}: not the folder of a run; give one, as {runs[-1]}"])
    run_dir = find_run(name, tracking_uri, "init_from").resolve()
    record = read_record(run_dir)
    if record is None or not record.finished:
        raise ConfigError(
            [
                f"init_from={name}: this run has not finished; finish it first with "
                f"{command_line('train', override('resume', run_dir))}, or give a checkpoint as "
                "model.path"
            ]
        )
    if not (run_dir / EXPORT / "config.json").is_file():
        raise ConfigError(
            [
                f"init_from={name}: {run_dir / EXPORT} holds no checkpoint any more; restore it, "
                "or give one as model.path"
            ]
        )
    return run_dir, record.config


def _take_group(
    composed: DictConfig, group: str, recorded: Mapping[str, Any], given: set[str]
) -> None:
    """Replace a group by the recorded one, apart from the keys that the command gives."""
    own = OmegaConf.to_container(composed[group], resolve=False)
    assert isinstance(own, dict)
    kept = {name: own[name] for name in _OWN_MODEL_KEYS if group == "model" and name in own}
    with open_dict(composed):
        composed[group] = OmegaConf.create({**recorded, **kept})
    mine = flatten(own)
    for key in given:
        below = key.removeprefix(f"{group}.")
        for name, value in mine.items() if below != key else ():
            if name == below or name.startswith(f"{below}."):
                OmegaConf.update(composed, f"{group}.{name}", value, force_add=True)
