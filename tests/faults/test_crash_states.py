"""Every state that a power loss may leave of what is written, and the recovery on each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tools.faults.crash.disk import states
from tools.faults.crash.recording import Commit, Names, Sync, Write, recorded


def left_by(folder: Path, tears: int = 4) -> set[tuple[tuple[str, bytes | None], ...]]:
    """The states of an unsynced file that is renamed over another."""
    (folder / "file").write_bytes(b"old")
    with recorded(folder) as recording:
        (folder / "aside").write_bytes(b"new!")
        os.replace(folder / "aside", folder / "file")
        recording.commit("done")
    kinds = [type(event) for event in recording.events]
    assert kinds == [Names, Write, Names, Commit]
    return {state.files for state in states(recording, tears) if state.commits}


def test_a_rename_before_its_data_leaves_either_file_or_an_empty_one(tmp_path: Path) -> None:
    """By hand: neither, one or both of (made, renamed), times the bytes: none, all, or zeros."""
    new = [b"", b"new!", bytes(4)]
    assert left_by(tmp_path) == {
        (("file", b"old"),),
        *((("aside", content), ("file", b"old")) for content in new),
        *((("file", content),) for content in new),
    }


def test_what_is_synced_is_there(tmp_path: Path) -> None:
    with recorded(tmp_path) as recording:
        (tmp_path / "folder").mkdir()
        path = tmp_path / "folder" / "file"
        path.write_bytes(b"a" * 100)
        for synced in (path, path.parent):
            descriptor = os.open(synced, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        recording.commit("done")
    assert sum(isinstance(event, Sync) for event in recording.events) == 2
    found = {state.files for state in states(recording, 4) if state.commits}
    # The folder's own name was not synced: all of it, or nothing.
    assert found == {(), (("folder", None), ("folder/file", b"a" * 100))}


@pytest.mark.slow
def test_no_state_loses_or_mixes_what_was_committed() -> None:
    from tools.faults.crash.explore import explore
    from tools.faults.crash.scenarios import SCENARIOS

    results = [explore(scenario()) for scenario in SCENARIOS]
    assert {result.name: result.violations for result in results if result.violations} == {}
    assert len(results) >= 8
    assert sum(result.states for result in results) >= 5000


@pytest.mark.slow
def test_every_mistake_is_found() -> None:
    from tools.faults.crash.explore import explore
    from tools.faults.crash.mutations import MUTATIONS

    missed = []
    for mutation in MUTATIONS:
        scenario = mutation.scenario()
        scenario.tears = 4  # a mistake in the order shows without fine tears
        with mutation.made():
            if not explore(scenario, most=1).violations:
                missed.append(mutation.name)
    assert missed == []
    assert len(MUTATIONS) >= 10
