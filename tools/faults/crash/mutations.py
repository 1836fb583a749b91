"""Mistakes in the order of writes and syncs, each made for one scenario, which has to find it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tools.faults.crash.explore import Scenario
from tools.faults.crash.scenarios import data, training
from tools.faults.crash.scenarios.data import Cached, MadeSet
from tools.faults.crash.scenarios.delivery import Journalled
from tools.faults.crash.scenarios.jobs import SweptJobs
from tools.faults.crash.scenarios.predictions import (
    ContinuedResults,
    PartialPredictions,
    ReplacedResults,
)
from tools.faults.crash.scenarios.training import Checkpoints, Export, FinishedRun, SteppedLogs
from vqr1 import durable
from vqr1.data import cache
from vqr1.durable import CommittedFile, committed_mark
from vqr1.inference import result_file, resume
from vqr1.policy import export
from vqr1.sweeps import child
from vqr1.sweeps import folder as sweep_folder
from vqr1.tracking import delivery
from vqr1.tracking.journal import Journal
from vqr1.training import checkpoint_files


@dataclass(frozen=True)
class Mutation:
    """One mistake.

    Attributes:
        name: what is wrong.
        scenario: which has to find it.
        owner: module or class that holds the function.
        function: its name.
        mutant: what is called in its place.
    """

    name: str
    scenario: type[Scenario]
    owner: Any
    function: str
    mutant: Any

    def made(self) -> AbstractContextManager[Any]:
        """The mistake, for as long as the context lasts."""
        return mock.patch.object(self.owner, self.function, self.mutant)


def _nothing(*_: object, **__: object) -> None:
    return None


def _mkdir(path: Path, **_: object) -> None:
    path.mkdir(parents=True, exist_ok=True)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _rename(source: Path, target: Path, **_: object) -> None:
    """No sync at all, and the old folder deleted where it is."""
    if target.exists():
        shutil.rmtree(target)
    source.rename(target)


def _rmtree_then_rename(source: Path, target: Path, **_: object) -> None:
    os.sync()
    _rename(source, target)
    durable._sync_folder(target.parent)


@contextmanager
def _renamed_then_synced(path: Path, *, private: bool = False) -> Iterator[Path]:
    aside = durable._aside(path)
    yield aside
    os.replace(aside, path)
    durable._sync_folder(path.parent)
    durable._sync_file(path)


def _write_in_place(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values))
    durable.sync(path)


def _checksum_last(content: Mapping[str, Any], path: Path) -> None:
    durable.make_folder(path.parent)
    with durable.replacing(path) as aside, aside.open("wb") as file:
        writer = checkpoint_files._HashingWriter(file)
        checkpoint_files._save(content, writer)
    checkpoint_files._write_checksum(path, writer)


def _append_unsynced(self: CommittedFile, content: bytes) -> None:
    durable._write_all(self._descriptor, content)
    self.size += len(content)
    durable.write_file(committed_mark(self.path), str(self.size))


def _append_mark_first(self: CommittedFile, content: bytes) -> None:
    self.size += len(content)
    durable.write_file(committed_mark(self.path), str(self.size))
    durable._write_all(self._descriptor, content)
    os.fsync(self._descriptor)


def _remove_both(path: Path) -> None:
    path.unlink(missing_ok=True)
    committed_mark(path).unlink(missing_ok=True)


def _save_only(loggers: Any) -> None:
    for logger in loggers:
        logger.save()


MUTATIONS = (
    Mutation("a file is renamed without a sync", Checkpoints, durable, "_sync_file", _nothing),
    Mutation("a folder is not synced", Checkpoints, durable, "_sync_folder", _nothing),
    Mutation("a file is synced after its rename", Cached, cache, "replacing", _renamed_then_synced),
    Mutation("a new folder is not synced", Checkpoints, checkpoint_files, "make_folder", _mkdir),
    Mutation("a checksum comes last", Checkpoints, training, "write_checkpoint", _checksum_last),
    Mutation("an append is not synced", PartialPredictions, CommittedFile, "append",
             _append_unsynced),
    Mutation("a mark comes before its rows", PartialPredictions, CommittedFile, "append",
             _append_mark_first),
    Mutation("a mark is not removed first", ContinuedResults, resume, "remove_committed",
             _remove_both),
    Mutation("results are not synced", ContinuedResults, resume, "sync", _nothing),
    Mutation("old results are removed without a sync", ReplacedResults, result_file, "remove_file",
             _unlink),
    Mutation("an export is renamed without a sync", FinishedRun, export, "place_folder", _rename),
    Mutation("an old export is deleted in place", Export, export, "place_folder",
             _rmtree_then_rename),
    Mutation("a log is not synced before a checkpoint", SteppedLogs, training, "save_logs",
             _save_only),
    Mutation("a journal is sent before it is synced", Journalled, delivery, "sync", _nothing),
    Mutation("a journal is not synced at its end", FinishedRun, Journal, "sync", Journal.flush),
    Mutation("an outcome is written in place", SweptJobs, child, "write_json", _write_in_place),
    Mutation("the folder of a job is not synced", SweptJobs, sweep_folder, "make_folder", _mkdir),
    Mutation("a set is renamed without a sync", MadeSet, data.demo, "place_folder", _rename),
)  # fmt: skip
