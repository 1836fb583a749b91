"""Every command that a message prints is one that works where it is pasted into a shell.

The source is searched for commands and for the functions that quote them (`vqr1.program`). Each
place that calls one is brought to print its message about folders with odd names, what it prints is
given to bash, and what the program is then started with is read as the program reads it.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from rich.console import Console

from vqr1.cli import evaluate, options
from vqr1.cli.compose import compose_config
from vqr1.config import DatasetConfig, LoggerConfig, SplitConfig
from vqr1.data import hub, location
from vqr1.data.download import install
from vqr1.data.download.install import Plan
from vqr1.distributed import hardware, launch
from vqr1.distributed.environment import RankInfo
from vqr1.doctor import installation
from vqr1.errors import ConfigError, UserError
from vqr1.evaluation import model_source, questions, score_model
from vqr1.policy import quantization
from vqr1.policy.families import fast_vlm
from vqr1.program import hydra_value, override, setting
from vqr1.report_page import write as report_page
from vqr1.rollout import vllm_start
from vqr1.sweeps import chain, chain_plan, session
from vqr1.tracking import other_loggers, run_log
from vqr1.tracking.delivery import Delivery
from vqr1.training import (
    description,
    initial_run,
    model_card_command,
    optimizer_state,
    report,
    resume,
    run_lookup,
)
from vqr1.training.run_record import RunRecord, write_record

pytestmark = pytest.mark.medium

ROOT = Path(__file__).resolve().parents[2]
QUOTING = {"command_line", "in_shell", "installing", "setting"}
COMMAND = re.compile(
    r"(?:^|[\s`'\"(])(?:python -m vqr1|python \w+\.py|pip install|mlflow ui|torchrun|srun|hf auth"
    r"|make (?:ui|setup|train)"
    r"|vqr1 (?:train|eval|score|serve|export|data|plan|sync|summarize|report|doctor))\b"
)
PLAIN = {
    "vqr1/cli/export.py: ); log in with `hf auth login`": "no value in it",
    "vqr1/data/download/fetch.py: a login is needed: `hf auth login`,": "no value in it",
    "vqr1/policy/checkpoint_config.py: log in with `hf auth login` or s": "no value in it",
    "vqr1/doctor/installation.py: pip install .": "no value in it",
    "vqr1/doctor/installation.py: pip install ": "quoted beside it",
    "vqr1/distributed/launcher_tasks.py: start one task (--ntasks=1), i": "a pattern, with `...`",
    "vqr1/distributed/launch.py: torchrun --nnodes ": "numbers in it, and quoted beside it",
    "vqr1/distributed/environment.py: torchrun ": "numbers in it, and quoted beside it",
    "vqr1/distributed/environment.py: srun --nodes ": "numbers in it, and quoted beside it",
    "vqr1/training/report.py: mlflow ui --host 127.0.0.1 --backend-sto": "quoted beside it",
    "vqr1/program.py: pip install ": "quoted beside it",
}
"""Beginnings of texts that hold a command and quote nothing, and why that is enough."""
WORDS = re.compile(
    r"^torchrun$|^srun$|torchrun(?:,| sets| or|; the)|srun(?:,|;| start)|by torchrun"
    r"|torchrun or srun|start with srun"
)

ODD = (
    "目录 a,b=c%", "it's", "back\\slash", "end\\", "$HOME `x` ${y}", '(a)[b]{c} "d"', "plain/dir-1",
    "null", "1e5", "~a!b",
)  # fmt: skip

PROGRAMS = ("python", "vqr1", "torchrun", "srun", "pip", "mlflow")


def sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("vqr1", "hydra_plugins"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def docstrings(tree: ast.Module) -> set[int]:
    """Texts that are statements of their own: no message is one."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def test_no_message_writes_a_command_itself() -> None:
    found, used = [], set()
    for name, tree in sources():
        documents = docstrings(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            text = node.value
            if id(node) in documents or not COMMAND.search(text) or WORDS.search(text):
                continue
            known = [known for known in PLAIN if f"{name}: {text}".startswith(known)]
            used |= set(known)
            if not known:
                found.append(f"{name}:{node.lineno}: {text}")
    assert not found, "\n".join(found)
    assert used == PLAIN.keys()


def callers() -> set[str]:
    """`module.function` of every function that calls one of `QUOTING`."""
    found = set()
    for name, tree in sources():
        module = name.removesuffix(".py").replace("/", ".")
        imported = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
        if not any(node.module == "vqr1.program" for node in imported):
            continue
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef) or module == "vqr1.program":
                continue
            if QUOTING & {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}:
                found.add(f"{module}.{function.name}")
    return found


def printed(call: Callable[[], Any]) -> str:
    """What a call reports: its error, or what it gives or prints."""
    try:
        return str(call())
    except UserError as error:
        return str(error)


def unfinished_run(folder: Path) -> RunRecord:
    record = RunRecord("2026-01-01T00:00:00.000+00:00", "/", (), {})
    write_record(folder, record)
    return record


def begun_chain(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "chain.json").write_text(json.dumps({"overrides": ["chain=[sft,grpo]"]}))
    unfinished_run(folder / "1_sft")


def parsed_option(folder: Path, capsys: Any) -> str:
    with suppress(SystemExit):
        options.OptionParser("data verify", "x").parse_args(["--nosuch"])
    return str(capsys.readouterr().err)


def to_console(call: Callable[[Console], Any]) -> str:
    console = Console(soft_wrap=True, markup=False, highlight=False, width=300)
    with console.capture() as capture:
        call(console)
    return capture.get()


def config_only(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("model: {}\n")
    return folder


def placed_by_hand(folder: Path) -> Any:
    (folder / "kadid").mkdir(parents=True)
    return install.install(Plan("kadid", folder, (), (), None, False), (), lambda place: None)


def refused_artifact(folder: Path) -> str:
    reasons: list[str] = []

    def upload(*_: Any) -> None:
        raise ValueError("the store takes nothing")

    run = SimpleNamespace(
        run_dir=folder, _upload=upload, _refuse=lambda events, why: reasons.append(why)
    )
    Delivery._send_file(run, None, "a", None)  # type: ignore[arg-type]
    return reasons[0]


KADID = DatasetConfig(name="kadid", root=None, split=SplitConfig(by="none"))
PLAN = SimpleNamespace(plan=[])

OVERRIDES = "vqr1.config.override_problems"
SITUATIONS: dict[str, Callable[[Path], Any]] = {
    "vqr1.cli.evaluate.continue_with": lambda f: evaluate.continue_with(f),
    f"{OVERRIDES}._several": lambda f: compose_config("train", ["dataset=kadid,tid"]),
    f"{OVERRIDES}._quoting": lambda f: compose_config("data", [f"dataset.root={f}"]),
    f"{OVERRIDES}._no_choice": lambda f: compose_config("train", ["reward=fidelty"]),
    "vqr1.data.location.set_folder": lambda f: location.set_folder(KADID, "dataset"),
    "vqr1.data.download.install.install": placed_by_hand,
    "vqr1.data.hub._lay_down": lambda f: hub._lay_down(SimpleNamespace(), "dataset", f),  # type: ignore[arg-type]
    "vqr1.distributed.hardware._package_problems": lambda f: hardware.hardware_problems(
        SimpleNamespace(  # type: ignore[arg-type]
            accelerator="cpu",
            strategy="zero2",
            devices=1,
            precision="32-true",
            attention="auto",
            offload=False,
        ),
        hardware.Machine(),
    ),
    "vqr1.distributed.launch.on_every_node": lambda f: launch.on_every_node(
        SimpleNamespace(nodes=2, devices=2)  # type: ignore[arg-type]
    ),
    "vqr1.doctor.installation.package_findings": lambda f: [
        finding.fix
        for finding in installation.package_findings([installation.Requirement("nosuch<2")])
    ],
    "vqr1.doctor.installation.extra_findings": lambda f: [
        finding.fix for finding in installation.extra_findings()
    ],
    "vqr1.evaluation.model_source._run_in_folder": lambda f: model_source.exported_run(
        str(config_only(f)), "val/srcc", LoggerConfig(name="none")
    ),
    "vqr1.evaluation.questions._left": lambda f: to_console(
        lambda console: questions._left([], f, console)
    ),
    "vqr1.evaluation.score_model._left": lambda f: to_console(
        lambda console: score_model._left(PLAN, f, console)  # type: ignore[arg-type]
    ),
    "vqr1.policy.families.fast_vlm.missing_library": lambda f: fast_vlm.FAMILY.missing_library(),
    "vqr1.policy.quantization.quantization_problems": lambda f: quantization.quantization_problems(
        SimpleNamespace(quantization="nf4"),  # type: ignore[arg-type]
        SimpleNamespace(),  # type: ignore[arg-type]
        trains=True,
    ),
    "vqr1.rollout.vllm_start.import_vllm": lambda f: vllm_start.import_vllm("a", "b"),
    "vqr1.sweeps.chain.run_chain": lambda f: chain.run_chain(
        RankInfo(), [override("resume", f), "seed=1"], [], lambda *_: {}
    ),
    "vqr1.sweeps.chain._check_arguments": lambda f: chain._check_arguments(
        [], {"hydra.run.dir": str(f)}
    ),
    "vqr1.sweeps.chain.continuing": lambda f: chain.continuing(f),
    "vqr1.sweeps.chain_plan.write_chain": lambda f: chain_plan.write_chain(f, ["chain=[sft]"]),
    "vqr1.report_page.write.making": report_page.making,
    "vqr1.sweeps.session._check_version": lambda f: session._check_version(
        SimpleNamespace(path=f),  # type: ignore[arg-type]
        SimpleNamespace(base={"part": "val"}),  # type: ignore[arg-type]
        "a",
    ),
    "vqr1.tracking.delivery._send_file": refused_artifact,
    "vqr1.tracking.other_loggers.logger_problems": lambda f: other_loggers.logger_problems(
        LoggerConfig(name="wandb")
    ),
    "vqr1.tracking.run_log.sending": lambda f: run_log.sending(f),
    "vqr1.training.description.run_tags": lambda f: description.run_tags(
        SimpleNamespace(model=SimpleNamespace(name="m"), init_from=None, run_dir=str(f)),  # type: ignore[arg-type]
        SimpleNamespace(overrides=[override("dataset.root", f)], sweep_tags=lambda run_dir: {}),  # type: ignore[arg-type]
    )["vqr1.command"],
    "vqr1.training.initial_run._finished_run": lambda f: initial_run._finished_run(str(f), None),
    "vqr1.training.model_card_command._changes": lambda f: " ".join(
        model_card_command._changes("answer", {"scores": []}, {"words": [str(f)]})
    ),
    "vqr1.training.model_card_command._override": lambda f: model_card_command._override(
        "prompt.text", str(f)
    ),
    "vqr1.training.optimizer_state.layout_problem": lambda f: optimizer_state.layout_problem(
        [{"param_groups": []}],
        SimpleNamespace(strategy="zero3"),  # type: ignore[arg-type]
        1,
        f,
    ),
    "vqr1.training.report.opening_page": lambda f: report.opening_page(f"sqlite:///{f}"),
    "vqr1.training.resume._check_unchanged": lambda f: resume._check_unchanged(
        "a", f, ["seed: 1 -> 2"], ["seed=2"]
    ),
    "vqr1.training.resume._check_unused": lambda f: resume._check_unused(f, unfinished_run(f)),
    "vqr1.training.run_lookup.resume_command": lambda f: run_lookup.resume_command(f, RankInfo()),
}
"""How each caller comes to print its message about a folder."""

BEFORE = {
    "vqr1.sweeps.chain.run_chain": begun_chain,
    "vqr1.sweeps.chain_plan.write_chain": begun_chain,
    "vqr1.training.initial_run._finished_run": unfinished_run,
}
"""What the folder holds before."""

OF_NO_FOLDER = {
    f"{OVERRIDES}._several",
    f"{OVERRIDES}._quoting",  # below, in `test_a_refused_override_is_refused_...`
    f"{OVERRIDES}._no_choice",
    "vqr1.data.location.set_folder",
    "vqr1.distributed.hardware._package_problems",
    "vqr1.distributed.launch.on_every_node",
    "vqr1.doctor.installation.package_findings",
    "vqr1.doctor.installation.extra_findings",
    "vqr1.policy.families.fast_vlm.missing_library",
    "vqr1.policy.quantization.quantization_problems",
    "vqr1.rollout.vllm_start.import_vllm",
    "vqr1.tracking.other_loggers.logger_problems",
}
"""Callers that print the same of every folder, or compose a configuration each time."""

ELSEWHERE = {
    "vqr1.cli.options.error": "test_an_option_that_there_is_not",
    "vqr1.rollout.vllm_client._new_client": "tests/rollout/test_vllm_server.py",
    "hydra_plugins.vqr1_sweeps.planning.plan": "the record of a sweep's own command line",
}


def test_every_caller_has_a_situation() -> None:
    assert callers() == SITUATIONS.keys() | ELSEWHERE.keys()


@pytest.fixture
def paste(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Gives a command to bash; the program, which only notes it, and its arguments."""
    programs, noted = tmp_path / "programs", tmp_path / "noted"
    programs.mkdir()
    for name in PROGRAMS:
        script = programs / name
        script.write_text(f'#!/bin/sh\nprintf "%s\\0" {name} "$@" > {noted}\n')
        script.chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"

    def run(command: str) -> list[str]:
        noted.unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", "-c", command], env={**os.environ, "PATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), command
        return noted.read_text().split("\0")[:-1]

    return run


class Recorder:
    """Notes what the functions of `vqr1.program` that a module uses give."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, caller: str) -> None:
        self.hints: list[tuple[str, tuple[Any, ...], str]] = []
        module = sys.modules[caller.rpartition(".")[0]]
        for name in QUOTING & vars(module).keys():
            monkeypatch.setattr(module, name, self._noting(name, getattr(module, name)))

    def _noting(self, name: str, function: Callable[..., str]) -> Callable[..., str]:
        def noting(*arguments: Any) -> str:
            given = function(*arguments)
            self.hints.append((name, arguments, given))
            return given

        return noting


def value_of(argument: str) -> Any:
    """The value of an override, as Hydra and OmegaConf read it."""
    return OmegaConf.create({"a": OverridesParser.create().parse_override(argument).value()}).a


def check_pasted(
    name: str, given: tuple[Any, ...], hint: str, paste: Callable[[str], list[str]]
) -> None:
    """Check what the shell makes of a hint: the words that it was made of."""
    if name == "installing":
        assert paste(hint) == ["pip", "install", f"vqr1[{given[0]}]"]
    elif name == "command_line":
        program, *words = paste(hint)
        assert program in ("python", "vqr1")
        assert words[len(words) - len(given) + 1 :] == list(given[1:])
        assert words[: len(words) - len(given) + 1] in (
            ["train.py"], ["eval.py"], given[0].split(),
        )  # fmt: skip
    elif name == "setting":
        (_, argument) = paste(f"python {hint}")
        assert argument.partition("=")[0] == given[0]
        assert str(value_of(argument)) == str(given[1])
    else:
        assert paste(f"python {hint}") == ["python", given[0]]


@pytest.mark.parametrize("caller", SITUATIONS)
def test_what_is_printed_can_be_pasted(
    caller: str,
    paste: Callable[[str], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("vllm", "timm", "datasets", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(other_loggers, "find_spec", lambda name: None)
    nothing = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr(fast_vlm, "importlib", nothing)
    monkeypatch.setattr(installation, "version_of", lambda name: None)
    recorder = Recorder(monkeypatch, caller)
    for number, odd in enumerate(ODD[:1] if caller in OF_NO_FOLDER else ODD):
        monkeypatch.setattr(sys, "argv", ["train.py", f"seed={number}"])
        folder = tmp_path / str(number) / odd
        BEFORE.get(caller, lambda folder: None)(folder)
        recorder.hints.clear()
        message = printed(lambda folder=folder: SITUATIONS[caller](folder))  # type: ignore[misc]
        assert recorder.hints, message
        for name, given, hint in recorder.hints:
            assert hint in message
            check_pasted(name, given, hint, paste)


def test_an_option_that_there_is_not(
    paste: Callable[[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shown,) = re.findall(r"`(.+)`", parsed_option(tmp_path, capsys))
    assert paste(shown) == ["vqr1", "data", "verify", "--help"]


@pytest.mark.parametrize("text", ODD)
def test_hydra_reads_what_is_quoted_for_it(text: str) -> None:
    assert str(value_of(f"a={hydra_value(text)}")) == text


@pytest.mark.parametrize("odd", ODD)
def test_pasted_overrides_compose(
    paste: Callable[[str], list[str]], odd: str, tmp_path: Path
) -> None:
    (_, argument) = paste(f"python {setting('dataset.root', odd)}")
    assert compose_config("data", ["dataset=csv", argument]).dataset.root == odd


def test_a_pasted_resume_finds_its_run(
    paste: Callable[[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vqr1.training.resumed_arguments import with_saved_overrides

    monkeypatch.setattr(sys, "argv", ["train.py"])
    for odd in ODD[:5]:
        run_dir = tmp_path / odd
        write_record(run_dir, RunRecord("2026-01-01T00:00:00+00:00", "/", ("seed=5",), {}))
        program, file, argument = paste(run_lookup.resume_command(run_dir, RankInfo()))
        assert (program, file) == ("python", "train.py")
        arguments = with_saved_overrides([argument])
        composed = compose_config("train", [a for a in arguments if not a.startswith("hydra.")])
        assert (composed.seed, composed.resume, composed.run_dir) == (5, str(run_dir), str(run_dir))


def test_a_pasted_continuation_of_an_evaluation(
    paste: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["dataset.root='a,b'", "dataset=csv", "run_dir=old"]
    monkeypatch.setattr(sys, "argv", ["eval.py", *given])
    shown = evaluate.continue_with(Path("a,b 目录"))
    program, file, *arguments = paste(shown.rpartition(": ")[2])
    assert (program, file) == ("python", "eval.py")
    composed = compose_config("eval", arguments)
    assert (composed.dataset.root, composed.run_dir) == ("a,b", "a,b 目录")


def test_a_refused_override_is_refused_with_one_that_is_taken(
    paste: Callable[[str], list[str]],
) -> None:
    for odd in ("a,b", "目录", "a=b", "(x)", "it's", "$x,", "back\\slash,"):
        with pytest.raises(ConfigError) as refused:
            compose_config("data", ["dataset=csv", f"dataset.root={odd}"])
        (line,) = refused.value.problems
        (_, argument) = paste(f"python {line.rpartition('for the shell: ')[2]}")
        assert compose_config("data", ["dataset=csv", argument]).dataset.root == odd
