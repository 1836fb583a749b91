"""Every block of the pages is one that runs: commands parse, compose and fit the schema.

Commands of ours are parsed by their own parsers and composed in this process, beside the files that
their page prints; what they do is tested elsewhere. Those of other programs are listed with the
reason. Python is compiled, and run by the test that `PYTHON` names; YAML and JSON are read.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.support.pages import PAGES, blocks, indented, prose, write_files
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

NUMBERS = {"K": "4", "STEPS": "20", "SEED": "1", "N": "1"}
"""What stands for numbers on the pages, with one that it may be."""

PLACES = re.compile(rf"(?<==)({'|'.join(NUMBERS)})$")

PYTHON = {
    "README.md": "tests/test_examples.py",
    "extending.md": "tests/training/test_own_parts.py",
    "own_labels.md": "tests/test_wheel.py",
    "first_run.md": "tests/test_wheel.py",
    "reward_in_trl.md": "tests/inference/test_reward_in_trl.py",
    "rewards.md": "tests/rewards/test_own_reward.py",
    "scoring.md": "tests/test_examples.py",
    "serve_a_metric.md": "tests/test_examples.py",
    "training.md": "tests/test_examples.py",
}
"""Pages with Python, and the test that runs it."""

PLACEHOLDERS = {
    "python train.py reward=NAME": "NAME stands for each choice of the table below it",
    'PYTHONPATH=mine python train.py "hydra.searchpath=[file://$PWD/mine]" '
    "method=own dataset=own": "the reader's folder; as in tests/training/test_own_parts.py",
    "python train.py -m method=...": "any of the methods",
    "python train.py -m hydra/sweeper=optuna hydra.sweeper.n_trials=20  "
    "'optimizer.lr=tag(log, interval(1e-5, 1e-3))' 'grpo.group_size=choice(4, 6)'": (
        "a sweeper's own ranges; tests/sweeps/test_search.py searches so"
    ),
    "python train.py -m method=nearness,q_insight,mr_iqa seed=1,2,3": "nearness is the method that "
    "the page adds",
    "vqr1 train reward=fid<TAB>": "what a shell completes",
    "vqr1 data verify dataset=kadid": "of the set that the line above fetches",
}
"""Commands that stand for others."""


def commands(page: Path) -> Iterator[str]:
    """The commands of a page: lines of fenced blocks, and inline code with arguments."""
    for block in blocks(page):
        if block.language != "bash":
            continue
        joined = re.sub(r"\\\n\s*", " ", block.text)
        yield from filter(str.strip, re.sub(r"\|\n\s*", "| ", joined).splitlines())
    yield from (" ".join(found.split()) for found in INLINE.findall(prose(page)))


def simple_commands(line: str, variables: dict[str, str] | None = None) -> Iterator[list[str]]:
    """The words of each command of a pipeline, without comments, variables and `...`.

    Args:
        variables: those that the lines above have set (`common="a=1 b=2"`); this line's are added.
    """
    variables = {} if variables is None else variables
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, "|"]:
        if set(word) <= set("|;&"):
            if words:
                yield words
            words = []
        elif not words and (assigned := re.match(r"([a-z]+)=(.*)", word)):
            variables[f"${assigned[1]}"] = stated(assigned[2])
        elif word in variables:
            words += variables[word].split()
        elif word != "..." and (words or not re.match(r"[A-Z_0-9]+=", word)):
            words.append(
                PLACES.sub(lambda place: NUMBERS[place[1]], word).replace("$PWD", str(Path.cwd()))
            )


def stated(text: str) -> str:
    """A text in which what stands for a number or a folder is one."""
    return PLACES.sub(lambda place: NUMBERS[place[1]], text).replace("$PWD", str(Path.cwd()))


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
    if tuple(words) in ACCEPTED:
        return
    name, *rest = words
    if name in STARTERS:
        STARTERS[name](rest)
    elif name not in OTHERS:
        raise RefusedError(f"{name}: not known here; test it, or give the reason in OTHERS")
    ACCEPTED.add(tuple(words))


ACCEPTED: set[tuple[str, ...]] = set()
"""Commands that were accepted: pages repeat some."""


def by_make(rest: Sequence[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    if unknown := {word for word in rest if "=" not in word} - set(targets):
        raise RefusedError(f"no target {unknown}")


def by_python(rest: Sequence[str]) -> None:
    script, *rest = rest
    if script in ("train.py", "eval.py", "score.py"):
        ours([script.removesuffix(".py"), *rest])
    elif script == "-c":
        compile(rest[0], "command", "exec")
    elif script == "-m" and rest[0].startswith("tools."):
        existing(f"{rest[0].replace('.', '/')}/__main__.py")
    elif script == "-m":
        check(rest)
    elif script.startswith(("experiments/", "examples/")):
        by_its_parser(existing(script), rest)
    else:
        module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
        takes = inspect.signature(module.main).parameters
        # Options and overrides in any order; what composes them does so in `options_only`.
        mixed = argparse.ArgumentParser.parse_intermixed_args
        if not hasattr(module, "run_options"):
            mixed = accepted_of(mixed)
        with (
            patch.object(sys, "argv", [script, *rest]),
            patch.object(argparse.ArgumentParser, "parse_intermixed_args", mixed),
        ):
            run_parser((lambda: module.main(rest)) if takes else module.main)


def by_its_parser(script: Path, rest: Sequence[str]) -> None:
    """A script with options, run until its parser accepts them; one without only has to exist."""
    if not any(word.startswith("--") for word in rest):
        return
    words, folders = [str(script), *rest], [*sys.path]
    try:
        with patch.object(sys, "argv", words), patch.object(sys, "path", folders):
            run_parser(lambda: runpy.run_path(str(script), run_name="__main__"))
    finally:
        # Another folder's scripts have modules of the same names.
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "").parent == script.parent:
                del sys.modules[name]


def accepted_of(parse: Callable[..., Any]) -> Callable[..., NoReturn]:
    """A method of a parser that ends the command once the arguments are accepted."""

    def parse_only(parser: argparse.ArgumentParser, arguments: Any = None) -> NoReturn:
        parse(parser, arguments)
        raise ParsedError

    return parse_only


def ours(rest: Sequence[str]) -> None:
    """`vqr1` with its arguments."""
    name, *rest = rest
    if name == "-sc":
        if not re.fullmatch(r"(un)?install=(bash|fish)", *rest):
            raise RefusedError(f"{rest}: completes nothing")
    elif name not in COMMANDS:
        raise RefusedError(f"{name}: no such command")
    elif not {"-h", "--help"} & set(rest):
        CHECKS[name](rest)


def launched(begin: str) -> Callable[[Sequence[str]], None]:
    """Of a program that starts ours: the words from the first that matches `begin`."""

    def check_launched(rest: Sequence[str]) -> None:
        while not re.search(begin, rest[0]):
            rest = rest[1:]
        if rest[0].endswith(".sbatch"):
            existing(rest[0])
            rest = ["train.py", *rest[1:]]
        check(rest if rest[0] == "python" else ["python", *rest])

    return check_launched


STARTERS: dict[str, Callable[[Sequence[str]], None]] = {
    "make": by_make,
    "python": by_python,
    "vqr1": ours,
    "pytest": lambda rest: [existing(word) for word in rest[:1]] and None,
    "torchrun": launched(r"^train\.py$|^-m$"),
    "srun": launched("^python$"),
    "sbatch": launched(r"\.sbatch$"),
}
"""What checks the arguments of a program, by its name."""


def existing(name: str) -> Path:
    """A file of the checkout.

    Raises:
        RefusedError: there is none.
    """
    if not (ROOT / name).exists():
        raise RefusedError(f"{name} is not there")
    return ROOT / name


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
    parse = accepted_of(argparse.ArgumentParser.parse_args)

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

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
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


def case(page: Path) -> Any:
    """A page's test; the README's is in the second tier, all others together take minutes."""
    return pytest.param(
        page,
        id=str(page.relative_to(ROOT)),
        marks=[] if page == ROOT / "README.md" else [pytest.mark.slow],
    )


@pytest.mark.parametrize("page", [case(page) for page in PAGES])
def test_the_blocks_of_a_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = blocks(page)
    problems = [
        f"{block.language or 'no language'}: {block.text}"
        for block in found
        if block.language not in ("bash", "python", "yaml", "json", "text")
    ]
    problems += [f"an indented block, in place of a fenced one: {line}" for line in indented(page)]
    write_files(found, tmp_path)
    for block in found:
        READ.get(block.language, str)(block.text)
    assert not any(block.language == "python" for block in found) or page.name in PYTHON
    monkeypatch.chdir(tmp_path)
    for place in ("", "mine"):
        monkeypatch.syspath_prepend(str(tmp_path / place))
    variables: dict[str, str] = {}
    for command in dict.fromkeys(commands(page)):
        if command in PLACEHOLDERS:
            continue
        try:
            for words in simple_commands(command, variables):
                check(words)
        except MISTAKES as error:
            problems.append(f"{command}\n    {type(error).__name__}: {error}")
    assert not problems, "\n".join(problems)


READ: dict[str, Callable[[str], Any]] = {
    "python": lambda text: compile(text, "page", "exec"),
    "yaml": yaml.safe_load,
    "json": lambda text: [json.loads(line) for line in text.splitlines()],
}
"""What reads a block, by its language; raises where it is no such text."""


def test_python_of_the_pages_is_run_by_a_test() -> None:
    for page, test in PYTHON.items():
        assert page.removesuffix(".md") in existing(test).read_text(), (page, test)


@pytest.mark.parametrize(
    "command",
    [
        "python train.py loader.images_per_batch=8", "python train.py -m reward=fidelity,nosuch",
        "python train.py dataset=kadid+nosuch", "vqr1 evaluate", "make nosuch", "nosuch a",
        "python score.py photos/ --mode nosuch", "vqr1 data inspect --nosuch", "vqr1 plan --gpu x",
        "vqr1 summarize place=a", "vqr1 report a b", "python scripts/fuzz.py nosuch",
        "vqr1 export chekpoint=last", "python experiments/real_vlm/ridge.py --data a --nosuch b",
    ],
)  # fmt: skip
def test_a_mistake_is_found(command: str) -> None:
    with pytest.raises(MISTAKES):
        check(next(simple_commands(command)))
