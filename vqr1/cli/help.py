"""What `--help` prints of a command's configuration: its groups with their choices, and its keys.

Groups are those of the command's defaults list, meanings the docstrings of its schema, values those
that the given overrides compose: `vqr1 train --help model=qwen2_5_vl_3b` shows that model's.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from vqr1.cli import mixtures
from vqr1.cli.compose import name_run_directory, plain_values
from vqr1.config import config_dir, interpolations, validate
from vqr1.config.meanings import WIDTH, key_lines
from vqr1.program import program

OPTIONS = ("-h", "--help")

_HYDRA = "hydra"
_PRINTS = {
    *OPTIONS, "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "-sc",
    "--shell-completion",
}  # fmt: skip


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for help."""
    return bool(set(OPTIONS) & set(arguments))


def only_prints(arguments: Sequence[str]) -> bool:
    """Whether a command line asks Hydra or us to print something, and to do nothing else."""
    return bool(_PRINTS & {argument.partition("=")[0] for argument in arguments})


def command_help(config: str, schema: type, given: Sequence[str]) -> str:
    """The whole help of a command that has no options but Hydra's.

    Args:
        config: primary configuration, called as the command.
        schema: dataclass of it.
        given: the command line.

    Raises:
        Exception: one of `vqr1.cli.compose.USER_ERRORS`: an override that does not fit.
    """
    head = (
        f"usage: {program(config)} [GROUP=CHOICE ...] [KEY=VALUE ...]\n\n"
        "Hydra's options: -m (a sweep over values given with commas), --cfg job (print the\n"
        "configuration), --hydra-help (all of them).\n\n"
    )
    return head + configuration_help(config, schema, [one for one in given if one[:1] != "-"])


def keys_if_asked(config: str, schema: type, given: Sequence[str]) -> str:
    """`configuration_help` for the end of another parser's, where the command line asks for it."""
    return f"\n\n{configuration_help(config, schema)}" if asks_for_help(given) else ""


def configuration_help(config: str, schema: type, overrides: Sequence[str] = ()) -> str:
    """Groups and keys of a command; see `command_help`."""
    mixtures.register()
    interpolations.register()
    with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        composed = compose(config, overrides=list(overrides), return_hydra_config=True)
    choices = {str(key): value for key, value in composed.hydra.runtime.choices.items()}
    with open_dict(composed):
        del composed[_HYDRA]
    name_run_directory(composed, config)
    typed: Any = validate(schema, plain_values(composed))
    groups = "\n".join(group_lines(choices, schema))
    keys = "\n".join(key_lines(typed))
    return f"groups (choose with GROUP=CHOICE; [ ] is chosen):\n{groups}\n\nkeys:\n{keys}\n"


def model_choices() -> str:
    """The line of a command's `choices:` that names the files of `conf/model`, wrapped."""
    names = sorted(path.stem for path in (config_dir() / "model").glob("*.yaml"))
    lines = textwrap.wrap(
        f"choices: model={'| '.join(names)} (model.path=FOLDER)", WIDTH, break_on_hyphens=False,
        subsequent_indent=" " * len("choices: model="),
    )  # fmt: skip
    return "\n".join(lines).replace("| ", "|")


def group_lines(choices: Mapping[str, Any], schema: type) -> Iterator[str]:
    """A line for each group that the command reads.

    Args:
        choices: what is chosen in each, as Hydra names groups (`prompt@describe`).
        schema: the command's.
    """
    # `dataset/common` is read by other files, and Hydra's own are in its documentation.
    groups = {key: one for key, one in choices.items() if "/" not in key and key != _HYDRA}
    width = max(map(len, groups)) + 2
    for key, chosen in groups.items():
        folder = config_dir() / key.partition("@")[0]
        names = sorted(
            path.stem for path in folder.glob("*.yaml") if _fits(path, set(groups), schema)
        )
        shown = [f"[{name}]" if name == chosen else name for name in names]
        if chosen is not None and chosen not in names:
            shown.append(f"[{chosen}]")
        if key in (mixtures.DATASET, mixtures.LOGGER):
            shown.append("(or several: a+b)")
        yield from textwrap.wrap(
            " ".join(shown), WIDTH, break_on_hyphens=False,
            initial_indent=f"  {key:<{width}}", subsequent_indent=" " * (width + 2),
        )  # fmt: skip


def _fits(file: Path, groups: set[str], schema: type) -> bool:
    """Whether a choice is one for this command: an experiment shows it by the keys that it sets."""
    text = file.read_text(encoding="utf-8")
    if "@package _global_" not in text:
        return True
    values = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    assert isinstance(values, dict)
    allowed = {field.name for field in fields(schema)} | groups
    sweeper = values.pop(_HYDRA, {}).get("sweeper", {})
    named = {str(key).partition(".")[0] for key in sweeper.get("params", {})}
    for entry in values.pop("defaults", []):
        if isinstance(entry, dict):
            (key,) = entry
            named.add(str(key).removeprefix("override ").strip("/ "))
        elif entry != "_self_" and not _fits(file.parent / f"{entry}.yaml", groups, schema):
            return False
    named = {key for key in named if not key.startswith(f"{_HYDRA}/")}
    return named | set(map(str, values)) <= allowed
