"""Every YAML file of the training groups composes and fits the schema; rewards are built."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, open_dict

from vqr1.cli import mixtures
from vqr1.cli.checks import check_training
from vqr1.cli.compose import compose_config, plain_values
from vqr1.cli.rewards import build_rewards
from vqr1.config import MixtureConfig, TrainConfig, config_dir, validate

pytestmark = pytest.mark.medium

GROUPS = (
    "dataset", "model", "prompt", "reward", "rollout", "optimizer", "hardware", "logger",
    "callbacks", "sweep",
)  # fmt: skip


def choices(group: str) -> list[str]:
    return sorted(file.stem for file in (config_dir() / group).glob("*.yaml"))


def train_config(*overrides: str) -> TrainConfig:
    return validate(TrainConfig, plain_values(compose_config("train", ["run_dir=run", *overrides])))


@pytest.mark.parametrize(
    ("group", "choice"), [(group, choice) for group in GROUPS for choice in choices(group)]
)
def test_every_choice_of_every_group(group: str, choice: str) -> None:
    config = train_config(f"{group}={choice}")
    assert build_rewards(config.reward).terms.keys() == config.reward.terms.keys()


def test_the_defaults_are_consistent() -> None:
    config = train_config()
    check_training(config, build_rewards(config.reward))
    assert config.grpo.group_size == 6
    assert config.model.path is None
    assert config.dataset.name == "demo"  # type: ignore[union-attr]


def compose_with_hydra(*overrides: str) -> DictConfig:
    mixtures.register()
    with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        return compose("train", [*overrides], return_hydra_config=True)


def experiments() -> list[str]:
    return [name for name in choices("experiment") if not name.startswith("eval_")]


@pytest.mark.parametrize("name", experiments())
def test_every_training_experiment(name: str) -> None:
    config = train_config(f"experiment={name}")
    assert build_rewards(config.reward).ranks


@pytest.mark.parametrize("sweeper", ["grid", "optuna"])
@pytest.mark.parametrize("launcher", ["processes", "joblib", "slurm", "submitit_local"])
def test_every_sweeper_and_launcher_is_a_plugin(sweeper: str, launcher: str) -> None:
    composed = compose_with_hydra(f"hydra/sweeper={sweeper}", f"hydra/launcher={launcher}")
    plugins = Plugins.instance()
    assert plugins._instantiate(composed.hydra.sweeper) is not None
    with open_dict(composed):
        composed.hydra.sweep.dir = "somewhere"
    assert plugins._instantiate(composed.hydra.launcher) is not None


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("paper_kadid", ["kadid"]),
        ("paper_kadid_spaq", ["kadid", "spaq"]),
        ("paper_combined", ["kadid", "tid", "koniq"]),
    ],
)
def test_the_papers_settings(name: str, sets: list[str]) -> None:
    config = train_config(f"experiment={name}")
    dataset = config.dataset
    parts = dataset.parts if isinstance(dataset, MixtureConfig) else {dataset.name: dataset}
    assert list(parts) == sets
    assert parts["kadid"].split.by == "official"
    assert (config.model.path, config.model.freeze_vision, config.model.lora) == (
        "Qwen/Qwen2.5-VL-7B-Instruct", False, None,
    )  # fmt: skip
    sampling, optimizer, grpo = config.rollout.sampling, config.optimizer, config.grpo
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (1.0, 50, 1.0)
    assert sampling.max_new_tokens == 256
    assert (optimizer.lr, optimizer.schedule, optimizer.final_fraction) == (1e-6, "linear", 0.0)
    assert (grpo.group_size, grpo.kl_weight, grpo.clip, grpo.inner_iterations) == (6, 0.04, 0.2, 1)
    assert (config.loader.images_per_step, config.max_epochs) == (8 * 16, 10)
    fidelity = config.reward.terms["fidelity"]
    assert (fidelity["gamma"], fidelity["fixed_variance"]) == (1e-6, None)
    assert {term: values["weight"] for term, values in config.reward.terms.items()} == {
        "fidelity": 1.0, "format": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize("mixture", ["kadid+tid+koniq", "koniq+kadid+tid"])
def test_mixtures_in_any_order(mixture: str) -> None:
    config = train_config(f"dataset={mixture}", "dataset.parts.tid.root=somewhere")
    assert isinstance(config.dataset, MixtureConfig)
    assert list(config.dataset.parts) == mixture.split("+")
    assert config.dataset.parts["tid"].root == "somewhere"
    assert config.dataset.parts["kadid"].name == "kadid"
    assert config.dataset.weights is None


def test_configuration_is_found_from_the_package() -> None:
    assert (config_dir() / "train.yaml").is_file()
    assert config_dir() == Path(__file__).resolve().parents[2] / "conf"
