"""`vqr1 doctor`: what is broken, what is missing, what runs here."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.cli.conftest import Command
from vqr1.cli import doctor
from vqr1.cli.plan import load_train_config
from vqr1.distributed.hardware import Machine
from vqr1.doctor import installation, machine, services
from vqr1.doctor.finding import Finding


def test_a_version_outside_of_its_range_is_broken() -> None:
    required = [Requirement("torch<1"), Requirement("nosuch-package>=2"), Requirement("numpy")]
    broken = [one for one in installation.package_findings(required) if one.status == "broken"]
    assert [one.text.partition(" ")[0] for one in broken] == ["torch", "nosuch-package:"]
    assert broken[0].fix == "pip install 'torch<1'"


def test_the_installed_package_names_its_ranges() -> None:
    required = installation.requirements()
    assert {"torch", "transformers", "mlflow"} <= {one.name for one in required}
    assert "deepspeed" not in {one.name for one in required}


def test_a_lost_file_of_the_package_is_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert {one.status for one in installation.packaged_findings()} == {"ok"}
    monkeypatch.setattr(installation, "tiny_policy_folder", lambda: tmp_path / "assets" / "tiny")
    lost = next(iter(installation.packaged_findings()))
    assert lost.status == "broken"
    assert "model.safetensors" in lost.text


def test_what_does_not_import_is_broken() -> None:
    found = list(installation.Imports(["json", "nosuch_module"]).findings(time.monotonic() + 60))
    assert [(one.status, one.text) for one in found] == [
        ("broken", "nosuch_module: ModuleNotFoundError No module named 'nosuch_module'")
    ]
    slow = installation.Imports(["torch"]).findings(time.monotonic())
    assert [one.status for one in slow] == ["ok"]


@pytest.mark.parametrize(("status", "code"), [("absent", 0), ("broken", 2)])
def test_only_a_broken_installation_fails(
    run: Command, monkeypatch: pytest.MonkeyPatch, status: str, code: int
) -> None:
    found = replace(Finding("packages", "text"), status=status, fix="do this")
    monkeypatch.setattr(doctor, "findings", lambda uri: [found])
    outcome = run(lambda: doctor.main([]))
    assert outcome.code == code
    assert "packages     text  -> do this" in outcome.out
    assert bool(outcome.err) == bool(code)


def test_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mlflow.db"
    uri = f"sqlite:///{file}"
    assert "made at the first run" in services.store_finding(uri).text
    assert not file.exists()
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE a (b)")
        assert services.store_finding(uri).status == "ok"
        database.execute("BEGIN IMMEDIATE")
        assert "locked" in services.store_finding(uri).text
    file.write_text("no database at all, " * 20)
    assert "not a database" in services.store_finding(uri).text
    closed = services.store_finding("http://127.0.0.1:9")
    assert (closed.status, "does not answer" in closed.text) == ("absent", True)
    monkeypatch.setattr(services, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in services.hub_finding().text


@pytest.mark.slow
def test_profiles_that_fit_this_machine() -> None:
    found = list(machine.profile_findings(Machine(cpu_bfloat16=True), load_train_config))
    runs = [one.text for one in found if one.status == "ok"]
    assert [text.split(":")[0] for text in runs] == [
        "hardware=auto", "hardware=cpu", "hardware=cpu_2procs", "hardware=cpu_bf16",
    ]  # fmt: skip
    assert all("tiny 1." in text or "tiny 2." in text for text in runs)
    refused = {
        name
        for one in found
        if one.status == "absent"
        for name in one.text.split(": ")[0].split(", ")
    }
    assert refused == {name for name in machine.profiles() if not name.startswith(("auto", "cpu"))}
