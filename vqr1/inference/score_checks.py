"""Keys of `python score.py` that belong together, checked before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vqr1.config import ScoreConfig, ServeConfig, ServerConfig
from vqr1.counted import counted
from vqr1.errors import ConfigError
from vqr1.inference.image_lists import is_list
from vqr1.inference.mode_checks import (
    backend_problems,
    held_values,
    mode_problems,
)
from vqr1.inference.own_files import written_kind
from vqr1.inference.writers import Format
from vqr1.outputs import not_own
from vqr1.policy.training_prompt import prompt_notes, trained_vision_id, vision_id_note

FORMATS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".txt": "table"}
"""What the ending of a file states about its format."""


def check_scoring(config: ScoreConfig, patterns: Sequence[str]) -> Format:
    """Check a configuration with the command's paths.

    Returns:
        The format of the results.

    Raises:
        ConfigError: every problem.
    """
    problems = [
        *_inputs(config, patterns),
        *mode_problems(config.mode, config.answer.form),
        *backend_problems(config.backend, config.mode, config.model),
        *_several_images(config, patterns),
        *(_comparing(config) if config.task == "compare" else _scoring(config)),
    ]
    if config.hardware.devices * config.hardware.nodes > 1:
        problems.append(
            f"hardware.devices={config.hardware.devices}, hardware.nodes={config.hardware.nodes}: "
            "set both to 1 and start one process a device with torchrun or srun; the processes "
            "share the images"
        )
    form = config.format
    if form is None:
        suffix = ".txt" if config.output is None else Path(config.output).suffix.lower()
        form = FORMATS.get(suffix)
        if form is None:
            problems.append(
                f"output={config.output}: its ending does not state the format; use .csv, .jsonl "
                "or .txt, or set format"
            )
    problems += _places(config, form, patterns)
    if problems:
        raise ConfigError(problems)
    assert form is not None
    return form


def notes_on(config: ScoreConfig | ServeConfig) -> list[str]:
    """What the model is asked otherwise than in its training, or than here, one line each.

    Raises:
        ModelError: the checkpoint's record of its training is damaged.
    """
    server = isinstance(config.backend, ServerConfig)
    trained = trained_vision_id(config.model, hub=not server)
    held = held_values(config.backend, config.mode)
    notes = (
        vision_id_note(config.prompt, trained),
        *prompt_notes(config.prompt, config.model, hub=not server),
        held and f"note: answers are drawn with {held}",
    )
    return [note for note in notes if note]


def _inputs(config: ScoreConfig, patterns: Sequence[str]) -> list[str]:
    problems = []
    if config.results is None and not patterns:
        problems.append("no images: name files, folders or globs, such as `photos/`")
    if config.results is not None and patterns:
        problems.append(
            f"results={config.results}: its images are compared; give no {', '.join(patterns)}"
        )
    if config.column is not None and not any(is_list(pattern) for pattern in patterns):
        problems.append(
            f"column={config.column}: none of the paths is a list ending in .csv or .jsonl"
        )
    return problems


def _several_images(config: ScoreConfig, patterns: Sequence[str]) -> list[str]:
    """What does not fit the number of images that the prompt is about."""
    prompt, columns = config.prompt, config.column
    about = f"prompt={prompt.name} is about {counted(prompt.images, 'image')}"
    if config.references is not None:
        if prompt.images != 2:
            return [f"references={config.references}: {about}; use prompt=full_reference"]
        if config.results is not None:
            return [f"references={config.references}: results has scores already; remove the key"]
        return []
    if isinstance(columns, tuple) and len(columns) != prompt.images:
        return [f"column={list(columns)}: {about}; name as many columns"]
    if prompt.images > 1 and config.results is None and not any(map(is_list, patterns)):
        return [
            f"prompt.images={prompt.images}: {about}, and paths name one each; give the reference "
            "with references=FILE or FOLDER (--reference), or a CSV or JSON lines list that names "
            "all of them"
        ]
    return []


def _scoring(config: ScoreConfig) -> list[str]:
    return [
        f"{key}={value}: only task=compare (--mode compare) has it"
        for key, value in (("results", config.results), ("pairs", config.pairs))
        if value is not None
    ]


def _comparing(config: ScoreConfig) -> list[str]:
    if config.results is not None:
        return []
    problems = []
    mode = config.mode
    if not config.answer.form.scored:
        problems.append(
            f"task=compare, prompt={config.prompt.name}: it asks for no score, so there is nothing "
            "to compare; use prompt=thinking or prompt=non_thinking"
        )
    if mode.name == "greedy" or (mode.name == "sampled" and mode.samples < 2):
        problems.append(
            f"task=compare, mode={mode.name}, mode.samples={mode.samples}: one answer does not "
            "state how sure it is; use mode=expected or mode=levels, or mode=sampled with "
            "mode.samples=2 or more"
        )
    return problems


def _places(config: ScoreConfig, form: Format | None, patterns: Sequence[str]) -> list[str]:
    problems = []
    for key, value in (("output", config.output), ("pairs", config.pairs)):
        if value is None:
            continue
        path = Path(os.path.expanduser(value))
        if not path.parent.is_dir():
            problems.append(
                f"{key}={value}: there is no folder {path.parent}; make it, or choose another place"
            )
        elif path.is_dir():
            problems.append(
                f"{key}={value}: the file cannot be written (it is a folder); choose another place"
            )
        elif any(_is_same(path, pattern) for pattern in patterns):
            problems.append(f"{key}={value}: the command reads this file too; choose another place")
        elif path.is_file() and path.stat().st_size:
            problems += _replaced(config, key, path, form)
    return problems


def _is_same(path: Path, pattern: str) -> bool:
    other = Path(os.path.expanduser(pattern))
    return path.exists() and os.path.exists(other) and path.samefile(other)


def _replaced(config: ScoreConfig, key: str, path: Path, form: Format | None) -> list[str]:
    """The problem of a file that is there, where it would be replaced."""
    continues = config.task == "score" and form != "table" and config.resume
    if continues:
        return []  # where the file is opened, its settings are compared
    kind = written_kind(path)
    if kind is None:
        return [not_own(path, key)]
    if kind == "scores" and config.task == "compare" and config.resume:
        return [
            f"{key}={path}: holds scores, which a comparison would replace; choose another file, "
            "or resume=false"
        ]
    return []
