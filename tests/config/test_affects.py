"""What each key affects is declared at its field alone: resume, sweep and evaluation follow it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest

from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import EvalConfig, ScoreConfig, TrainConfig, affects, validate
from vqr1.config.affects import Affects, deciding, pruned
from vqr1.inference.settings import answer_settings
from vqr1.sweeps.jobs import job_name, sweep_key
from vqr1.training.run_lookup import kept_overrides
from vqr1.training.run_record import changed_keys

pytestmark = pytest.mark.medium

SCHEMAS = (TrainConfig, EvalConfig, ScoreConfig)
SET = "kadid"
"""Name of an entry, where keys are the user's."""

RESUME = set(Affects) - {Affects.START, Affects.DEFAULTS, Affects.NOTHING}
"""Levels that a resumed run compares."""
SWEEP = RESUME - {Affects.ROUNDING}
"""Levels that name a sweep's job."""


@dataclass(frozen=True)
class Found:
    """One field of the schema.

    Attributes:
        owner: its class.
        name: as in YAML; that of the class's open arguments is `arguments`.
        key: dotted key of it, or of one below it that declares nothing.
        declares: whether it has a declaration.
    """

    owner: type
    name: str
    key: str
    declares: bool


def inside(hint: Any) -> Iterator[Any]:
    """A type, and all that it is made of."""
    yield hint
    for one in get_args(hint):
        yield from inside(one)


def marks(hint: Any) -> list[Affects]:
    own = hint.__metadata__ if get_origin(hint) is Annotated else ()
    return [one for one in own if isinstance(one, Affects)]


def walk(owner: type, prefix: str = "") -> Iterator[Found]:
    hints = get_type_hints(owner, include_extras=True)
    for field in fields(owner):
        hint = hints[field.name]
        name = owner.__pydantic_fields__[field.name].alias or field.name
        below = [one for one in inside(hint) if isinstance(one, type) and is_dataclass(one)]
        # A declaration below the outermost type would be read by nothing.
        assert [one for one in inside(hint) if isinstance(one, Affects)] == marks(hint), hint
        entries = any(get_origin(one) is dict for one in inside(hint))
        key = f"{prefix}{name}"
        shown = f"{prefix}own" if name == "arguments" else f"{key}.own" if below or entries else key
        yield Found(owner, name, shown, bool(marks(hint)))
        for one in below:
            yield from walk(one, f"{key}.{SET}." if entries else f"{key}.")


FIELDS = {schema: list(dict.fromkeys(walk(schema))) for schema in SCHEMAS}


def nested(key: str, value: object) -> dict[str, Any]:
    for name in reversed(key.split(".")):
        value = {name: value}
    assert isinstance(value, dict)
    return value


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Declares another level at a field; in all classes of a union that have its key."""
    types = affects.field_types

    def at(schema: type, found: Found, level: Affects) -> None:
        same = (found.key, found.name)
        owners = {one.owner for one in FIELDS[schema] if (one.key, one.name) == same}

        def changed(owner: type) -> dict[str, Any]:
            own = types(owner)
            if owner not in owners:
                return own
            return {**own, found.name: Annotated[own[found.name], level]}

        monkeypatch.setattr(affects, "field_types", changed)

    return at


def test_the_schema_is_walked_whole() -> None:
    keys = {found.key for found in FIELDS[TrainConfig]}
    assert {
        "seed", "target", "dataset.root", f"dataset.parts.{SET}.root", "dataset.split.by",
        "loss._target_", "loss.own", "loss.kl_weight", "callbacks.checkpoint.monitor",
        "rollout.server.weights", "answer.own", f"metrics.{SET}.label", "model.lora.rank",
        "reward.terms.own",
    } <= keys  # fmt: skip
    assert {"backend.url", "backend.enforce_eager"} <= {f.key for f in FIELDS[EvalConfig]}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_resuming_follows_the_declaration(schema: type, declare: Any) -> None:
    for found in FIELDS[schema]:
        old, new = nested(found.key, 1), nested(found.key, 2)
        for level in Affects:
            declare(schema, found, level)
            changed = [f"{found.key}: 1 -> 2"]
            assert changed_keys(old, new, schema=schema) == (changed if level in RESUME else [])
            moved = changed_keys(old, new, schema=schema, moved=True)
            assert moved == (changed if level in RESUME - {Affects.LOCATION} else [])


def test_a_training_follows_the_declaration(declare: Any) -> None:
    for found in FIELDS[TrainConfig]:
        for level in Affects:
            declare(TrainConfig, found, level)
            old, new = nested(found.key, 1), nested(found.key, 2)
            assert (job_name(old) != job_name(new)) == (level in SWEEP), found.key
            keys = [sweep_key("train", [f"{found.key}={value}"], {}) for value in (1, 2)]
            assert (keys[0] != keys[1]) == (level in SWEEP), found.key
            kept = kept_overrides([f"++{found.key}=1"])
            assert bool(kept) == (level is not Affects.START), found.key
            shown = pruned(TrainConfig, old, Affects.ROUNDING)
            assert shown == (old if level in RESUME else {}), found.key


def follows(key: str, found: Found, others: list[Found]) -> bool:
    """Whether a field's declaration holds for a key: no field between declares its own."""
    nearer = [one for one in others if one.declares and one != found and is_in(one.key, found)]
    return is_in(key, found) and not any(is_in(key, one) for one in nearer)


def is_in(key: str, found: Found) -> bool:
    """Whether a key is that of a field, or below it."""
    group = found.key.removesuffix(".own")
    return key == group or (is_group(found) and key.startswith(f"{group}."))


def is_group(found: Found) -> bool:
    return found.key.endswith(".own")


COMMANDS: Mapping[str, tuple[type, list[str]]] = {
    "sets": (EvalConfig, [f"dataset={SET}+tid"]),
    "server": (EvalConfig, ["backend=openai", "backend.url=http://there/v1", "backend.model=a",
                            "mode=sampled"]),
    "vllm": (EvalConfig, ["backend=vllm", "mode=sampled"]),
    "score": (ScoreConfig, ["mode=sampled"]),
    "adapters": (ScoreConfig, ["+model.lora={}", "mode=sampled"]),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_an_evaluation_follows_the_declaration(name: str, declare: Any) -> None:
    schema, overrides = COMMANDS[name]
    command = "eval" if schema is EvalConfig else "score"
    needs = ["run_dir=run"] if schema is EvalConfig else []
    config = validate(schema, plain_values(compose_config(command, [*needs, *overrides])))
    # The walk knows one set of a mixture.
    present = [key for key in deciding(config, Affects.START) if ".tid." not in key]
    least = Affects.ANSWERS if schema is EvalConfig else Affects.SCORES
    tried = 0
    for found in FIELDS[schema]:
        following = {key for key in present if follows(key, found, FIELDS[schema])}
        for level in Affects if following else ():
            declare(schema, found, level)
            decided = answer_settings(config, least).keys() & following
            assert decided == (following if level >= least else set()), found
            tried += 1
    assert tried > len(Affects) * len(present) / 2
