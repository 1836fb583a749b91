"""The program `vqr1`: its commands, their help, and what a shell completes."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from vqr1.cli import evaluate, export, main, train
from vqr1.cli.help import configuration_help
from vqr1.config import DataConfig, EvalConfig, ExportConfig, ScoreConfig, ServeConfig, TrainConfig
from vqr1.config.meanings import field_meanings

ROOT = Path(__file__).resolve().parents[2]


def test_every_command_has_a_module_and_a_line(run: Command) -> None:
    listed = run(main.main, "--help").out
    for name, command in main.COMMANDS.items():
        assert f"  {name} " in listed
        assert command.summary in listed
        assert callable(importlib.import_module(f"vqr1.cli.{command.module}").main)


def test_help_and_version_import_nothing() -> None:
    code = "import sys; from vqr1.cli.main import main; main(); print(*sys.modules)"
    for argument in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", code, argument],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert not {"hydra", "torch", "omegaconf", "pydantic"} & set(done.stdout.split())


def complete(monkeypatch: pytest.MonkeyPatch, run: Command, line: str) -> set[str]:
    monkeypatch.setenv("COMP_LINE", line)
    found = run(main.main, "-sc", "query=bash")
    assert (found.code, found.err) == (0, "")
    return set(found.out.split())


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("vqr1 s", {"score", "serve", "sync", "summarize"}),
        ("vqr1 train dataset=ko", {"dataset=koniq", "dataset=koniq_scores", "dataset=koniqpp"}),
        ("vqr1 plan --check hardware=cpu_", {"hardware=cpu_2procs", "hardware=cpu_bf16"}),
        ("vqr1 score photos/ mode=gr", {"mode=greedy"}),
        ("vqr1 export run_m", {"run_metric="}),
        ("vqr1 sync out", set()),
        ("vqr1 nosuch a", set()),
    ],
)
def test_a_shell_completes(
    monkeypatch: pytest.MonkeyPatch, run: Command, line: str, some: set[str]
) -> None:
    assert complete(monkeypatch, run, line) == some


def test_all_commands_complete_after_the_program(
    monkeypatch: pytest.MonkeyPatch, run: Command
) -> None:
    assert complete(monkeypatch, run, "vqr1 ") == main.COMMANDS.keys()


@pytest.mark.medium
def test_bash_asks_the_program(tmp_path: Path) -> None:
    (tmp_path / "vqr1").write_text(f'#!/bin/sh\nexec {sys.executable} -m vqr1 "$@"\n')
    (tmp_path / "vqr1").chmod(0o755)
    script = (
        'eval "$(vqr1 -sc install=bash | sed s/__main__.py/vqr1/)"; '
        "COMP_LINE='vqr1 train reward=fid'; COMP_POINT=${#COMP_LINE}; COMP_CWORD=2; "
        "hydra_bash_completion; echo ${COMPREPLY[@]}"
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env={**os.environ, "PATH": path},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    choices = sorted(path.stem for path in (ROOT / "conf" / "reward").glob("fid*.yaml"))
    found = sorted(word.removeprefix("reward=") for word in done.stdout.split())
    assert found == choices
    assert "fidelity_shuffled" in choices


@pytest.mark.medium
def test_help_shows_the_groups_that_a_command_reads(run: Command) -> None:
    shown = run(train.main, "--help").out
    groups, _, keys = shown.partition("\nkeys:\n")
    assert "  reward " in groups
    assert " [fidelity] " in groups
    assert "  loss " in groups
    for other in ("mode", "comparison"):
        assert f"\n  {other} " not in groups
    assert "eval_from_predictions" not in groups
    assert "  max_steps=300\n      Optimiser steps in all; null: `max_epochs` decides." in keys
    of_eval = run(evaluate.main, "--help").out.partition("\nkeys:\n")[0]
    assert "  mode " in of_eval
    assert "eval_from_predictions" in of_eval
    for other in ("  reward ", "  rollout ", "search_lr", "paper_kadid_spaq"):
        assert other not in of_eval
    of_export = run(export.main, "--help").out
    assert "output=outputs/export/DATE_TIME/checkpoint" in of_export
    assert not list(Path().iterdir()), "help makes no folder"


def test_help_names_every_model(run: Command) -> None:
    for command in ("score", "serve"):
        shown = run(main.main, command, "--help").out.partition("choices: model=")[2]
        named = "".join(shown.partition("(")[0].split())
        assert named.split("|") == sorted(file.stem for file in (ROOT / "conf/model").iterdir())


def test_help_shows_the_values_of_what_is_chosen(run: Command) -> None:
    shown = run(train.main, "--help", "model=qwen2_5_vl_3b", "optimizer.lr=3e-6").out
    assert "[qwen2_5_vl_3b]" in shown
    assert "  optimizer.lr=3e-06\n" in shown
    mistaken = run(train.main, "--help", "model=nosuch")
    assert mistaken.code == 2
    assert mistaken.err.startswith("error: model=nosuch: model has no choice nosuch; there are ")


@pytest.mark.parametrize(
    ("config", "schema"),
    [
        ("train", TrainConfig),
        ("eval", EvalConfig),
        ("score", ScoreConfig),
        ("serve", ServeConfig),
        ("export", ExportConfig),
        ("data", DataConfig),
    ],
)
def test_keys_with_a_value_have_a_meaning(config: str, schema: type) -> None:
    _, _, keys = configuration_help(config, schema).partition("\nkeys:\n")
    lines = keys.splitlines()
    bare = [
        line
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
        if re.match(r"  [\w.]+=", line) and after[:6].strip()
    ]
    assert bare == []


def test_meanings_come_with_base_classes() -> None:
    from vqr1.config import EvalModelConfig

    meanings = field_meanings(EvalModelConfig)
    assert meanings["run_metric"].startswith("Metric that `run=best` compares")
    assert "path" in meanings
