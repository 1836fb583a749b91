"""Command lines and configuration files that nobody meant."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vqr1.config import config_dir

VALUES = (
    "", "null", "abc", "-1", "0", "1", "1e400", "nan", "-.inf", "true", "[]", "{}", "[1,2]", "[,",
    "{a:1}", "{a:{b:[c]}}", "1.5", "999999999999999999999", "''", "'x y'", '"\\"', "a=b", "${seed}",
    "${nosuch}", "${oc.env:NOSUCH}", "${seed", "${hydra:runtime.cwd}", "\u0663", "\x00", "\ud800",
    "\U0001f600", "a" * 5000, "../..", "/dev/null", "[" * 200, "???", "kadid+tid", "+",
    "1,2", "1_0",
    "${run_dir}${seed}", "!!python/object/apply:os.system [ls]", "0x1", "01", "yes", "- a", "a: b",
)  # fmt: skip
LINES = (
    "\t", "- x", "a: b: c", "defaults: 1", "defaults: [nosuch]", "&a *b", "key: [", "? x",
    "%YAML 9",
    "!!python/name:os.system", "seed: {a: 1}", "\ufeff", "\x00", "'", "<<: *x", "a: &a [*a]", "---",
)  # fmt: skip
ODD_ARGUMENTS = ("=", "a", "=1", "~", "~seed", "~nosuch", "+", "++", "seed", "a b=1", "+seed=1",
                 "++x.y=1", "hydra=none", "hydra/launcher=x", "@a=b", "dataset@x=y", "a=b=c",
                 "dataset=kadid+kadid", "dataset=+", "dataset.parts=3")  # fmt: skip


def dotted(values: Any, key: str = "") -> Iterator[str]:
    """Dotted keys of nested containers, groups of keys included."""
    if key:
        yield key
    if isinstance(values, dict):
        for name, value in values.items():
            yield from dotted(value, f"{key}.{name}" if key else str(name))


def odd_overrides(keys: list[str], rng: random.Random) -> list[str]:
    """One to four command-line arguments."""
    arguments = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        kind = rng.random()
        if kind < 0.15:
            arguments.append(rng.choice(ODD_ARGUMENTS))
        elif kind < 0.35:
            group = rng.choice([p.name for p in config_dir().iterdir() if p.is_dir()])
            names = [p.stem for p in (config_dir() / group).glob("*.yaml")] or ["x"]
            arguments.append(f"{group}={rng.choice([*names, *VALUES])}")
        else:
            mark = rng.choice(("", "", "", "", "+", "++", "~"))
            arguments.append(f"{mark}{rng.choice(keys)}={rng.choice(VALUES)}")
    return arguments


def damage_yaml(folder: Path, rng: random.Random) -> tuple[Path, str]:
    """Damage one file of a configuration folder; returns it and its former text."""
    path = rng.choice(sorted(folder.rglob("*.yaml")))
    before = path.read_text(encoding="utf-8")
    lines = before.splitlines()
    place = rng.randrange(len(lines) + 1)
    kind = rng.randrange(5)
    if kind == 0:
        lines.insert(place, rng.choice(LINES))
    elif kind == 1 and place < len(lines):
        lines[place] = lines[place].partition(":")[0] + ": " + rng.choice(VALUES)
    elif kind == 2 and place < len(lines):
        del lines[place]
    elif kind == 3 and place < len(lines):
        lines[place] = "  " + lines[place]
    else:
        lines = lines[:place]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    return path, before
