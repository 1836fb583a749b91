"""`python train.py`: compose, validate, judge, train, judge again, export, report."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from vqr1.cli.app import run_command
from vqr1.cli.build import build_engine, build_rewards, build_trainer, build_vision_cache
from vqr1.cli.checks import check_training
from vqr1.cli.compose import plain_values
from vqr1.cli.model_card import write_model_card
from vqr1.cli.report import TestResult, judge, print_report, summary_values
from vqr1.config import MixtureConfig, TrainConfig
from vqr1.data.datamodule import RankingDataModule
from vqr1.data.prompts import PromptBuilder
from vqr1.evaluation.predictions import Predictions
from vqr1.policy.export import export_checkpoint
from vqr1.policy.loading import Policy, load_policy, load_processor
from vqr1.tracking import RunLog, open_run_log
from vqr1.training.callbacks import (
    BEST,
    LAST,
    SampleAnswers,
    ScatterPlot,
    checkpoint_callbacks,
    progress_callback,
)
from vqr1.training.callbacks.answers import answer_table
from vqr1.training.callbacks.scatter import scatter_figure
from vqr1.training.grpo import GrpoModule, StepSettings
from vqr1.training.validation import Validator, validation_modes

logger = logging.getLogger(__name__)


def main() -> None:
    """Entry point of `train.py` and `vqr1-train`."""
    run_command("train", TrainConfig, train)


def train(config: TrainConfig, composed: DictConfig) -> float:
    """Run one training from its validated configuration.

    Args:
        config: typed configuration.
        composed: the same as Hydra composed it, for the log.

    Returns:
        Test SRCC after training (validation SRCC of the best checkpoint without a test), the
        figure that a sweep optimises.
    """
    started = time.monotonic()
    rewards = build_rewards(config.reward)
    check_training(config, rewards)
    _quieten(config)
    if config.hardware.threads is not None:
        torch.set_num_threads(config.hardware.threads)
    L.seed_everything(config.seed, verbose=False)
    console = Console(soft_wrap=True)
    data = _open_data(config)
    policy = load_policy(
        config.model,
        attention=config.hardware.attention,
        gradient_checkpointing=config.hardware.gradient_checkpointing,
        device="cuda" if config.hardware.accelerator == "gpu" else "cpu",
    )
    steps = _total_steps(config, data)
    console.print(describe(config, policy, data, steps), markup=False)
    with open_run_log(
        config.logger, Path(config.run_dir), run_name(config), _tags(config)
    ) as run_log:
        run_log.config(OmegaConf.to_yaml(composed, resolve=True), plain_values(composed))
        result = _fit_and_judge(config, policy, data, rewards, run_log, steps)
        seconds = time.monotonic() - started
        run_log.summary(summary_values(result, seconds, run_log))
        write_model_card(result.checkpoint, run_log.run_dir)
    print_report(console, result, seconds, run_log)
    return result.headline


def _fit_and_judge(
    config: TrainConfig,
    policy: Policy,
    data: RankingDataModule,
    rewards: Any,
    run_log: RunLog,
    steps: int,
) -> TestResult:
    sampling = config.rollout.sampling
    vision_cache = build_vision_cache(config.hardware)
    engine = build_engine(config.rollout, policy, vision_cache)
    modes = validation_modes(
        sampling, config.validation.samples, config.seed, config.prompt.answer_format
    )
    settings = StepSettings(
        grpo=config.grpo,
        sampling=sampling,
        optimizer=config.optimizer,
        answer_format=config.prompt.answer_format,
        micro_batch_tokens=config.hardware.micro_batch_tokens,
        total_steps=steps,
        seed=config.seed,
    )
    validator = Validator(engine, modes)
    module = GrpoModule(policy, engine, rewards, validator, settings, vision_cache)
    folder = run_log.run_dir / "checkpoints"
    callbacks = _callbacks(config, run_log, folder)
    trainer = build_trainer(config, run_log.logger, callbacks, steps)

    device = next(policy.model.parameters()).device

    def judged(when: str) -> Predictions | None:
        if not config.validation.test:
            return None
        # Lightning moves the policy to the CPU after every validate and fit.
        policy.model.to(device)
        return judge(engine, data, modes.primary, config.validation.images_per_batch, when)

    before = judged("before training")
    trainer.validate(module, data, verbose=False)
    trainer.fit(module, data)
    after = last = judged("after training, last step")
    if config.callbacks.checkpoint is not None:
        trainer.save_checkpoint(folder / f"{LAST}.ckpt")
    best_step = _load_best(module, trainer)
    if best_step not in (None, trainer.global_step):
        after = judged(f"after training, best step {best_step}")
    exported = export_checkpoint(policy, run_log.run_dir.resolve() / "export")
    result = TestResult.build(
        before, after, last, trainer, exported, config.validation.bootstrap_draws
    )
    _log_result(run_log, result)
    skipped = {name: count for name, count in data.skipped_images().items() if count}
    run_log.metrics({f"data/skipped/{name}": float(count) for name, count in skipped.items()})
    for name, count in skipped.items():
        logger.warning("%s: %d images were left out (dataset.on_bad_image=skip)", name, count)
    return result


def _load_best(module: GrpoModule, trainer: L.Trainer) -> int | None:
    """Load the weights of this run's best checkpoint; its step, or None when none was kept."""
    kept = [getattr(c, "best_model_path", "") for c in trainer.checkpoint_callbacks]
    files = [Path(path) for path in kept if Path(path).stem == BEST]
    if not files:
        return None
    state = torch.load(files[0], map_location="cpu", weights_only=True)
    module.load_state_dict(state["state_dict"])
    return int(state["global_step"])


def _log_result(run_log: RunLog, result: TestResult) -> None:
    best = {} if result.val_srcc is None else {"val/srcc_best": result.val_srcc}
    run_log.metrics({**result.metrics(), **best})
    run_log.tags({"vqr1.checkpoint": str(result.checkpoint)})
    for name, predictions in (("before", result.before), ("after", result.after)):
        if predictions is not None:
            run_log.figure(
                f"scatter/test_{name}", scatter_figure(predictions, f"test, {name} training")
            )
            run_log.table(f"answers/test_{name}", answer_table(predictions, 20))


def _open_data(config: TrainConfig) -> RankingDataModule:
    """The data sets with their labels read and images found, before any weights are loaded."""
    prompts = PromptBuilder(
        load_processor(config.model),
        config.prompt.text,
        config.model.min_pixels,
        config.model.max_pixels,
    )
    data = RankingDataModule(
        config.dataset,
        config.loader,
        prompts,
        seed=config.seed,
        val_max_images=config.validation.max_images,
        val_batch_size=config.validation.images_per_batch,
    )
    data.setup("fit")
    # Making the loaders is cheap and finds what is missing: a part without images, a wrong weight.
    data.train_dataloader()
    data.val_dataloader()
    if config.validation.test:
        data.eval_dataloader("test")
    return data


def _total_steps(config: TrainConfig, data: RankingDataModule) -> int:
    if config.max_steps is not None:
        return config.max_steps
    assert config.max_epochs is not None
    return config.max_epochs * len(data.train_dataloader()) * config.grpo.inner_iterations


def _callbacks(config: TrainConfig, run_log: RunLog, folder: Path) -> list[L.Callback]:
    callbacks: list[L.Callback] = [
        SampleAnswers(run_log, config.logger.sample_answers),
        ScatterPlot(run_log),
    ]
    if config.callbacks.progress:
        callbacks.append(progress_callback(Console()))
    if config.callbacks.checkpoint is not None:
        callbacks += checkpoint_callbacks(config.callbacks.checkpoint, folder)
    return callbacks


def run_name(config: TrainConfig) -> str:
    """Data sets, reward and seed: what one looks for in a list of runs."""
    if isinstance(config.dataset, MixtureConfig):
        sets = "+".join(config.dataset.parts)
    else:
        sets = config.dataset.name
    return f"{sets}/{HydraConfig.get().runtime.choices['reward']}/seed{config.seed}"


def describe(config: TrainConfig, policy: Policy, data: RankingDataModule, steps: int) -> str:
    """What is about to be trained, in three lines."""
    trained = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    counts = ", ".join(
        f"{name} {len(s.part('train'))}/{len(s.part('val'))}/{len(s.part('test'))}"
        for name, s in data.sets.items()
    )
    return (
        f"policy {config.model.name}: {trained / 1e6:.1f} M trained parameters\n"
        f"images (train/val/test): {counts}\n"
        f"{steps} steps of {config.loader.images_per_batch} images x "
        f"{config.grpo.group_size} responses; reward {' + '.join(config.reward.terms)}; "
        f"run directory {config.run_dir}"
    )


def _tags(config: TrainConfig) -> dict[str, str]:
    command = " ".join([Path(sys.argv[0]).name, *HydraConfig.get().overrides.task])
    return {"vqr1.command": command, "vqr1.model": config.model.name}


def _quieten(config: TrainConfig) -> None:
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
    # Sampling and update both run without dropout, on purpose (`GrpoModule.training_step`).
    warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)`.*")
