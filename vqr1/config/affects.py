"""What each key of a configuration changes: declared at its field, read by everything that asks.

A field declares it beside its type, such as `Annotated[int, Affects.NOTHING]`; it holds for all
keys below the field that declare nothing themselves. A field without a declaration affects results.

Not here: what is done with it: resuming (`vqr1.training.run_record`), jobs of a sweep
(`vqr1.sweeps.jobs`), answers of an evaluation (`vqr1.inference.settings`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import IntEnum
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from vqr1.config.types import ARGUMENTS, key_of_field


class Affects(IntEnum):
    """What changes with a key, in rising order: each level includes those below it."""

    START = 0
    """Nothing: where or how this one start of a run writes and resumes. Not repeated by a later
    start, and no parameter in a log."""
    DEFAULTS = 1
    """Nothing by itself: other keys take their values from it and are recorded."""
    NOTHING = 2
    """Nothing that is computed: logs, caches, time limits, where something waits."""
    ROUNDING = 3
    """The order of sums: a run keeps it when resumed, a sweep takes two values for the same job."""
    LOCATION = 4
    """Where the data lie: their content is compared where it is known."""
    RESULTS = 5
    """Metrics and what is trained."""
    SCORES = 6
    """How the answers to an image become its score."""
    ANSWERS = 7
    """What a model answers to an image, or which images it is asked about."""


_HYDRA: dict[str, Affects] = {"hydra.run.dir": Affects.START, "hydra": Affects.NOTHING}
"""Hydra's own keys, which no schema holds: with all below them, the first that fits."""


def affects(schema: type, key: str) -> Affects:
    """What a key affects.

    Args:
        schema: dataclass of the whole configuration.
        key: dotted key as in YAML, of a value or a group. Below a key that the schema does not know
            (one of an earlier version, an argument of a chosen class), what is above it decides.
    """
    for name, level in _HYDRA.items():
        if key == name or key.startswith(f"{name}."):
            return level
    return _level(schema, key.split("."), Affects.RESULTS)


def deciding(config: Any, least: Affects) -> dict[str, Any]:
    """Values of a validated configuration that affect at least so much, by dotted key.

    Args:
        config: instance of a schema's dataclass.
        least: lowest level that is included.
    """
    schema = type(config)
    return {key: value for key, value in _values(config) if affects(schema, key) >= least}


def pruned(schema: type, values: Mapping[str, Any], least: Affects) -> dict[str, Any]:
    """Nested plain values without those that affect less, and without groups that become empty.

    Args:
        schema: dataclass of the whole configuration.
        values: of it, as composed.
        least: lowest level that is included.
    """
    return _pruned(schema, values, least, "")


@cache
def field_types(schema: type) -> dict[str, Any]:
    """By key as in YAML, the annotated types of a dataclass's fields."""
    hints = get_type_hints(schema, include_extras=True)
    return {key_of_field(schema, field.name): hints[field.name] for field in fields(schema)}


def _level(hint: Any, names: list[str], level: Affects) -> Affects:
    """Level of what `names` lead to from a type; `level` is that of the value of this type."""
    if not names:
        return level
    # Of several types that know the key (a union), the strictest one decides.
    return max(
        (_level(found, names[1:], _declared(found, level)) for found in _below(hint, names[0])),
        default=level,
    )


def _below(hint: Any, name: str) -> Iterator[Any]:
    """The types that a key may have below a value of a type."""
    if isinstance(hint, type) and is_dataclass(hint):
        types = field_types(hint)
        if name in types or ARGUMENTS in types:
            yield types.get(name, types.get(ARGUMENTS))
        return
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        yield from _below(arguments[0], name)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield arguments[1]
    else:
        for one in arguments:
            yield from _below(one, name)


def _declared(hint: Any, level: Affects) -> Affects:
    """The level that a type declares, `level` where it declares none."""
    if get_origin(hint) is Annotated:
        for one in reversed(hint.__metadata__):
            if isinstance(one, Affects):
                return one
    return level


def _values(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name == ARGUMENTS:
            # They stand beside the class that takes them.
            yield from ((f"{prefix}{name}", argument) for name, argument in value.items())
            continue
        key = f"{prefix}{key_of_field(config, field.name)}"
        if is_dataclass(value):
            yield from _values(value, f"{key}.")
        elif isinstance(value, Mapping) and value and all(map(is_dataclass, value.values())):
            for name, one in value.items():
                yield from _values(one, f"{key}.{name}.")
        else:
            yield key, value


def _pruned(schema: type, values: Mapping[str, Any], least: Affects, prefix: str) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            if below := _pruned(schema, value, least, f"{key}."):
                kept[name] = below
        elif affects(schema, key) >= least:
            kept[name] = value
    return kept
