"""Stages by the command line: supervised training, `init_from`, chains, and what is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

import vqr1
from tests.cli.conftest import Command, run  # noqa: F401 - a fixture
from tests.cli.test_configs import train_config
from vqr1.cli import evaluate, score
from vqr1.cli.compose import compose_config, plain_values
from vqr1.cli.plan import load_train_config
from vqr1.cli.train import check_link, main
from vqr1.distributed.environment import RankInfo
from vqr1.errors import ConfigError
from vqr1.evaluation.metrics import HEADLINE
from vqr1.policy.packaged import tiny_policy_folder
from vqr1.rewards.build import build_rewards
from vqr1.sweeps.chain import run_chain
from vqr1.sweeps.chain_plan import links_of, write_chain
from vqr1.training.checkpoint_files import read_checkpoint, step_name
from vqr1.training.checks import check_training
from vqr1.training.run_record import RunRecord, read_record, write_record
from vqr1.training.stages import build_stage

SMALL = (
    "dataset.max_images=8", "loader.batch_size=4", "loader.workers=0", "grpo.group_size=2",
    "validation.samples=1", "validation.max_images=4", "validation.every_steps=2",
    "validation.bootstrap_draws=20", "rollout.sampling.max_new_tokens=24", "hardware.threads=1",
    "callbacks.progress=false", "logger=none",
)  # fmt: skip


def problems(*overrides: str) -> list[str]:
    config = train_config(*overrides)
    with pytest.raises(ConfigError) as refused:
        check_training(config, build_rewards(config.reward))
    return refused.value.problems


@pytest.mark.parametrize(
    ("overrides", "printed"),
    [
        ("stage=sft prompt=thinking", "stage.target=answer, answer: this form asks for more"),
        ("stage=sft prompt=thinking stage.target=soft_levels", "it needs five words with evenly"),
        (
            "stage=sft prompt=levels stage.target=soft_levels stage.answers=a.jsonl",
            "stage.target=soft_levels, stage.answers=a.jsonl: soft labels come from",
        ),
        ("stage=sft prompt=levels stage.edge=middle", "stage.edge"),
        ("stage=sft prompt=non_thinking stage.decimals=3", "stage.decimals=3"),
        (
            "stage=sft prompt=levels stage.target=soft_levels hardware=cpu_2procs "
            "loader.batch_size=1",
            "stage.target=soft_levels, 2 processes, loader.batch_size=1: the fidelity compares",
        ),
        (
            "stage=distill target=self_vote model.path=teacher",
            "target=self_vote, stage=distill: votes are rewards of stage=grpo",
        ),
        (
            "stage=distill callbacks.checkpoint.monitor=val/srcc_greedy model.path=teacher",
            "stage=distill, callbacks.checkpoint.monitor=val/srcc_greedy: a student samples",
        ),
        (
            "stage=sft prompt=non_thinking target=pairs",
            "target=pairs, stage.target=answer: stated pairs are no labels",
        ),
        ("stage=grpo +stage.target=answer", "stage.target"),
        ("validation.mode=levels", "validation.mode=levels, answer: this form has no words"),
        (
            "prompt=levels validation.mode=levels rollout=vllm_server",
            "validation.mode=levels, rollout.engine=vllm_server: the words' logits",
        ),
        (
            "prompt=levels validation.mode=levels callbacks.checkpoint.monitor=val/srcc_greedy",
            "with validation.mode=levels the greedy metrics",
        ),
    ],
)
def test_what_a_stage_refuses(overrides: str, printed: str) -> None:
    (line,) = problems(*overrides.split())
    assert printed in line


OWN = """
from vqr1.training.stages import Stage

class Echo(Stage):
    def __init__(self, times):
        self.times = times

    def build(self, parts):
        raise NotImplementedError

    def problems(self, config, rewards):
        return [] if self.times > 1 else [f"stage.times={self.times}: must be above 1"]
"""


def test_a_stage_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_stage.py").write_text(OWN)
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage/echo.yaml").write_text("_target_: own_stage.Echo\ntimes: 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = (f"hydra.searchpath=[file://{tmp_path}]", "stage=echo")
    config = train_config(*own)
    stage = build_stage(config.stage)
    assert (type(stage).__name__, stage.updates_per_batch(config)) == ("Echo", 1)
    check_training(config, build_rewards(config.reward))
    assert problems(*own, "stage.times=1") == ["stage.times=1: must be above 1"]
    (line,) = problems(*own, "+stage.loud=true")
    assert "stage: own_stage.Echo: got an unexpected keyword argument 'loud'" in line
    (line,) = problems("stage._target_=vqr1.iqa.answers.FreeText")
    assert line.endswith("it is no subclass of vqr1.training.stages.Stage")


def test_a_supervised_stage_needs_nothing_of_the_ranking_one() -> None:
    # A batch of one image, and greedy validation alone.
    config = train_config(
        "stage=sft", "prompt=non_thinking", "loader.batch_size=1", "rollout.sampling.temperature=0"
    )
    check_training(config, build_rewards(config.reward))


@pytest.mark.slow
def test_a_run_that_starts_from_another(run: Command, tmp_path: Path) -> None:  # noqa: F811
    first, second = tmp_path / "first", tmp_path / "second"
    outcome = run(
        main, "stage=sft", "prompt=levels", "validation.mode=levels", *SMALL, "max_steps=2",
        "stage.target=soft_levels", "run_dir=first", "model.max_pixels=6272",
        "model.min_pixels=3136",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    summary = json.loads((first / "summary.json").read_text())
    assert summary["test_unscored_after"] == 0  # one pass scores every image
    assert summary[f"test_{HEADLINE}_before"] is not None
    # The Python metric scores by the run's export.
    metric = vqr1.create_metric("tiny", str(first / "export"), mode="levels", prompt="levels")
    assert torch.isfinite(metric(torch.rand(3, 64, 64))).all()
    outcome = run(
        main, "init_from=first", *SMALL, "max_steps=1", "validation.test=false", "run_dir=second"
    )
    assert outcome.code == 0, outcome.err
    config = OmegaConf.load(second / "config.yaml")
    assert config.model.path == str(first / "export")
    assert (config.prompt.name, config.model.max_pixels) == ("levels", 6272)
    assert config.answer.stem == "The quality of the image is"
    assert config.init_from == "first"
    # The second run starts from what the first has exported.
    began = read_checkpoint(second / "checkpoints" / step_name("step", 0))["state_dict"]
    exported = load_file(first / "export/model.safetensors")
    name = "layers.0.mlp.up_proj.weight"
    (key,) = [key for key in began if key.endswith(f"language_model.{name}")]
    assert torch.equal(began[key], exported[f"model.{name}"])
    _refused_starts(run, first)


def _refused_starts(run: Command, folder: Path) -> None:  # noqa: F811
    def refused(*arguments: str) -> str:
        outcome = run(main, *SMALL, "run_dir=refused", *arguments)
        assert outcome.code == 2, outcome
        assert outcome.err.count("\n") == 1, outcome.err
        return outcome.err

    line = refused("init_from=nowhere")
    assert "init_from=nowhere: no run directory (run.json is missing)" in line
    both = refused(f"init_from={folder}", "model.path=x")
    assert "two places to start from; give one of them" in both
    family = refused(f"init_from={folder}", "model=smolvlm_256m")
    assert "the checkpoint is a qwen2_5_vl, and the values of smolvlm" in family
    outcome = run(
        main, *SMALL, "run_dir=other_form", f"model.path={tiny_policy_folder()}", "stage=distill",
        "stage.samples=1", "answer=json",
    )  # fmt: skip
    assert outcome.code == 2
    last = outcome.err.splitlines()[-1]
    assert "answers state a score of 0 of 8 training images in this answer form" in last
    record = read_record(folder)
    assert record is not None
    (folder / "export").rename(folder / "elsewhere")
    assert "export holds no checkpoint any more" in refused(f"init_from={folder}")
    write_record(folder, replace(record, finished=False))
    line = refused(f"init_from={folder}")
    assert "this run has not finished; finish it first with " in line
    assert f"resume={folder}" in line
    rows = "image,mos\n" + "".join(f"{n}.png,{n % 5 + 1}\n" for n in range(12))
    (folder / "labels.csv").write_text(rows)
    for n in range(12):
        Image.new("RGB", (64, 64), (20 * n, 90, 7 * n)).save(folder / f"{n}.png")
    line = refused(
        "method=deqa", "dataset=csv", f"dataset.root={folder}", "dataset.max_images=null",
        "dataset.split.near_duplicates=ignore", "validation.test=false",
    )  # fmt: skip
    assert "have no std, and stage.target=soft_levels needs it" in line


def test_the_links_of_a_chain() -> None:
    links = links_of(
        ["seed=3", "chain=[sft,'grpo seed=4 prompt=thinking']", "model.path=x", "run_dir=r"]
    )
    assert [link.name for link in links] == ["1_sft", "2_grpo"]
    assert links[0].overrides == ("seed=3", "model.path=x", "stage=sft")
    # The second starts from the first, with a seed of its own.
    assert links[1].overrides == ("stage=grpo", "seed=4", "prompt=thinking")
    for bad in (
        ["chain=sft"], ["chain=[]"], ["chain=[seed=1]"], ["chain=['sft run_dir=x']"],
        ["chain=[sft]", "chain=[grpo]"], ["chain=['sft a=\"b']"],
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="chain"):
            links_of(bad)


def test_a_folder_with_another_chain(tmp_path: Path) -> None:
    arguments = ["chain=[sft,grpo]", "seed=1"]
    write_chain(tmp_path, arguments)
    write_chain(tmp_path, [*arguments, "max_steps=1"])  # nothing has begun
    (tmp_path / "1_sft").mkdir()
    record: Any = {"started": "", "working_directory": "", "overrides": [], "config": {}}
    (tmp_path / "1_sft/run.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="holds the chain of another command"):
        write_chain(tmp_path, arguments)


def test_the_first_of_a_chain_is_checked_with_the_run_that_it_starts_from(tmp_path: Path) -> None:
    recorded = plain_values(compose_config("train", ["prompt=non_thinking", "run_dir=r"]))
    first = tmp_path / "1_sft"
    write_record(first, RunRecord("", "", (), recorded, finished=True))
    (first / "export").mkdir()
    (first / "export/config.json").write_text("{}")
    # The default prompt would be refused, see above.
    values = check_link(["stage=sft", f"init_from={first}", "run_dir=r"], None)
    assert values["prompt"]["name"] == "non_thinking"
    # A method's own prompt replaces it, where it has one.
    for method, prompt in (("rali", "non_thinking"), ("visualquality_r1", "thinking")):
        values = check_link([f"method={method}", f"init_from={first}", "run_dir=r"], None)
        assert values["prompt"]["name"] == prompt
        assert (values["answer"].get("reasoning") == "think") == (prompt == "thinking")
    # A run's adapters are in its exported weights: a stage that trains the model takes their
    # settings, one that learns from it none, unless the command gives some.
    recorded["model"]["lora"] = {"rank": 4}
    write_record(first, RunRecord("", "", (), recorded, finished=True))
    begun = [f"init_from={first}", "prompt=non_thinking", "run_dir=r"]
    assert check_link(["stage=sft", *begun], None)["model"]["lora"]["rank"] == 4
    assert check_link(["stage=distill", *begun], None)["model"]["lora"] is None
    with pytest.raises(ConfigError, match=r"model\.lora: a teacher learns nothing"):
        check_link(["stage=distill", "model.lora={rank: 2}", *begun], None)
    for beside in (tmp_path, first / "export"):  # a chain's folder, and weights without their run
        with pytest.raises(ConfigError, match=f"not the folder of a run; give one, as {first}"):
            check_link(["stage=sft", f"init_from={beside}", "run_dir=r"], None)


def test_a_plan_is_of_one_training() -> None:
    with pytest.raises(ConfigError, match=r"chain=\['sft', 'grpo'\]: a plan is of one training"):
        load_train_config(["chain=[sft,grpo]"])


def refused_chain(*arguments: str) -> str:
    def check(overrides: list[str], before: dict[str, Any] | None) -> dict[str, Any]:
        raise ConfigError(["composed"])

    with pytest.raises(ConfigError) as error:
        run_chain(RankInfo(), ["chain=[sft]", *arguments], (), check)
    return str(error.value)


def test_what_a_chain_does_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused_chain("hydra.run.dir=a")
    assert line == "hydra.run.dir=a: the folder of a chain is given with run_dir=a"
    assert refused_chain("--cfg", "job").startswith("chain, --cfg: a chain takes no options")
    # Without a folder of its own it takes a new one, as a training does.
    made: list[str] = []

    def check(overrides: list[str], before: dict[str, Any] | None) -> dict[str, Any]:
        made.extend(overrides)
        raise ConfigError(["composed"])

    with pytest.raises(ConfigError, match="composed"):
        run_chain(RankInfo(), ["chain=[sft]", "run_dir=null", "hydra.searchpath=[own]"], (), check)
    assert f"hydra.searchpath=[{tmp_path}/own]" in made
    assert made[-1].startswith(f"run_dir={tmp_path}/outputs/train/")


@pytest.mark.medium
def test_a_chain_is_checked_before_it_begins(run: Command) -> None:  # noqa: F811
    for links, printed in (
        ("distill,grpo", "1_distill: stage=distill: there is no teacher to learn from"),
        ("sft,distill,grpo", "3_grpo: the training before it gives a student"),
    ):
        outcome = run(main, f"chain=[{links}]", "prompt=non_thinking", "run_dir=c")
        assert (outcome.code, Path("c").exists()) == (2, False)
        assert f"chain, {printed}" in outcome.err
    # The second would rank by a form that the first one's prompt does not have.
    outcome = run(
        main, "chain=[sft,'grpo validation.mode=levels']", "prompt=non_thinking", "run_dir=c"
    )
    assert outcome.code == 2
    assert outcome.err.startswith("error: chain, 2_grpo: validation.mode=levels, answer:")
    assert not Path("c").exists()


@pytest.mark.medium
def test_a_link_that_fails_stops_the_chain(
    run: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Each link is a program that notes its arguments; the first fails once.
    program = (
        "import json, sys, pathlib\n"
        "p = pathlib.Path('calls'); p.write_text(p.read_text() + ' '.join(sys.argv[1:]) + '\\n')\n"
        "given = dict(a.split('=', 1) for a in sys.argv[1:])\n"
        "folder = pathlib.Path(given.get('resume', given.get('run_dir')).strip(\"'\"))\n"
        "folder.mkdir(parents=True, exist_ok=True)\n"
        "done = len(p.read_text().splitlines()) > 1\n"
        "record = {'started': '', 'working_directory': '', 'overrides': [], 'config': {}}\n"
        "(folder / 'run.json').write_text(json.dumps({**record, 'finished': done}))\n"
        "sys.exit(0 if done else 74)\n"
    )
    (tmp_path / "calls").write_text("")
    command = (sys.executable, "-c", program)
    monkeypatch.setattr("vqr1.cli.train.COMMAND", command)
    arguments = ("chain=[sft,grpo,distill]", "prompt=non_thinking", "run_dir=c")
    failed = run(main, *arguments)
    folder = tmp_path / "c"
    assert failed.code == 74
    assert "chain: 1_sft failed (exit code 74); the trainings after it have not begun" in failed.err
    assert f"resume={folder}" in failed.err
    more = run(main, f"resume={folder}", "seed=5")
    assert (more.code, more.err.count("\n")) == (2, 1)
    assert "seed=5: a chain continues as it was started" in more.err
    done = run(main, f"resume={folder}")
    assert done.code == 0, done.err
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == [
        "prompt=non_thinking", f"resume={folder}/1_sft", "prompt=non_thinking",
        "prompt=non_thinking",
    ]  # fmt: skip
    assert f"init_from={folder}/1_sft" in calls[2]
    assert f"init_from={folder}/2_grpo" in calls[3]
    again = run(main, *arguments)
    assert (again.code, again.out.count("has finished already")) == (0, 3)


@pytest.mark.slow
def test_scores_of_words_by_the_commands(run: Command, tmp_path: Path) -> None:  # noqa: F811
    noise = (torch.rand(48, 64, 3, generator=torch.Generator().manual_seed(0)) * 255).byte()
    Image.fromarray(noise.numpy()).save("a.png")
    asked = ("prompt=levels", "mode=levels")
    outcome = run(score.main, "a.png", *asked, "format=jsonl")
    assert outcome.code == 0, outcome.err
    assert "stop=" not in outcome.err + outcome.out  # nothing is written that could end
    row = json.loads(outcome.out)
    metric = vqr1.create_metric("tiny", mode="levels", prompt="levels")
    assert row["score"] == pytest.approx(float(metric("a.png")), abs=1e-5)
    assert (1 <= row["score"] <= 5, row["std"] > 0, 0 < row["lost"] < 1) == (True, True, True)
    assert (row["valid"], row["text"]) == (True, None)
    outcome = run(
        evaluate.main, *asked, "dataset.max_images=8", "logger=none", "report.plots=false",
        "loader.workers=0", "run_dir=scored",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "expectation over words of levels" in (tmp_path / "scored/report.md").read_text()
    for wrong, printed in (
        (("mode=levels",), "mode=levels, answer: this form has no words of levels"),
        ((*asked, "answer.reasoning=think"), "one pass writes no reasoning"),
        (
            (*asked, "backend=openai", "backend.url=http://127.0.0.1:1/v1"),
            "mode=levels, backend=openai: the words' logits are read from a model in this process",
        ),
    ):
        outcome = run(score.main, "a.png", *wrong)
        assert outcome.code == 2
        assert printed in outcome.err
    with pytest.raises(ConfigError, match="mode=levels, answer: this form has no words"):
        vqr1.create_metric("tiny", mode="levels")
