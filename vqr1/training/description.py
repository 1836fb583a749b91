"""What a training run is called, logs of itself and prints at its start, and what it hides."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from transformers.utils.logging import disable_progress_bar

from vqr1.config import MixtureConfig, TrainConfig
from vqr1.config.affects import Affects, affects
from vqr1.config.plain import flatten, plain_values
from vqr1.data.datamodule import RankingDataModule
from vqr1.policy.loading import Policy
from vqr1.policy.training_prompt import prompt_notes, trained_vision_id, vision_id_note
from vqr1.program import command_line
from vqr1.training.checkpoint_files import step_of
from vqr1.training.command import RunCommand
from vqr1.training.resume import Run
from vqr1.training.stages import Stage


def run_name(config: TrainConfig, command: RunCommand) -> str:
    """Data sets, reward and seed: what one looks for in a list of runs."""
    if isinstance(config.dataset, MixtureConfig):
        sets = "+".join(config.dataset.parts)
    else:
        sets = config.dataset.set_name
    return f"{sets}/{command.choices['reward']}/seed{config.seed}"


def describe(
    config: TrainConfig,
    stage: Stage,
    policy: Policy,
    data: RankingDataModule,
    steps: int,
    run: Run,
    defaults: Sequence[str] = (),
) -> str:
    """What is about to be trained, where a resumed run resumes, and what is unusual, in lines.

    Args:
        config: typed configuration.
        stage: what is done with a batch.
        policy: the policy.
        data: its images.
        steps: optimizer steps in all.
        run: the run.
        defaults: lines about the values that the configuration takes from its model.
    """
    weights = list(policy.model.parameters())
    if stage.gives_policy:
        count = sum(p.numel() for p in weights if p.requires_grad) / 1e6
        model = f"policy {config.model.name}: {count:.1f} M trained parameters"
    else:
        count = sum(p.numel() for p in weights) / 1e6
        model = f"teacher {config.model.name}: {count:.1f} M parameters"
    counts = ", ".join(
        f"{name} {len(s.rows('train'))}/{len(s.rows('val'))}/{len(s.rows('test'))}"
        for name, s in data.sets.items()
    )
    lines = [
        model,
        f"images (train/val/test): {counts}",
        *(f"target={config.target}, {name}: {p}" for name, p in data.training_pairs.items()),
        *(f"task {name}: {task}" for name, task in data.tasks.items()),
        f"{steps} steps of {config.loader.batch_size} images{_on_processes(config)}"
        f"{stage.described(config)}; run directory {run.run_dir}",
        *defaults,
    ]
    note = vision_id_note(config.prompt, trained_vision_id(config.model))
    notes = [*([] if note is None else [note]), *prompt_notes(config.prompt, config.model)]
    return "\n".join(lines) + _resumed_at(run) + "".join(f"\n{line}" for line in notes)


def parameters(composed: DictConfig, command: RunCommand) -> dict[str, Any]:
    """What a run's log shows as parameters: flat values, and the choice made in every group.

    The choices (`reward`, `model`, ...) are what one compares runs by; the keys below state what
    each choice meant. A page that compares runs picks parameters that differ, so what always
    differs is excluded unless the command names it: the folder (it is a tag), what other keys take
    their values from, and the keys of rewards, which two rewards do not share. `reward.terms`
    states in one line what those are.
    """
    groups = {
        group: choice
        for group, choice in command.choices.items()
        if (group in composed or group in ("method", "tasks")) and choice is not None
    }
    named = {override.lstrip("+").split("=", 1)[0] for override in command.overrides}
    values = plain_values(composed)
    flat = {
        key: value
        for key, value in flatten(values).items()
        if key in named
        or (affects(TrainConfig, key) >= Affects.NOTHING and not key.startswith("reward.terms."))
    }
    return {**flat, "reward.terms": _terms(values["reward"]["terms"]), **groups}


def _terms(terms: Mapping[str, Mapping[str, Any]]) -> str:
    """Such as `1 threshold(width=0.35) + 1 format`."""
    printed = []
    for name, term in terms.items():
        own = {k: v for k, v in term.items() if k not in ("_target_", "weight") and v is not None}
        arguments = ", ".join(f"{key}={value}" for key, value in own.items())
        printed.append(f"{term.get('weight', 1.0):g} {name}" + (f"({arguments})" if own else ""))
    return " + ".join(printed)


def _on_processes(config: TrainConfig) -> str:
    count = config.hardware.devices * config.hardware.nodes
    return "" if count == 1 else f" on each of {count} processes"


def _resumed_at(run: Run) -> str:
    if not run.resumed:
        return ""
    if run.checkpoint is None:
        return "\nstarted again from the beginning: nothing was saved yet"
    return f"\nresumed after step {step_of(run.checkpoint)}"


def run_tags(config: TrainConfig, command: RunCommand) -> dict[str, str]:
    """Tags of the MLflow run: the command, the model, and its place in a sweep."""
    return {
        "vqr1.command": command_line("train", *command.overrides),
        "vqr1.model": config.model.name,
        **({} if config.init_from is None else {"vqr1.init_from": config.init_from}),
        **command.sweep_tags(Path(config.run_dir)),
    }


def quieten(config: TrainConfig) -> None:
    """Silence what libraries print at every run and no user can act on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    if config.model.path is None:
        # The tiny policy loads in a blink; larger ones keep their bar.
        disable_progress_bar()
    # Responses have a length of their own; the suggestion to raise the worker count is about
    # machines with more cores than the profile asked for.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*num_workers.*")
    # Metrics are those of all processes already (`vqr1.distributed.collectives`).
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    # Sampling and update both run without dropout, on purpose (`GrpoModule.training_step`).
    warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)`.*")
