"""Every method of conf/method: composed, and trained, resumed and evaluated, or refused."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Command, run, write_kadid  # noqa: F401 - a fixture
from tests.support.commands import REPOSITORY, state, whole_and_begun
from tests.support.commands import run as run_command
from vqr1.cli.compose import compose_config, plain_values
from vqr1.cli.train import main
from vqr1.config import TrainConfig, config_dir, validate
from vqr1.config.training import PARTS
from vqr1.errors import ConfigError
from vqr1.policy.packaged import tiny_policy_folder
from vqr1.rewards.build import build_rewards
from vqr1.training.checkpoint_files import step_of
from vqr1.training.checks import check_training

METHODS = sorted(file.stem for file in (config_dir() / "method").glob("*.yaml"))


TEACHER = [f"model.path={tiny_policy_folder()}"]
"""`rali` distils the model that it begins with."""


ROUND = ("votes.rounds=1",)
"""Of a method of several trainings, one."""


def config_of(method: str, *overrides: str) -> TrainConfig:
    given = [f"method={method}", "run_dir=run", "loader.batch_size=24", *ROUND, *overrides]
    given += beside(method)
    return validate(TrainConfig, plain_values(compose_config("train", given)))


def beside(method: str) -> list[str]:
    return TEACHER if method == "rali" else []


def needs(method: str) -> bool:
    text = (config_dir() / "method" / f"{method}.yaml").read_text()
    return "requires: []" not in text


TRAINABLE = [method for method in METHODS if not needs(method)]
SMALL = (
    "loader.batch_size=8", "loader.workers=0", "grpo.group_size=3", "grpo.pool=global",
    "validation.samples=1", "validation.bootstrap_draws=20", "validation.max_images=4",
    "rollout.sampling.max_new_tokens=32", "hardware.threads=1", *ROUND,
)  # fmt: skip
OWN: dict[str, tuple[str, ...]] = {
    # The packaged policy neither compares two images nor writes a box.
    "evoquality": (
        "votes.by=scores", "votes.count=2", "votes.pairs_per_image=4", "prompt=thinking",
        "answer=think_answer",
        "rollout.sampling.max_new_tokens=48",
    ),
}  # fmt: skip


def test_some_methods_train() -> None:
    assert {"visualquality_r1", "q_insight", "mr_iqa", "preresq"} <= set(TRAINABLE)


@pytest.mark.medium
def test_each_method_starts_or_states_what_it_needs() -> None:
    for method in METHODS:
        config = config_of(method)
        assert config.method is not None
        assert config.method.name == method
        rewards = build_rewards(config.reward)
        if not config.method.requires:
            check_training(config, rewards)
            continue
        with pytest.raises(ConfigError) as refused:
            check_training(config, rewards)
        (line,) = refused.value.problems
        assert line.startswith(f"method={method}: it needs ")
        assert all(PARTS[part] in line for part in config.method.requires)
        # Nothing else stands in the way of training what is here of it.
        rest = config_of(method, "method.requires=[]")
        check_training(rest, build_rewards(rest.reward))


@pytest.mark.medium
@pytest.mark.parametrize("method", TRAINABLE)
def test_two_steps(run: Command, tmp_path: Path, method: str) -> None:  # noqa: F811
    root = write_kadid(tmp_path / "set")
    outcome = run(
        main, f"method={method}", *beside(method), "dataset=kadid", f"dataset.root={root}", *SMALL,
        *OWN.get(method, ()), "max_steps=2", "loader.batch_size=4", "validation.every_steps=2",
        "validation.test=false", "logger=none", "run_dir=run",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    trained = " M parameters\n" if method == "rali" else " M trained parameters\n"
    assert trained in outcome.out + outcome.err
    saved = (tmp_path / "run/checkpoints").glob("step_*.ckpt")
    assert max(map(step_of, saved)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", TRAINABLE)
def test_twelve_steps_killed_resumed_to_the_same_bits_and_evaluated(
    tmp_path: Path, method: str
) -> None:
    arguments = (
        f"method={method}", *beside(method), *SMALL, *OWN.get(method, ()), "loader.batch_size=4",
        "dataset.max_images=40", "max_steps=12", "validation.every_steps=12",
        "callbacks.checkpoint.every_steps=4", "validation.test=false", "logger=csv", "run_dir=run",
    )  # fmt: skip
    whole, killed, training = whole_and_begun(tmp_path, "step_00000004*", *arguments)
    training.process.send_signal(signal.SIGKILL)
    training.process.wait(60)
    assert not (killed / "run/summary.json").exists()
    run_command(killed, "resume=run")
    ended, expected = state(killed / "run", 12), state(whole / "run", 12)
    assert ended.keys() == expected.keys()
    assert all(torch.equal(ended[name], weight) for name, weight in expected.items())
    exported = json.loads((killed / "run/summary.json").read_text())["checkpoint"]
    config = config_of(method, *OWN.get(method, ()))
    run_command(
        killed, f"model.path={exported}", f"prompt={config.prompt.name}", "dataset.max_images=6",
        "mode=expected" if method == "rali" else "mode.samples=1", "logger=none",
        "mode.sampling.max_new_tokens=32", "report.plots=false", "run_dir=scored",
        "loader.workers=0", script=REPOSITORY / "eval.py",
    )  # fmt: skip
    assert (killed / "scored/metrics.json").is_file()
