"""A module imports only from floors below its own (the layering that keeps the house standing)."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "vqr1"

FLOORS = {
    "errors": 0, "process_memory": 0, "locks": 0.2, "outputs": 0.3, "standard_streams": 0.2,
    "records": 0.5, "config": 0.5,
    "iqa": 1,
    "distributed": 1.5,
    "data": 2, "rewards": 2, "tracking": 2,
    "policy": 3,
    "rollout": 4,
    "planning": 4.5,
    # Training judges validation images by the rules of evaluation, never the other way round.
    "scoring": 5, "evaluation": 5, "training": 5.5,
    "sweeps": 6,
    "cli": 7,
}  # fmt: skip


def room(module: str) -> str:
    return module.split(".")[1]


def imported_rooms(file: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "vqr1":
            rooms |= {alias.name for alias in node.names if alias.name in FLOORS}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vqr1."):
            rooms.add(room(node.module or ""))
        elif isinstance(node, ast.Import):
            rooms |= {room(alias.name) for alias in node.names if alias.name.startswith("vqr1.")}
    return rooms


LAUNCHER_VARIABLES = {
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "OMPI_COMM_WORLD_RANK", "PMI_RANK",
}  # fmt: skip


def test_only_distributed_reads_what_launchers_set() -> None:
    readers = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and node.value in LAUNCHER_VARIABLES
    }
    assert readers
    assert {reader.split("/")[0] for reader in readers} == {"distributed"}


def test_imports_go_down() -> None:
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        own = file.relative_to(PACKAGE).with_suffix("").parts[0]
        if own in ("__init__", "assets"):
            continue
        others = imported_rooms(file) - {own}
        wrong += [
            f"{file.relative_to(PACKAGE)} imports {other}"
            for other in sorted(others)
            if FLOORS[other] >= FLOORS[own]
        ]
    assert wrong == []
