"""Each mistake gets one clear message and exit code 2, before any work is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Command
from vqr1.cli.train import main

KEYS = [
    ("unknown set", ["dataset=kadid+nosuch"], ["dataset/nosuch", "Available options", "koniq"]),
    ("set twice", ["dataset=kadid+kadid"], ["dataset=kadid+kadid", "stands twice"]),
    ("empty name", ["dataset=kadid+"], ["dataset=kadid+", "write dataset=a+b"]),
    ("typo in a key", ["optimizer.lrr=1"], ["optimizer.lrr"]),
    ("unknown key forced in", ["+optimizer.lrr=1"], ["optimizer.lrr: unknown key"]),
    ("text for a number", ["optimizer.lr=abc"], ["optimizer.lr='abc'", "valid number"]),
    ("negative rate", ["optimizer.lr=-1"], ["optimizer.lr=-1", "greater than 0"]),
    ("K=1", ["grpo.group_size=1"], ["grpo.group_size=1", "greater than or equal to 2"]),
    ("B=1", ["loader.images_per_batch=1"], ["loader.images_per_batch=1", "at least 2"]),
    ("unknown reward", ["reward=nosuch"], ["reward/nosuch", "fidelity"]),
    ("no such class", ["reward.terms.format._target_=a.B"], ["reward.terms.format._target_=a.B"]),
    ("foreign argument", ["+reward.terms.format.gain=2"], ["reward.terms.format", "gain"]),
    ("no end", ["max_steps=null"], ["max_steps=None", "max_epochs=None"]),
    ("two ends", ["max_epochs=2"], ["max_steps=300", "max_epochs=2"]),
    ("greedy rollout", ["rollout.sampling.temperature=0"], ["temperature=0", "above 0"]),
    ("nothing to rank", ["prompt=describe"], ["prompt=describe", "prompt=thinking"]),
    ("no root", ["dataset=kadid"], ["dataset.root"]),
    ("missing root", ["dataset=kadid", "dataset.root=gone"], ["dataset.root", "gone"]),
    (
        "no root in a mixture",
        ["dataset=kadid+tid"],
        ["dataset.parts.kadid.root", "dataset.parts.tid.root"],
    ),
    ("no such model", ["model.path=gone/model"], ["model.path=gone/model"]),
]


@pytest.mark.parametrize(
    ("arguments", "said"), [case[1:] for case in KEYS], ids=[case[0] for case in KEYS]
)
def test_configuration(run: Command, arguments: list[str], said: list[str]) -> None:
    outcome = run(main, *arguments)
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert "Traceback" not in outcome.err
    for part in said:
        assert part in outcome.err


def test_all_problems_at_once(run: Command) -> None:
    outcome = run(main, "optimizer.lr=abc", "grpo.group_size=1", "max_steps=0")
    assert outcome.code == 2
    for key in ("optimizer.lr", "grpo.group_size", "max_steps"):
        assert key in outcome.err


def _break(root: Path, what: str) -> str:
    labels = root / "dmos.csv"
    lines = labels.read_text().splitlines()
    image = root / "images" / "I02_01_03.png"
    if what == "no label file":
        labels.unlink()
        return "dmos.csv"
    if what == "image missing":
        image.unlink()
    elif what == "image does not decode":
        image.write_bytes(image.read_bytes()[:60])
    elif what == "NaN MOS":
        lines[7] = lines[7].replace(lines[7].split(",")[2], "nan")
        labels.write_text("\n".join(lines) + "\n")
        return "dmos.csv:8"
    return image.name


@pytest.mark.parametrize(
    "what", ["no label file", "image missing", "image does not decode", "NaN MOS"]
)
def test_data(run: Command, kadid_root: Path, what: str) -> None:
    named = _break(kadid_root, what)
    outcome = run(
        main, "dataset=kadid", f"dataset.root={kadid_root}", "dataset.split.by=reference",
        "dataset.split.fractions=[0.6,0.2,0.2]", "logger=none", "max_steps=8",
        "loader.images_per_batch=4", "loader.workers=0", "validation.every_steps=8",
        "validation.samples=0", "validation.test=false", "rollout.sampling.max_new_tokens=2",
    )  # fmt: skip
    assert outcome.code == 2, outcome.err
    assert named in outcome.err
    assert "Traceback" not in outcome.err
