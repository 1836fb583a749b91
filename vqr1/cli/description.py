"""What a training run is called and says at its start, and what is kept from being said."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from transformers.utils.logging import disable_progress_bar

from vqr1.cli.resume import Run
from vqr1.config import MixtureConfig, TrainConfig
from vqr1.data.datamodule import RankingDataModule
from vqr1.policy.loading import Policy
from vqr1.sweeps.child import child_tags
from vqr1.training.checkpoint_files import step_of


def run_name(config: TrainConfig) -> str:
    """Data sets, reward and seed: what one looks for in a list of runs."""
    if isinstance(config.dataset, MixtureConfig):
        sets = "+".join(config.dataset.parts)
    else:
        sets = config.dataset.name
    return f"{sets}/{HydraConfig.get().runtime.choices['reward']}/seed{config.seed}"


def describe(
    config: TrainConfig, policy: Policy, data: RankingDataModule, steps: int, run: Run
) -> str:
    """What is about to be trained, in three lines, and where a resumed run goes on."""
    trained = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    counts = ", ".join(
        f"{name} {len(s.part('train'))}/{len(s.part('val'))}/{len(s.part('test'))}"
        for name, s in data.sets.items()
    )
    return (
        f"policy {config.model.name}: {trained / 1e6:.1f} M trained parameters\n"
        f"images (train/val/test): {counts}\n"
        f"{steps} steps of {config.loader.images_per_batch} images x "
        f"{config.grpo.group_size} responses{_on_processes(config)}; reward "
        f"{' + '.join(config.reward.terms)}; run directory {run.run_dir}"
    ) + _resumed_at(run)


def _on_processes(config: TrainConfig) -> str:
    count = config.hardware.devices * config.hardware.nodes
    return "" if count == 1 else f" on each of {count} processes"


def _resumed_at(run: Run) -> str:
    if not run.resumed:
        return ""
    if run.checkpoint is None:
        return "\nresumed from the beginning: nothing was saved yet"
    return f"\nresumed after step {step_of(run.checkpoint)}"


def run_tags(config: TrainConfig) -> dict[str, str]:
    """Tags of the MLflow run: the command, the model, and its place in a sweep."""
    command = " ".join([Path(sys.argv[0]).name, *HydraConfig.get().overrides.task])
    return {
        "vqr1.command": command,
        "vqr1.model": config.model.name,
        **child_tags(Path(config.run_dir)),
    }


def quieten(config: TrainConfig) -> None:
    """Silence what libraries say at every run and no user can act on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    if config.model.path is None:
        # The tiny policy loads in a blink; larger ones keep their bar.
        disable_progress_bar()
    # Responses have a length of their own; the suggestion to raise the worker count is about
    # machines with more cores than the profile asked for.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*num_workers.*")
    # Figures are those of all processes already (`vqr1.training.ranks`).
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    # Sampling and update both run without dropout, on purpose (`GrpoModule.training_step`).
    warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)`.*")
