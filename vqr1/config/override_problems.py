"""What is wrong with a command line's overrides: all of it at once, with what may have been meant.

Hydra stops at the first mistake, and its advice (`use +max_step=30`) ends in a refusal. Here the
override that it stopped at is set aside and the rest composed, until nothing is left to report.

Not here: rules of values (`vqr1.config.validation`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from vqr1.config.nearest import did_you_mean, near_keys
from vqr1.config.plain import flatten
from vqr1.config.renamed import renamed_problem
from vqr1.errors import ConfigError
from vqr1.program import in_shell, setting

Compose = Callable[[Sequence[str]], DictConfig]

SWEEP_OPTIONS = frozenset({"-m", "--multirun"})

_NO_KEY = re.compile(r"Could not override '([^']+)'")
"""Hydra's words for a key on the command line that the configuration does not have."""
_SEVERAL = re.compile(r"Ambiguous value for argument '(.*)'$", re.MULTILINE)
"""Hydra's words for a value with commas that is no list."""
_CHOSEN = re.compile(r"Multiple values for (\S+)\. To override")
"""Hydra's words for a group that is chosen already and added with `+`."""
_SEE = re.compile(r"\s*See https://\S+( for details)?")

_ADDED = ("dataset", "logger", "tasks")
"""Groups of which `a+b` takes several."""


@dataclass(frozen=True)
class _Given:
    """An override as it was typed, and as one run of a sweep has it."""

    typed: str
    composed: str

    @property
    def key(self) -> str:
        return self.composed.partition("=")[0].lstrip("+~").partition("@")[0]


def override_problems(
    compose: Compose,
    arguments: Sequence[str],
    error: HydraException,
    wording: Callable[[Exception], str],
) -> tuple[list[str], list[str]]:
    """Everything that is wrong with overrides.

    Args:
        compose: composes overrides; raises `HydraException`.
        arguments: a command line without the program.
        error: what composing all of them raised.
        wording: one line for an error that is about none of the overrides.

    Returns:
        The problems, one line each, and the overrides that are right.
    """
    left = _given(arguments)
    found: list[tuple[_Given | None, HydraException]] = []
    stopped: HydraException | None = error
    while stopped is not None:
        culprit = _culprit(stopped, left)
        found.append((culprit, stopped))
        if culprit is None:
            break
        left.remove(culprit)
        stopped = _failure(compose, left)
    keys: Collection[str] = ()
    if any(_NO_KEY.search(str(one)) for _, one in found):
        keys = _keys(compose, [] if stopped is not None else left)
    lines = [_worded(one, culprit, keys) or wording(one) for culprit, one in found]
    return list(dict.fromkeys(lines)), [one.composed for one in left]


def hydra_line(error: HydraException) -> str | None:
    """One line for an error of Hydra about an override, where there is one better than its own."""
    return _worded(error, None, ())


def _worded(error: HydraException, culprit: _Given | None, keys: Collection[str]) -> str | None:
    text = str(error)
    several = _SEVERAL.match(text)
    if several is not None:
        return _several(several[1])
    unknown = _NO_KEY.search(text)
    if unknown is not None:
        return _unknown_key(unknown[1], keys)
    chosen = _CHOSEN.match(text)
    if chosen is not None:
        group = chosen[1]
        return f"+{group}: a choice of {group} is there already; write {group}=CHOICE to replace it"
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(error, MissingConfigException) and culprit is not None:
        return _no_choice(error, culprit)
    return None


def _given(arguments: Sequence[str]) -> list[_Given]:
    """The overrides of a command line; of a sweep's values the first of each."""
    sweep = bool(SWEEP_OPTIONS & set(arguments))
    # Options of Hydra's may have a value of their own: `--cfg job`.
    given = get_args_parser().parse_known_intermixed_args(list(arguments))[0].overrides
    composed = {one: _first(one) if sweep else one for one in given}
    return [_Given(typed, one) for typed, one in composed.items() if one is not None]


def _first(override: str) -> str | None:
    """An override with the first of its values; None where that is not known here."""
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return override
    if not parsed.is_sweep_override():
        return override
    values = parsed.value()
    if isinstance(values, Glob):
        return None
    if isinstance(values, IntervalSweep):
        return f"{parsed.get_key_element()}={values.start}"
    first = next(parsed.sweep_string_iterator(), None)
    return None if first is None else f"{parsed.get_key_element()}={first}"


def _culprit(error: HydraException, given: Sequence[_Given]) -> _Given | None:
    """The override that an error is about."""
    text = str(error)
    several, unknown = _SEVERAL.match(text), _NO_KEY.search(text) or _CHOSEN.match(text)
    for one in given:
        if several is not None and one.composed == several[1]:
            return one
        if unknown is not None and one.key == unknown[1].partition("@")[0]:
            return one
        if isinstance(error, OverrideParseException) and one.composed == error.override:
            return one
        if isinstance(error, MissingConfigException) and _names(one, error):
            return one
    return None


def _names(given: _Given, error: MissingConfigException) -> bool:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    return given.key == group and name in re.split(r"[+,()\s]+", given.typed.partition("=")[2])


def _failure(compose: Compose, given: Sequence[_Given]) -> HydraException | None:
    try:
        compose([one.composed for one in given])
    except HydraException as error:
        return error
    except ConfigError:
        pass  # a rule of values, reported once the overrides are right
    return None


def _keys(compose: Compose, given: Sequence[_Given]) -> Collection[str]:
    """Keys and groups of what is composed."""
    try:
        composed = compose([one.composed for one in given])
    except (HydraException, ConfigError):
        composed = compose([])
    values = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(values, dict)
    return dict.fromkeys([*map(str, values), *flatten(values)])


def _unknown_key(key: str, keys: Collection[str]) -> str:
    # Hydra's own advice, to add the key with `+`, ends in a refusal where no choice has the key.
    renamed = renamed_problem(key)
    if renamed is not None:
        return renamed
    hint = did_you_mean(near_keys(key, keys))
    return f"{key}: no such key in this configuration; " + (
        hint or "`--help` lists its keys, and another choice of a group may have it"
    )


def _several(override: str) -> str:
    key, _, value = override.partition("=")
    if key in _ADDED:
        return (
            f"{override}: several of them together are {setting(key, value.replace(',', '+'))}; "
            "one after the other, a run each, they are as they stand with --multirun"
        )
    return (
        f"{override}: commas make several values of it, one run each with --multirun"
        f"{_quoting(override)}"
    )


def _unreadable(error: OverrideParseException) -> str:
    override = error.override
    if "=" not in override and not override.startswith("~"):
        return f"{override}: no value is given; write {override}=VALUE"
    reason = _SEE.sub("", " ".join(str(error).split()))
    return f"{override}: no readable override ({reason}){_quoting(override)}"


def _quoting(override: str) -> str:
    """How a value is written that holds marks of Hydra's own, such as commas and brackets."""
    key, equals, value = override.partition("=")
    if not equals or not key or value[:1] in ("'", '"', "[", "{", "") or value[:2] == "${":
        return ""
    return f"; quote a text with marks in it for Hydra and for the shell: {setting(key, value)}"


def _no_choice(error: MissingConfigException, given: _Given) -> str:
    name = str(error.missing_cfg_file).rpartition("/")[2]
    options = list(error.options or ())
    near = did_you_mean(near_keys(name, options))
    others = ", ".join(options)
    return (
        f"{in_shell(given.typed)}: {given.key} has no choice {name}"
        f"{f'; {near}' if near else ''}{'; there are ' if not near else ' There are '}{others}"
    )


def check_options(arguments: Sequence[str]) -> None:
    """Check the options of a command that has none but Hydra's.

    Raises:
        ConfigError: others, with how a key of the configuration is given.
    """
    _, unknown = get_args_parser().parse_known_args(list(arguments))
    problems = [
        f"{option}: no such option; {as_override(option)}"
        for option in unknown
        if option.startswith("-")
    ]
    if problems:
        raise ConfigError(problems)


def as_override(option: str) -> str:
    """How what was given as an option of argparse is given to Hydra."""
    key, equals, value = option.lstrip("-").replace("-", "_").partition("=")
    return f"a key of the configuration is given as {key}={value if equals else 'VALUE'}"
