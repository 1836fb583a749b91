"""`python eval.py` as a user runs it: configurations, files, mistakes, processes, interruptions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from tests.cli.conftest import Command, run, write_kadid  # noqa: F401
from tests.support.holder import hold_run
from tools.faults.forked import ForkedProgram, start, start_command
from tools.faults.mlflow_database import new_database
from vqr1.cli.compose import compose_config, plain_values
from vqr1.cli.evaluate import main
from vqr1.config import (
    EvalConfig,
    LoggerConfig,
    MixtureConfig,
    SamplingConfig,
    ScoreConfig,
    ServerConfig,
    config_dir,
    validate,
)
from vqr1.evaluation.checks import check_evaluation
from vqr1.evaluation.run import mode_words
from vqr1.inference.mode_checks import backend_problems
from vqr1.tracking import RunLog

pytestmark = pytest.mark.medium

CHECKOUT = Path(__file__).resolve().parents[2]
SMALL = (
    "dataset=kadid",
    "dataset.split.by=none",
    "model=tiny",
    "mode.samples=2",
    "mode.sampling.max_new_tokens=24",
    "loader.batch_size=4",
    "loader.workers=0",
    "hardware.threads=1",
    "logger=none",
    "statistics.bootstrap_draws=0",
    "report.plots=false",
    "report.worst=0",
)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """`hardware.threads` holds for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def choices(group: str) -> list[str]:
    return sorted(file.stem for file in (config_dir() / group).glob("*.yaml"))


def eval_config(*overrides: str) -> EvalConfig:
    return validate(EvalConfig, plain_values(compose_config("eval", ["run_dir=run", *overrides])))


@pytest.mark.parametrize(
    ("group", "choice"),
    [
        (group, choice)
        for group in ("dataset", "model", "prompt", "mode", "hardware", "logger")
        for choice in choices(group)
    ],
)
def test_every_choice_of_every_group(group: str, choice: str) -> None:
    eval_config(f"{group}={choice}")


def test_the_published_inference() -> None:
    """One sample, top-k 50, top-p 1; the rest by the checkpoint's own files."""
    config = eval_config("experiment=[eval_paper_ood,eval_published_inference]")
    check_evaluation(config)
    assert (config.mode.name, config.mode.samples, config.suite) == ("sampled", 1, "paper_ood")
    assert config.mode.sampling == SamplingConfig(
        temperature=1e-6, top_k=50, top_p=1.0, repetition_penalty=1.05, max_new_tokens=2048,
        stop="eos",
    )  # fmt: skip
    # 16384 x 28 x 28, the checkpoint's preprocessor default.
    assert (config.model.name, config.model.max_pixels) == ("visualquality-r1", 12_845_056)
    assert "top-p 1, seed 0), repetition penalty 1.05, all images" in mode_words(config)
    scored = validate(
        ScoreConfig, plain_values(compose_config("score", ["mode=published", "model=tiny"]))
    )
    assert (scored.mode.sampling, scored.model.max_pixels) == (config.mode.sampling, 12_845_056)
    served = validate(
        ScoreConfig,
        plain_values(compose_config("score", ["mode=published", "backend=transformers_serve"])),
    )
    # What that server does not take as fields goes into its generation config.
    assert isinstance(served.backend, ServerConfig)
    assert json.loads(served.backend.extra_body["generation_config"]) == {
        "do_sample": True, "top_k": 50, "repetition_penalty": 1.05, "min_p": 0.0,
    }  # fmt: skip
    assert backend_problems(served.backend, served.mode, served.model) == []


def test_the_suites() -> None:
    paper = eval_config("experiment=eval_paper_ood")
    check_evaluation(paper)
    assert isinstance(paper.dataset, MixtureConfig)
    assert list(paper.dataset.parts) == [
        "bid", "livec", "koniq", "spaq", "deblur", "sriqa", "dehaze", "agiqa3k",
    ]  # fmt: skip
    assert (paper.split, paper.suite) == ("all", "paper_ood")
    koniq = eval_config("experiment=eval_koniq_trained")
    assert isinstance(koniq.dataset, MixtureConfig)
    assert koniq.dataset.parts["koniq"].split.by == "official"
    others = [part.split.by for name, part in koniq.dataset.parts.items() if name != "koniq"]
    assert others == ["none"] * 6
    table = eval_config("experiment=eval_from_predictions", "predictions=x.csv")
    assert table.predictions == "x.csv"


def write_table(path: Path, seed: int, n: int = 60) -> Path:
    rng = np.random.default_rng(0)
    mos = rng.uniform(1, 5, n)
    scores = mos + np.random.default_rng(seed).normal(size=n)
    rows = [f"{i}.png,{scores[i]:.3f},{mos[i]:.3f}" for i in range(n)]
    path.write_text("\n".join(["image,score,mos", *rows]) + "\n")
    return path


def test_from_predictions(run: Command, tmp_path: Path) -> None:  # noqa: F811
    table = write_table(tmp_path / "livec.csv", 1)
    found = run(
        main, "experiment=eval_from_predictions", f"predictions={table}", "logger=none",
        "run_dir=out", "statistics.bootstrap_draws=100",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert found.out.strip().splitlines()[-1] == "out"
    assert "VisualQuality-R1" in found.out
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert 0.5 < summary["srcc"] < 1
    assert summary["srcc_interval"][0] < summary["srcc"] < summary["srcc_interval"][1]
    assert summary["sets"]["livec"]["images"] == 60
    for name in ("report.md", "report.html", "metrics.json", "config.yaml", "plots/livec.png",
                 "predictions/evaluated.csv"):  # fmt: skip
        assert (tmp_path / "out" / name).is_file()


def write_training(folder: Path) -> dict[str, bytes]:
    """What a training leaves; the content of its files."""
    folder.mkdir()
    for name in ("run.json", "summary.json", "config.yaml", "metrics.csv"):
        (folder / name).write_text(f"the training's {name}\n")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_another_commands_folder_stays_as_it_is(run: Command, tmp_path: Path) -> None:  # noqa: F811
    before = write_training(tmp_path / "trained")
    table = write_table(tmp_path / "livec.csv", 1)
    other = write_table(tmp_path / "other.csv", 2)
    for arguments in ((), (f"predictions={table}",), (f"compare=[{table},{other}]",)):
        found = run(main, "logger=none", "run_dir=trained", *arguments)
        assert (found.code, found.out) == (2, "")
        assert found.err == (
            "error: run_dir=trained: this folder holds a training; choose an empty folder or a "
            "new one\n"
        )
    left = {file.name: file.read_bytes() for file in (tmp_path / "trained").iterdir()}
    assert left == before


def test_an_evaluations_own_folder_takes_the_same_again(
    run: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    table, other = (write_table(tmp_path / f"{n}.csv", n) for n in (1, 2))
    options = ("logger=none", "statistics.bootstrap_draws=0", "report.plots=false", "run_dir=out")
    first = run(main, f"predictions={table}", *options)
    assert first.code == 0, first.err
    # Other curves and draws are no other evaluation.
    again = run(main, f"predictions={table}", *options, "statistics.curves=[logistic4]")
    assert again.code == 0, again.err
    summary = (tmp_path / "out/summary.json").read_bytes()
    for arguments, words in (
        ((f"predictions={other}",), f"predictions='{other}': the evaluation in run_dir='out' was "),
        ((f"predictions={table}", "columns.score_lower_is_better=true"), "columns.score_lower_is"),
        ((f"compare=[{table},{other}]",), "run_dir='out': the evaluation there is one of another"),
    ):
        refused = run(main, *arguments, *options)
        assert (refused.code, len(refused.err.splitlines())) == (2, 1), refused.err
        assert words in refused.err
    assert (tmp_path / "out/summary.json").read_bytes() == summary


@pytest.mark.slow
def test_two_processes_at_once_in_one_folder(run: Command, tmp_path: Path) -> None:  # noqa: F811
    table = write_table(tmp_path / "livec.csv", 1)
    (tmp_path / "out").mkdir()
    holder = start(hold_run, str(tmp_path / "out"))
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "out/held.log").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        found = run(main, f"predictions={table}", "logger=none", "run_dir=out")
    finally:
        holder.kill()
        holder.join()
    assert found.code == 2
    assert found.err == "error: run_dir=out: another process is working on this run\n"
    assert not (tmp_path / "out/summary.json").exists()
    # The lock went with its holder.
    assert run(main, f"predictions={table}", "logger=none", "run_dir=out").code == 0


def test_comparing_two_files(run: Command, tmp_path: Path) -> None:  # noqa: F811
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        write_table(tmp_path / name / "livec.csv", seed)
    found = run(main, "compare=[a/livec.csv,b/livec.csv]", "logger=none", "run_dir=out")
    assert found.code == 0, found.err
    values = json.loads((tmp_path / "out/metrics.json").read_text())["livec"]
    assert len(values["pairs"]) == 1
    assert (tmp_path / "out/tables/pairs_livec.tex").is_file()
    assert "Comparison on livec" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment=eval_nothing"], "eval_paper_ood"),
        (["experiment=eval_from_predictions"], "predictions"),
        (["predictions=none.csv"], "none.csv: no such file"),
        (["predictions=x.csv", "compare=[a,b]"], "only one of them"),
        (["compare=[a]"], "name at least two runs"),
        (["compare=[a,b]"], "compare: a"),
        (["mode=greedy", "mode.samples=3"], "mode=greedy gives one answer an image"),
        (["mode.sampling.temperature=0"], "raise the temperature, or choose mode=greedy"),
        (["prompt=describe"], "it asks for no score"),
        (["mode.samples=two"], "mode.samples"),
        (["statistics.level=2"], "statistics.level"),
        (["model.run=best"], "no MLflow database"),
        (["dataset=kadid"], "dataset.root"),
        # Every missing folder at once, before a model is looked for.
        (
            ["experiment=eval_koniq_trained", "model.path=nowhere", "dataset.parts.spaq.root=gone"],
            "dataset.parts.spaq.root='gone': no such folder; set it to the one with the set's "
            "labels",
        ),
        (["model.path=nowhere"], "model.path=nowhere"),
    ],
)
def test_mistakes(run: Command, arguments: list[str], message: str) -> None:  # noqa: F811
    found = run(main, "logger=none", *arguments)
    assert found.code == 2
    assert found.err.startswith("error: ")
    assert message in found.err
    assert "Traceback" not in found.err


def test_a_checkpoint_without_a_processor(run: Command, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/config.json").write_text('{"model_type": "qwen2_5_vl"}')
    found = run(main, "logger=none", "model.path=bare")
    assert found.code == 2
    assert "no preprocessor_config.json" in found.err


def test_labels_of_a_part(run: Command, tmp_path: Path) -> None:  # noqa: F811
    root = write_kadid(tmp_path / "kadid")
    labels = (root / "dmos.csv").read_text().splitlines()[1:]
    scores = [f"{line.split(',')[0]},{number % 7}" for number, line in enumerate(labels)]
    (tmp_path / "scores.csv").write_text("\n".join(["image,score", *scores]) + "\n")
    arguments = (
        "predictions=scores.csv", "labels=dataset", "dataset=kadid", f"dataset.root={root}",
        "dataset.split.by=reference", "logger=none", "statistics.bootstrap_draws=0",
        "report.plots=false",
    )  # fmt: skip
    images = {}
    for part in ("all", "train", "val", "test"):
        found = run(main, *arguments, f"split={part}", f"run_dir={part}")
        assert found.code == 0, found.err
        summary = json.loads((tmp_path / part / "summary.json").read_text())
        assert f"{part} images" in summary["caption"]
        images[part] = summary["sets"]["kadid"]["images"]
    assert images["all"] == 24
    # Six references of four images each, divided as whole references.
    assert images["train"] + images["val"] + images["test"] == 24
    assert all(0 < images[part] < 24 and images[part] % 4 == 0 for part in ("train", "val", "test"))


def test_a_run_that_breaks_off_is_closed(
    run: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    statuses: list[str] = []

    class Watched(RunLog):
        def finish(self, status: str) -> None:
            statuses.append(status)
            super().finish(status)

    def opened(config: LoggerConfig, run_dir: Path, name: str, tags: dict[str, str]) -> RunLog:
        return Watched(run_dir)

    def broken(*arguments: object) -> None:
        raise errors.pop()

    monkeypatch.setattr("vqr1.evaluation.run.open_run_log", opened)
    monkeypatch.setattr("vqr1.evaluation.report_writer.write_outcome", broken)
    errors: list[BaseException] = [KeyboardInterrupt(), OSError("disk full")]
    arguments = (
        f"predictions={write_table(tmp_path / 'livec.csv', 1)}", "logger=none", "run_dir=out",
        "statistics.bootstrap_draws=0",
    )  # fmt: skip
    with pytest.raises(OSError, match="disk full"):
        run(main, *arguments)
    stopped = run(main, *arguments)
    assert stopped.code == 75
    assert stopped.err.splitlines()[-1] == (
        "stopped by SIGINT; what was evaluated is kept, and continues with: python eval.py "
        f"{arguments[0]} logger=none statistics.bootstrap_draws=0 run_dir=out"
    )
    assert statuses == ["FAILED", "KILLED"]


@pytest.mark.slow
def test_a_model_is_evaluated_and_its_predictions_evaluated_again(
    run: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    root = write_kadid(tmp_path / "kadid", references=3)
    (root / "images/I02_01_03.png").write_bytes(b"no image")
    arguments = [
        *SMALL, f"dataset.root={root}", "run_dir=out", "dataset.on_bad_image=skip",
        "dataset.max_bad_share=0.2",
    ]  # fmt: skip
    first = run(main, *arguments)
    assert first.code == 0, first.err
    content = (tmp_path / "out/predictions.csv").read_bytes()
    assert content.count(b'"kadid"') == 11 * 2
    assert "1 image was excluded" in first.out
    assert json.loads((tmp_path / "out/summary.json").read_text())["skipped"] == {"kadid": 1}
    again = run(main, *arguments, "statistics.bootstrap_draws=5")
    assert "already scored" in again.out
    assert (tmp_path / "out/predictions.csv").read_bytes() == content
    # The count does not depend on having met the image in this start.
    assert json.loads((tmp_path / "out/summary.json").read_text())["skipped"] == {"kadid": 1}
    other = run(main, *arguments, "mode.samples=3", "dataset.short_edge=84")
    assert other.code == 2
    assert "mode.samples=3: the evaluation in run_dir='out' was started with 2" in other.err
    assert "dataset.short_edge=84: the evaluation in run_dir='out' was started with" in other.err
    # As many images under other names: the counts agree, the names do not.
    labels = (root / "dmos.csv").read_text()
    (root / "images/I01_01_01.png").rename(root / "images/I09_01_01.png")
    (root / "dmos.csv").write_text(labels.replace("I01_01_01.png", "I09_01_01.png"))
    renamed = run(main, *arguments)
    assert renamed.code == 2
    assert renamed.err.count("was started with") == 1
    assert "image names of kadid (SHA-256)" in renamed.err


def start_process(
    folder: Path,
    root: Path,
    *more: str,
    launcher: tuple[str, ...] = (sys.executable,),
    variables: Mapping[str, str] | None = None,
) -> Any:
    # A launcher such as torchrun has an interpreter of its own.
    begin: Any = ForkedProgram if launcher == (sys.executable,) else subprocess.Popen
    return begin(
        [
            *launcher, "eval.py", *SMALL, f"dataset.root={root}", f"run_dir={folder}",
            f"hydra.run.dir={folder}/hydra", *more,
        ],
        cwd=CHECKOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(variables or {})},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_and_a_killed_one_give_the_same_file(
    run: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Only what must be a process of its own is one: the killed one, and those at once."""
    root = write_kadid(tmp_path / "kadid", references=3)
    tiny = ("loader.batch_size=1", "mode.sampling.max_new_tokens=2")
    store = new_database(tmp_path / "mlflow.db")
    launched = start_process(
        tmp_path / "launched", root, *tiny, "logger=mlflow",
        f"logger.tracking_uri={store}",
        launcher=(sys.executable, "-m", "torch.distributed.run", "--standalone",
                  "--nproc-per-node=2"),
    )  # fmt: skip
    assert launched.wait(timeout=900) == 0
    # The tasks of one srun step; a free port is drawn by the number of the job.
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NUM_TASKS": "2"}
    tasks = [
        start_process(
            tmp_path / "tasks", root, *tiny,
            variables={**job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    assert [task.wait(timeout=900) for task in tasks] == [0, 0]
    runs = MlflowClient(store).search_runs(["1"])
    assert [run.info.status for run in runs] == ["FINISHED"]
    killed = tmp_path / "killed"
    killed.mkdir()
    process = start_command(
        "vqr1.cli.evaluate", killed, *SMALL, *tiny, f"dataset.root={root}", "run_dir=."
    )
    partial = killed / "predictions.partial-0.csv"
    deadline = time.monotonic() + 900
    while process.is_alive():
        assert time.monotonic() < deadline
        with suppress(FileNotFoundError):  # not made yet, or it ends and removes it
            if partial.stat().st_size > 300:
                break
        time.sleep(0.002)
    process.kill()
    process.join()
    for folder, more in (("one", ()), ("two", ("hardware.devices=2",)), ("killed", ())):
        found = run(main, *SMALL, *tiny, f"dataset.root={root}", f"run_dir={folder}", *more)
        assert found.code == 0, found.err
    content = (tmp_path / "one/predictions.csv").read_bytes()
    assert content.count(b'"kadid"') == 12 * 2
    assert (tmp_path / "two/predictions.csv").read_bytes() == content
    for folder in ("killed", "launched", "tasks"):
        assert (tmp_path / folder / "predictions.csv").read_bytes() == content
    assert (tmp_path / "launched/metrics.json").read_text() == (
        tmp_path / "one/metrics.json"
    ).read_text()


def test_a_launchers_other_processes_evaluate_no_file(
    run: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = write_table(tmp_path / "livec.csv", 1)
    for name, value in (
        ("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2"),
        ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    for arguments in ((f"predictions={table}",), (f"compare=[{table},{table}]",)):
        done = run(main, *arguments, "logger=none", "run_dir=out")
        assert (done.code, done.out) == (0, "")
    assert not (tmp_path / "out/report.md").exists()
