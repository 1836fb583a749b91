"""Every command of README.md and docs/ is one that runs: it parses, composes and fits the schema.

Commands of ours are parsed by their own parsers and composed in this process; what they do is
tested elsewhere. Those of other programs are listed with the reason.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from vqr1.cli import data, plan, score, summarize
from vqr1.cli.compose import USER_ERRORS, compose_config, plain_values
from vqr1.cli.main import COMMANDS
from vqr1.cli.options import load_data_config
from vqr1.cli.train import check_link
from vqr1.config import EvalConfig, ExportConfig, ScoreConfig, ServeConfig, TrainConfig, validate
from vqr1.sweeps.chain_plan import links_of
from vqr1.training.run_lookup import key_of

pytestmark = pytest.mark.medium

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHELL = ("", "bash", "sh", "console")
INLINE = re.compile(r"`((?:python (?:train|eval|score)\.py|vqr1 [a-z]+|make) [^`]+)`")

OTHERS = {
    "transformers": "another program; tests/inference/test_transformers_serve.py starts it",
    "vllm": "another program; tests/inference/test_vllm_real.py starts it",
    "curl": "another program; tests/inference/service sends such requests",
    "eval": "the shell takes what `vqr1 -sc` prints; tests/cli/test_main.py asks bash",
    "echo": "the shell's own",
    "find": "the shell's own",
    "head": "the shell's own",
    "source": "the shell's own",
}
"""Programs that are not ours, and why that is enough."""

PLACEHOLDERS = {
    "python train.py reward=NAME": "NAME stands for each choice of the table below it",
    "python train.py -m method=nearness,q_insight,mr_iqa seed=1,2,3": "nearness is the method that "
    "the page adds",
    "vqr1 train reward=fid<TAB>": "what a shell completes",
    "vqr1 data verify dataset=kadid": "of the set that the line above fetches",
}
"""Commands that stand for others."""


def commands(page: Path) -> Iterator[str]:
    """The commands of a page: lines of fenced blocks, and inline code with arguments."""
    text = page.read_text(encoding="utf-8")
    for language, block in FENCED.findall(text):
        if language not in SHELL:
            continue
        joined = re.sub(r"\\\n\s*", " ", block)
        yield from filter(str.strip, re.sub(r"\|\n\s*", "| ", joined).splitlines())
    yield from (" ".join(found.split()) for found in INLINE.findall(FENCED.sub("", text)))


def simple_commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a pipeline, without comments, variables and `...`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, "|"]:
        if set(word) <= set("|;&"):
            if words:
                yield words
            words = []
        elif word != "..." and (words or not re.match(r"[A-Z_0-9]+=", word)):
            words.append(word)


class ParsedError(Exception):
    """A parser has accepted its arguments."""


class RefusedError(Exception):
    """A command is not one of ours, or refuses its arguments."""


MISTAKES = (RefusedError, ImportError, *USER_ERRORS)
"""What a command raises here that would not run."""


def check(words: Sequence[str]) -> None:
    """Check one command as far as it goes without doing anything.

    Raises:
        Exception: one of `MISTAKES`: it would not run.
    """
    name, *rest = words
    if name in OTHERS:
        return
    if name == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        if unknown := set(rest) - set(targets):
            raise RefusedError(f"no target {unknown}")
        return
    if name == "python":
        name, script, *rest = words
        if script in ("train.py", "eval.py", "score.py"):
            name = script.removesuffix(".py")
        else:
            module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
            run_parser(lambda: module.main(rest))
            return
    elif name == "vqr1":
        name, *rest = rest
        if name == "-sc":
            if not re.fullmatch(r"(un)?install=(bash|fish)", *rest):
                raise RefusedError(f"{rest}: completes nothing")
            return
        if name not in COMMANDS:
            raise RefusedError(f"{name}: no such command")
    else:
        raise RefusedError(f"{name}: not known here; test it, or give the reason in OTHERS")
    if not {"-h", "--help"} & set(rest):
        CHECKS[name](rest)


def run_parser(main: Callable[[], Any]) -> None:
    """Run a command until its parser has accepted the arguments, or to its end."""
    try:
        main()
    except ParsedError:
        return
    except SystemExit as stop:
        if stop.code:
            raise RefusedError(f"exit code {stop.code}") from stop


def composes(config: str, schema: type, *needed: str) -> Callable[[Sequence[str]], None]:
    def compose(arguments: Sequence[str]) -> None:
        overrides = [argument for argument in arguments if argument not in ("-m", "--multirun")]
        for job in jobs(overrides) if len(overrides) < len(arguments) else [overrides]:
            validate(schema, plain_values(compose_config(config, [*needed, *job])))

    return compose


def jobs(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Overrides of a sweep: each swept value in one job or more."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [str(one.input_line)]
        for one in parsed
    ]
    for job in zip_longest(*values):
        yield [value or first for value, (first, *_) in zip(job, values, strict=True)]


def trained(arguments: Sequence[str]) -> None:
    if not any(key_of(argument) == "chain" for argument in arguments):
        composes("train", TrainConfig, "run_dir=run")(arguments)
        return
    before: dict[str, Any] | None = None
    for link in links_of(arguments):
        before = check_link([*link.overrides, "run_dir=run"], before)


def scored(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["serve"]:
        CHECKS["serve"](arguments[1:])
    else:
        run_parser(lambda: score.main(arguments))


CHECKS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": trained,
    "eval": composes("eval", EvalConfig, "run_dir=run"),
    # Its default is in the folder that Hydra makes.
    "export": composes("export", ExportConfig, "output=checkpoint"),
    "serve": composes("serve", ServeConfig),
    "score": scored,
    "data": lambda rest: run_parser(lambda: sys.exit(data.main(rest))),
    "plan": lambda rest: run_parser(lambda: sys.exit(plan.main(list(rest)))),
    "sync": lambda rest: run_parser(lambda: importlib.import_module("vqr1.cli.sync").main(rest)),
    "doctor": lambda rest: run_parser(
        lambda: importlib.import_module("vqr1.cli.doctor").main(rest)
    ),
    "report": lambda rest: importlib.import_module("vqr1.cli.report").read_arguments(rest),
    "summarize": lambda rest: run_parser(lambda: sys.exit(summarize.main(list(rest)))),
}


@pytest.fixture(autouse=True)
def only_parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands end where they would begin to work."""
    # Scripts find the modules beside them.
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, arguments: Any = None) -> NoReturn:
        parse(parser, arguments)
        raise ParsedError

    def options_only(
        parser: argparse.ArgumentParser,
        task: object,
        arguments: Sequence[str] | None = None,
        load: Callable[[Sequence[str]], object] = load_data_config,
    ) -> int:
        parser.add_argument("overrides", nargs="*")
        load(parser.parse_intermixed_args(arguments).overrides)
        return 0

    def score_only(
        overrides: Sequence[str], paths: Sequence[str], info: object, reference: str | None
    ) -> int:
        composes("score", ScoreConfig)(overrides)
        return 0

    def summary_only(options: object) -> NoReturn:
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    for module in (data, plan, importlib.import_module("scripts.bench_data")):
        monkeypatch.setattr(module, "run_options", options_only)
    monkeypatch.setattr(score, "_score", score_only)
    monkeypatch.setattr(score, "bound_memory", lambda: None)
    monkeypatch.setattr(summarize, "summarise", summary_only)


def test_there_are_commands() -> None:
    found = [command for page in PAGES for command in commands(page)]
    assert len(found) > 60
    assert not set(PLACEHOLDERS) - set(found)
    assert not set(OTHERS) - {words[0] for line in found for words in simple_commands(line)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page(page: Path) -> None:
    problems = []
    for command in dict.fromkeys(commands(page)):
        if command in PLACEHOLDERS:
            continue
        try:
            for words in simple_commands(command):
                check(words)
        except MISTAKES as error:
            problems.append(f"{command}\n    {type(error).__name__}: {error}")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    "command",
    [
        "python train.py loader.images_per_batch=8", "python train.py -m reward=fidelity,nosuch",
        "python train.py dataset=kadid+nosuch", "vqr1 evaluate", "make nosuch", "nosuch a",
        "python score.py photos/ --mode nosuch", "vqr1 data inspect --nosuch", "vqr1 plan --gpu x",
        "vqr1 summarize place=a", "vqr1 report a b", "python scripts/fuzz.py nosuch",
        "vqr1 export chekpoint=last",
    ],
)  # fmt: skip
def test_a_mistake_is_found(command: str) -> None:
    with pytest.raises(MISTAKES):
        check(next(simple_commands(command)))
