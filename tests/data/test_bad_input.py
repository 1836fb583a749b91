"""Data that are not as they should be: the whole message, the exit code, and nothing written."""

from __future__ import annotations

import functools
import logging
import shlex
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from tests.data.bad_input_cases import CASES, Case
from tests.support.images import png_bytes
from vqr1.cli import data, options
from vqr1.cli.compose import compose_config

HERE = "HERE"


@functools.cache
def composed(config_name: str, overrides: tuple[str, ...]) -> DictConfig:
    """Most cases have the overrides of others, and composing takes most of a case's time."""
    GlobalHydra.instance().clear()
    return compose_config(config_name, overrides)


def make_place(place: Path, case: Case) -> None:
    """A good set, and the case's files over it."""
    good = {f"set/{name}.png": png_bytes(number) for number, name in enumerate("abc")}
    rows = "image,mos\n" + "".join(f"{name}.png,{number}\n" for number, name in enumerate("abc", 1))
    for name, content in {**good, "set/labels.csv": rows, **case.files}.items():
        path = place / name
        if content is None or (isinstance(content, str) and content.startswith("-> ")):
            path.unlink(missing_ok=True)
            if content is not None:
                path.symlink_to(content.removeprefix("-> "))
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def found_files(place: Path) -> dict[str, bytes]:
    """Every file of a folder by its path; folders and dead links have no content.

    A download that is broken off leaves hidden files, which the next one continues or removes.
    """
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() else b""
        for path in sorted(place.rglob("*"))
        if not path.relative_to(place).as_posix().startswith("data/.")
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fault)
def test_one_line(
    case: Case,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_place(tmp_path, case)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir(exist_ok=True)
    before = found_files(tmp_path)
    monkeypatch.setattr(options, "compose_config", lambda name, given: composed(name, tuple(given)))
    logging.getLogger().handlers.clear()
    code = data.main(shlex.split(case.command))
    printed = capsys.readouterr()
    assert printed.err.replace(str(tmp_path), HERE) == f"error: {case.message}\n"
    assert code == 2
    (tmp_path / "data").mkdir(exist_ok=True)
    assert found_files(tmp_path) == before


def test_the_table_holds_forty_faults_and_more() -> None:
    assert len({case.fault for case in CASES}) == len(CASES)
    assert len({case.message for case in CASES}) >= 40
    tasks = {case.command.split()[0] for case in CASES}
    assert tasks >= {"inspect", "prepare", "verify", "download"}
