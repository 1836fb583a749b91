"""A module imports only from floors below its own (the layering that keeps the house standing)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "vqr1"

FLOORS = {
    "errors": 0, "device": 0, "processor": 0, "process_memory": 0, "progress": 0, "program": 0,
    "row_names": 0, "counted": 0, "storage_faults": 0.05,
    "durable": 0.1, "locks": 0.2,
    "iqa": 0.2, "standard_streams": 0.2, "outputs": 0.3,
    "records": 0.5, "config": 0.5,
    "distributed": 1.5,
    "data": 2, "rewards": 2, "tracking": 2,
    # Made of files alone; whatever ends with a report is above.
    "report_page": 2.5,
    "policy": 3,
    "student": 3.5,
    "rollout": 4,
    "inference": 4.5,
    "planning": 4.7, "doctor": 4.8,
    # Training evaluates validation images by the rules of evaluation, never the other way round.
    # What a sweep adds to a run is handed to training by the command.
    "evaluation": 5, "training": 5.5,
    "sweeps": 6,
    "cli": 7,
    "__main__": 8,
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


def test_only_tests_import_tests() -> None:
    folders = ("scripts", "tools", "experiments", "vqr1", "hydra_plugins")
    wrong = [
        f"{file.relative_to(PACKAGE.parent)} imports {name}"
        for folder in folders
        for file in sorted((PACKAGE.parent / folder).rglob("*.py"))
        for name in sorted(imported_names(file))
        if name == "tests" or name.startswith("tests.")
    ]
    assert wrong == []


def test_a_whole_run_is_on_one_page() -> None:
    page = (PACKAGE / "training" / "run.py").read_text().splitlines()
    assert len(page) <= 150


def sets_sharding(node: ast.AST) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else []
    flat = [part for target in targets for part in ast.walk(target)]
    return any(
        isinstance(part, ast.Attribute)
        and part.attr == "sharding"
        and isinstance(part.ctx, ast.Store)
        for part in flat
    )


def test_one_function_sets_the_sharding_of_a_policy() -> None:
    writers = [
        f"{file.relative_to(PACKAGE)}:{function.name}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for function in ast.walk(ast.parse(file.read_text()))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if sets_sharding(node)
    ]
    assert writers == ["training/stages/module.py:shard"]


def test_evaluation_imports_no_backend_and_no_engine() -> None:
    below = ("vqr1.inference.backends", "vqr1.rollout", "vqr1.policy.loading")
    wrong = [
        f"{file.name} imports {name}"
        for file in sorted((PACKAGE / "evaluation").rglob("*.py"))
        for name in imported_names(file)
        if name.startswith(below)
    ]
    assert wrong == []


def imported_names(file: Path) -> set[str]:
    """Dotted names that a module imports, of modules and of what is in them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


COMMANDS = {
    "data", "doctor", "download", "evaluate", "export", "plan", "report", "score", "serve",
    "summarize", "sync", "train",
}  # fmt: skip


def test_the_command_line_is_one_short_module_a_command() -> None:
    modules = {file.stem: file for file in (PACKAGE / "cli").rglob("*.py")}
    others = modules.keys() - COMMANDS - {"__init__"}
    assert modules.keys() >= COMMANDS
    assert len(others) <= 7
    long = {name for name, file in modules.items() if len(file.read_text().splitlines()) > 200}
    assert long == set()


FAMILY_WORDS = re.compile(
    r"qwen|\.visual\b|language_model\b|grid_thw|merge_size|rope_index|vision_start|image_pad"
    r"|mrope|patch_embed|im_start|im_end|add_vision_id|endoftext",
    re.IGNORECASE,
)
MAY_NAME_A_FAMILY = {
    # Names of files in conf/model, which users choose from.
    "cli/plan.py": {"qwen2_5_vl_7b"},
    "cli/help.py": {"qwen2_5_vl_3b"},
    "config/model_defaults.py": {"qwen2_5_vl_7b"},
    "doctor/machine.py": {"qwen2_5_vl_3b", "qwen2_5_vl_7b"},
    # What model cards of earlier versions held.
    "policy/training_prompt.py": {"add_vision_id=True"},
}


def test_only_families_name_a_model_family_or_its_layout() -> None:
    named, used = [], set()
    for file in sorted(PACKAGE.rglob("*.py")):
        own = file.relative_to(PACKAGE)
        if own.parts[:2] == ("policy", "families"):
            continue
        text = file.read_text()
        for allowed in MAY_NAME_A_FAMILY.get(str(own), ()):
            if allowed in text:
                used.add((str(own), allowed))
            text = text.replace(allowed, "")
        named += [f"{own}: {word}" for word in FAMILY_WORDS.findall(text)]
    assert named == []
    assert used == {(own, word) for own, words in MAY_NAME_A_FAMILY.items() for word in words}
