"""Every YAML file of the training groups composes and fits the schema; rewards are built."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf, open_dict

from vqr1.cli import mixtures
from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import MixtureConfig, ServeConfig, TrainConfig, config_dir, validate
from vqr1.config.folder import answer_of_prompt
from vqr1.config.renamed import RENAMED
from vqr1.errors import ConfigError
from vqr1.iqa.answers import PUBLISHED, AnswerForm, FreeText, TaggedAnswer
from vqr1.rewards.build import build_rewards
from vqr1.training.advantages import GroupNormalised, build_advantage
from vqr1.training.checks import check_training
from vqr1.training.losses import GrpoLoss, build_loss

pytestmark = pytest.mark.medium

GROUPS = (
    "dataset", "model", "prompt", "answer", "reward", "loss", "advantage", "rollout", "optimizer",
    "hardware", "logger", "callbacks", "sweep", "method", "tasks",
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
    assert build_loss(config.loss).kl_weight == config.loss.kl_weight
    assert callable(build_advantage(config.advantage))
    assert config.answer.form.parse("").score is None


def test_the_defaults_are_consistent() -> None:
    config = train_config()
    check_training(config, build_rewards(config.reward))
    assert config.grpo.group_size == 6
    assert config.model.path is None
    assert config.dataset.name == "demo"  # type: ignore[union-attr]


def test_the_tasks_of_a_method_are_taken_back() -> None:
    assert train_config("method=q_insight").tasks.keys() == {"degradation"}
    assert not train_config("method=q_insight", "tasks=none").tasks


def compose_with_hydra(*overrides: str) -> DictConfig:
    mixtures.register()
    with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        return compose("train", [*overrides], return_hydra_config=True)


def experiments() -> list[str]:
    return [name for name in choices("experiment") if not name.startswith("eval_")]


@pytest.mark.parametrize("name", experiments())
def test_every_training_experiment(name: str) -> None:
    config = train_config(f"experiment={name}")
    assert build_rewards(config.reward).terms
    assert config.answer.form.scored


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
    assert (grpo.group_size, grpo.num_iterations, grpo.pool) == (6, 1, "global")
    assert build_loss(config.loss) == GrpoLoss(averaging="response_mean", clip=0.2, kl_weight=0.04)
    assert build_advantage(config.advantage) == GroupNormalised(std=True)
    assert (config.loader.global_batch_size, config.max_epochs) == (8 * 16, 10)
    fidelity = config.reward.terms["fidelity"]
    assert (fidelity["gamma"], fidelity["fixed_variance"]) == (1e-6, None)
    assert {term: values["weight"] for term, values in config.reward.terms.items()} == {
        "fidelity": 1.0, "format": 1.0,
    }  # fmt: skip


def test_the_published_method() -> None:
    # ../shared/FACTS.md, section 1; the learning rate is the model's.
    config = train_config("method=visualquality_r1", "model=qwen2_5_vl_7b")
    grpo, sampling, optimizer = config.grpo, config.rollout.sampling, config.optimizer
    assert (grpo.group_size, grpo.pool, grpo.num_iterations) == (6, 8, 1)
    assert build_loss(config.loss) == GrpoLoss(averaging="response_mean", clip=0.2, kl_weight=0.04)
    assert build_advantage(config.advantage) == GroupNormalised(std=True)
    assert (sampling.temperature, sampling.top_k, sampling.max_new_tokens) == (1.0, 50, 256)
    assert (optimizer.lr, optimizer.schedule) == (1e-6, "linear")
    assert (config.prompt.name, list(config.reward.terms)) == ("thinking", ["fidelity", "format"])


METHOD = """
# @package _global_
defaults:
  - override /reward: mse
  - override /optimizer: adamw
grpo:
  group_size: 3
loss:
  clip: 0.3
  kl_weight: 0.3
"""
EXPERIMENT = """
# @package _global_
defaults:
  - override /method: own
  - override /reward: binary
loss:
  clip: 0.4
"""


def test_an_experiment_overrides_a_method_and_the_command_line_both(tmp_path: Path) -> None:
    for group, text in (("method", METHOD), ("experiment", EXPERIMENT)):
        (tmp_path / group).mkdir()
        (tmp_path / group / "own.yaml").write_text(text)
    found = f"hydra.searchpath=[file://{tmp_path}]"

    def composed(*overrides: str) -> tuple[list[str], int, float | None, object]:
        config = train_config(found, *overrides)
        clip = config.loss.arguments["clip"]
        return list(config.reward.terms), config.grpo.group_size, config.loss.kl_weight, clip

    assert composed("method=own") == (["mse", "format"], 3, 0.3, 0.3)
    # Reward and clip by the experiment, whether it names the method or the command does.
    both = (["binary", "format"], 3, 0.3, 0.4)
    assert composed("experiment=own") == composed("experiment=own", "method=own") == both
    given = ("reward=probability", "loss.clip=0.5", "grpo.group_size=4")
    assert composed("experiment=own", *given) == (["probability", "format"], 4, 0.3, 0.5)
    # No method under the experiment.
    assert composed("experiment=own", "~method") == (["binary", "format"], 6, 0.04, 0.4)


@pytest.mark.parametrize(
    ("overrides", "form"),
    [
        ((), PUBLISHED),
        (("prompt=non_thinking",), TaggedAnswer()),
        (("prompt=describe",), FreeText()),
        (("prompt=non_thinking", "answer=think_answer"), PUBLISHED),
        (("answer=answer", "prompt=thinking"), TaggedAnswer()),
        (("method=visualquality_r1", "answer=answer"), TaggedAnswer()),
        (("answer.tag=rating", "answer.score_range=[0,100]"),
         TaggedAnswer(tag="rating", reasoning="think", score_range=(0.0, 100.0))),
    ],
)  # fmt: skip
def test_a_prompt_chooses_the_form_of_its_answer_where_nothing_else_does(
    overrides: tuple[str, ...], form: AnswerForm
) -> None:
    assert train_config(*overrides).answer.form == form


def test_a_service_reads_answers_by_their_prompts() -> None:
    config = validate(ServeConfig, plain_values(compose_config("serve", ["prompt=non_thinking"])))
    assert (config.answer.form, config.describe_answer.form) == (TaggedAnswer(), FreeText())


def test_the_form_of_a_packaged_prompt_without_composing() -> None:
    names = ("thinking", "non-thinking", "describe", "nosuch")
    forms = ["think_answer", "answer", "free", None]
    assert [answer_of_prompt(name) for name in names] == forms


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_key_in_a_file_is_refused(old: str, new: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "own.yaml"
    values = OmegaConf.create()
    OmegaConf.update(values, old, 1)
    file.write_text(f"# @package _global_\n{OmegaConf.to_yaml(values)}")
    with pytest.raises(ConfigError, match=f"^{old}: renamed to {new}$"):
        train_config(f"hydra.searchpath=[file://{tmp_path}]", "experiment=own")


@pytest.mark.parametrize("mixture", ["kadid+tid+koniq", "koniq+kadid+tid"])
def test_mixtures_in_any_order(mixture: str) -> None:
    config = train_config(f"dataset={mixture}", "dataset.parts.tid.root=somewhere")
    assert isinstance(config.dataset, MixtureConfig)
    assert list(config.dataset.parts) == mixture.split("+")
    assert config.dataset.parts["tid"].root == "somewhere"
    assert config.dataset.parts["kadid"].name == "kadid"
    assert config.dataset.weights is None


def test_several_loggers_share_their_keys() -> None:
    config = train_config("logger=tensorboard+mlflow+wandb", "logger.run_name=mine").logger
    assert config.kinds == ("tensorboard", "mlflow", "wandb")
    assert (config.run_name, config.offline, config.experiment) == ("mine", False, "vqr1")


def test_configuration_is_found_from_the_package() -> None:
    assert (config_dir() / "train.yaml").is_file()
    assert config_dir() == Path(__file__).resolve().parents[2] / "conf"


def test_everything_published_that_a_key_restores() -> None:
    values = plain_values(
        compose_config("train", ["experiment=published_kadid", "dataset.root=x", "run_dir=y"])
    )
    config = validate(TrainConfig, values)
    assert (config.grpo.pool, config.loader.global_batch_size) == (8, 128)
    assert (config.prompt.vision_id, config.model.max_pixels) == (False, 12_845_056)
    assert (config.optimizer.lr, config.rollout.sampling.max_new_tokens) == (1e-6, 256)
    assert (config.loss.kl_weight, values["advantage"]["std"]) == (0.04, True)
