"""Each mistake gets one clear message and exit code 2, before any work is done."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.cli.bad_input_cases import CASES, Case
from tests.cli.conftest import Command
from tests.support.images import noise_image
from tools.faults.small_set import write_kadid
from tools.tiny_checkpoints import build
from vqr1.cli import compose, data, evaluate, export, score, summarize, sync, train
from vqr1.cli import main as vqr1
from vqr1.config import config_dir
from vqr1.distributed import hardware
from vqr1.errors import ConfigError
from vqr1.policy.packaged import tiny_policy_folder
from vqr1.sweeps.folder import SweepRecord
from vqr1.tracking.journal import Journal

pytestmark = pytest.mark.medium

ROOT = Path(__file__).resolve().parents[2]
MAINS: dict[str, Callable[[], Any]] = {
    "train": train.main,
    "eval": evaluate.main,
    "score": score.main,
    "export": export.main,
    "data": data.main,
    "summarize": summarize.main,
    "sync": sync.main,
    "vqr1": vqr1.main,
}
HEADER = "dist_img,ref_img,dmos,var\n"
ROW = "I01_01_01.png,I01.png,4.57,0.25\n"


@pytest.fixture(autouse=True)
def processor_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake has the same message on every processor."""
    monkeypatch.setattr(hardware, "multiplies_bfloat16", lambda: True)


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    size = (60_000).to_bytes(4, "big") * 2
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x08\x02\x00\x00\x00")
            + chunk(b"IDAT", zlib.compress(b"\x00" * 1000)) + chunk(b"IEND", b""))  # fmt: skip


def write_label_sets(place: Path) -> None:
    """KADID-format folders with one thing wrong in each."""
    good = write_kadid(place / "good")
    labels = (good / "dmos.csv").read_text().splitlines(keepends=True)
    nan = [*labels[:7], labels[7].replace(labels[7].split(",")[2], "nan"), *labels[8:]]
    texts: dict[str, bytes] = {
        "no_rows": HEADER.encode(),
        "blank": b" \n",
        "binary": bytes(range(256)),
        "not_a_number": "".join(nan).encode(),
        "leaving": (HEADER + ROW + "../text.txt,I01.png,4.57,0.25\n").encode(),
        "twice": (HEADER + ROW + ROW).encode(),
        "comma": (HEADER + "I01_01_01.png,I01.png,4,57,0,25\n").encode(),
        "named_twice": b"dist_img,ref_img,dmos,dmos,var\nI01_01_01.png,I01.png,4,5,1\n",
    }
    for name, text in texts.items():
        (place / name / "images").mkdir(parents=True)
        (place / name / "dmos.csv").write_bytes(text)
    for name in ("link", "missing", "cut", "bomb"):
        shutil.copytree(good, place / name)
        image = place / name / "images" / "I02_01_03.png"
        whole = image.read_bytes()
        image.unlink()
        if name == "link":
            image.symlink_to(place / "photos" / "one.png")
        elif name != "missing":
            image.write_bytes(whole[:60] if name == "cut" else bomb())


def write_tables(place: Path) -> None:
    """Tables that other readers take without a word."""
    (place / "right.csv").write_text("image,score,mos\na.png,1,2\nb.png,2,3\nc.png,3,5\n")
    (place / "comma.csv").write_text("image,score,mos\na.png,1,5,1.2\nb.png,2,5,3.1\n")
    (place / "named_twice.csv").write_text("image,mos,mos,score\na.png,1,5,3\n")
    (place / "semicolons.csv").write_text("image;score;mos\na.png;1,5;1,2\n")
    (place / "list.csv").write_text("image\na.png\nb, c.png\n")
    row = "a.png,1,0.5,true,,\n"
    (place / "results.csv").write_text("path,score,std,valid,text,error\n" + row + row)
    (place / "results.jsonl").write_text(
        '{"path": "a.png", "score": 1, "score": 5, "std": 1, "valid": true, "text": null, '
        '"error": null}\n'
    )


def write_folders(place: Path) -> None:
    """Folders that commands wrote, with what shows it."""
    record = SweepRecord("k", "train.py -m seed=1,2", {}, {"seed": "1,2"}, {"seed=1": {}})
    summary = {"command": "train.py -m x", "sweep": "elsewhere"}
    for name, file, content in (
        ("trained", "run.json", "{}"),
        ("job", "job.json", "{}"),
        ("evaluated", "evaluation.json", '{"model.path": null}'),
        ("reported", "metrics.json", "{}"),
        ("student", "config.json", '{"model_type": "vqr1_student"}'),
        ("reported", "report.md", "# Comparison"),
        ("reported", "summary.json", "{}"),
        ("swept", "sweep.json", json.dumps(asdict(record))),
        ("summed", "sweep_summary.json", json.dumps(summary)),
    ):
        (place / name).mkdir(exist_ok=True)
        (place / name / file).write_text(content)
    (place / "sheets").mkdir()
    (place / "half").mkdir()
    (place / "half" / "config.yaml").write_text("model: {}\n")
    noise_image(1).save(place / "sheets" / "kadid.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which every case is tried; none may change it."""
    place = tmp_path_factory.mktemp("place")
    for name in ("empty", "damaged", "photos", "jsonl", "matlab", "sheet"):
        (place / name).mkdir()
    noise_image(1).save(place / "photos" / "one.png")
    (place / "damaged/training_images.csv").write_text("dataset,split,name,size,content\nkadid\n")
    (place / "text.txt").write_text("only words\n" * 9)
    write_label_sets(place)
    write_tables(place)
    write_folders(place)
    write_refused_checkpoints(place)
    (place / "jsonl" / "deep.jsonl").write_text("[" * 100_000)
    (place / "jsonl" / "list.jsonl").write_text("[1]\n")
    (place / "matlab" / "dmos_realigned.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b"\x00" * 200)
    (place / "matlab" / "refnames_all.mat").write_bytes(b"")
    (place / "sheet" / "MOS and Image attribute scores.xlsx").write_bytes(b"PK\x03\x04")
    (place / "blank.csv").write_text("")
    (place / "no_mos.csv").write_text("image,score\na.png,3\nb.png,4\n")
    (place / "words.csv").write_text("image,score,mos\na.png,good,3\nb.png,3,4\n")
    (place / "binary.parquet").write_bytes(bytes(range(256)))
    journal = Journal(place / "journal")
    journal.start("vqr1", {}, "sqlite:///x.db")
    journal.close()
    return place


def write_refused_checkpoints(place: Path) -> None:
    """Checkpoints that are refused before their weights are looked at."""
    build("qwen3_vl", place / "qwen3")
    build("qwen3_vl", place / "mixed")
    build("qwen2_5_vl", place / "other")
    build("llava", place / "llava")
    build("llava", place / "patches")
    own = place / "patches" / "processor_config.json"
    values = json.loads(own.read_text(encoding="utf-8")) | {"patch_size": 7}
    own.write_text(json.dumps(values), encoding="utf-8")
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        shutil.copyfile(place / "other" / name, place / "mixed" / name)
    tiny = json.loads((tiny_policy_folder() / "config.json").read_text(encoding="utf-8"))
    for name, values in (
        ("gemma", {"model_type": "gemma3", "text_config": {"layer_types": ["sliding_attention"]}}),
        ("remote", {"model_type": "llava_qwen2", "auto_map": {"AutoConfig": "llava_qwen.Config"}}),
        ("windows", tiny | {"use_sliding_window": True, "max_window_layers": 1}),
        ("fastvlm", {"model_type": "fast_vlm"}),
        ("nothing", {}),
    ):
        (place / name).mkdir()
        (place / name / "config.json").write_text(json.dumps(values), encoding="utf-8")


KEPT = ("trained", "job", "evaluated", "reported", "swept", "summed", "sheets", "photos", "good")


def kept_files(place: Path) -> dict[str, bytes]:
    """Content of the files that a command might replace, and of those it might put beside them."""
    files = [file for name in KEPT for file in (place / name).rglob("*") if file.is_file()]
    files += [file for file in place.iterdir() if file.is_file()]
    # The lock of a run directory has no content, and stays.
    return {
        str(file.relative_to(place)): file.read_bytes() for file in files if file.name != "run.lock"
    }


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_message(
    run: Command, place: Path, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("vllm", "timm"):
        monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
    arguments = list(case.arguments)
    before = kept_files(place)
    own_folder = any(word == "-m" or word.startswith("run_dir=") for word in arguments)
    if case.command == "train" and not own_folder:
        arguments.append(f"run_dir={tmp_path / 'run'}")
    outcome = run(MAINS[case.command], *arguments)
    assert outcome.code == 2, outcome.err
    assert outcome.err.startswith("error: "), outcome.err
    assert kept_files(place) == before, "a file was changed, or one was made beside it"
    left = [folder for folder in ("outputs", "multirun") if (place / folder).exists()]
    for folder in left:
        shutil.rmtree(place / folder)
    assert not left, "the command has left a folder"
    # One whose record is written can be resumed, once its images are mended.
    begun = tmp_path / "run"
    assert not begun.exists() or (begun / "run.json").is_file()
    assert "Traceback" not in outcome.err + outcome.out
    assert len(outcome.err.splitlines()) == case.lines, outcome.err
    for part in case.printed:
        assert part in outcome.err


def test_there_are_enough_cases() -> None:
    assert len(set(CASES)) == len(CASES) >= 150
    assert {case.command for case in CASES} == MAINS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["score", "sync", "train", "vqr1"])
def test_real_process(command: str, place: Path) -> None:
    case = next(case for case in CASES if case.command == command)
    script = ROOT / f"{command}.py"
    module = ["-m", "vqr1", *([] if command == "vqr1" else [command])]
    done = subprocess.run(
        [sys.executable, *([str(script)] if script.is_file() else module), *case.arguments],
        cwd=place, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == case.lines
    for part in case.printed:
        assert part in done.stderr


def test_configuration_file_that_holds_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(config_dir(), tmp_path / "conf")
    with (tmp_path / "conf" / "hardware" / "cpu.yaml").open("a") as stream:
        stream.write("\na: &a [*a]\n")
    monkeypatch.setattr(compose, "config_dir", lambda: tmp_path / "conf")
    with pytest.raises(ConfigError, match="maximum recursion depth") as caught:
        compose.plain_values(compose.compose_config("score"))
    assert "\n" not in str(caught.value)


def test_all_problems_at_once(run: Command) -> None:
    outcome = run(train.main, "optimizer.lr=abc", "grpo.group_size=1", "max_steps=0")
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 3
    for key in ("optimizer.lr", "grpo.group_size", "max_steps"):
        assert key in outcome.err
