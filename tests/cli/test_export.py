"""An export loads in other releases of transformers, carries a card, and contacts nobody."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration

from tests.cli.conftest import Command
from tests.support.images import noise_image
from vqr1.cli.compose import compose_config, plain_values
from vqr1.cli.export import _run_directory, main
from vqr1.config import ModelConfig, validate
from vqr1.evaluation.model_source import ExportedRun
from vqr1.policy.export import export_checkpoint, written_aside
from vqr1.policy.loading import Policy, load_policy
from vqr1.policy.packaged import tiny_policy_folder
from vqr1.policy.training_prompt import trained_vision_id
from vqr1.training.checkpoint_files import step_name
from vqr1.training.checkpoint_files import write_checkpoint as write_training_checkpoint
from vqr1.training.model_card import write_model_card

pytestmark = pytest.mark.medium

OTHERS = {
    "4.49": ("transformers==4.49.0", "tokenizers==0.21.4", "huggingface_hub==0.36.0"),
    "4.57": ("transformers==4.57.6", "tokenizers==0.22.2", "huggingface_hub==0.36.0"),
}
"""Wheels of the releases that exports promise to load in; they share the installed PyTorch."""

PUBLISHED_USE = Path(__file__).resolve().parents[1] / "policy" / "published_use.py"

METRICS = {
    "test_srcc_before": 0.25, "test_srcc_after": 0.675, "test_plcc_before": 0.3,
    "test_plcc_after": 0.7, "test_srcc_gain_interval": [0.35, 0.5], "val_srcc_best": 0.71,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, Path]:
    """A policy with adapters that change its answers, and the run directory that it left."""
    run_dir = tmp_path_factory.mktemp("runs") / "adapters"
    composed = compose_config(
        "train",
        ["+model.lora.rank=4", "+model.lora.alpha=16", "seed=3", f"run_dir={run_dir}",
         "dataset.root=/secret/place", "dataset=kadid"],
    )  # fmt: skip
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(composed, resolve=True))
    (run_dir / "summary.json").write_text(json.dumps(METRICS))
    policy = load_policy(validate(ModelConfig, plain_values(composed)["model"]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    state = {f"model.{name}": value for name, value in policy.model.state_dict().items()}
    write_training_checkpoint(
        {"state_dict": state, "global_step": 7}, run_dir / "checkpoints" / step_name("best", 7)
    )
    return policy, run_dir


@pytest.fixture(scope="module")
def exported(trained: tuple[Policy, Path]) -> Path:
    """The run's own export, as training leaves it at its end."""
    policy, run_dir = trained
    folder = export_checkpoint(policy, run_dir / "export")
    write_model_card(folder, run_dir)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for seed, size in enumerate([(160, 120), (90, 200), (130, 130)]):
        paths.append(str(folder / f"{seed}.png"))
        noise_image(seed, *size).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def expected_logits(trained: tuple[Policy, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of three images and the logits of the policy with its adapters unmerged."""
    policy, _ = trained
    processor = policy.processor
    processor.tokenizer.padding_side = "left"
    inputs = processor(
        text=[f"{'word ' * n}<|vision_start|><|image_pad|><|vision_end|>How good?" for n in (0, 3)],
        images=[noise_image(8, 160, 120), noise_image(9, 56, 224)],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        logits = policy.model(**inputs).logits
    file = tmp_path_factory.mktemp("logits") / "expected.safetensors"
    # Logits at padding are of no use to anybody and differ between releases.
    save_file({**inputs, "logits": logits[:, -12:].contiguous()}, file)
    return file


def use(exported: Path, expected: Path, images: list[str], site: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONPATH": str(site),
    }
    return subprocess.Popen(
        [sys.executable, PUBLISHED_USE, exported, expected, *images],
        env=environment, cwd=exported.parent, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_other_releases_compute_the_same(
    exported: Path, expected_logits: Path, images: list[str], tmp_path: Path
) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
           "--no-deps", "--no-compile"]  # fmt: skip
    installs = {
        version: subprocess.Popen(
            [*pip, "--target", tmp_path / version, *wheels], stderr=subprocess.PIPE, text=True
        )
        for version, wheels in OTHERS.items()
    }
    for install in installs.values():
        printed = install.communicate(timeout=1800)[1]
        if install.returncode != 0:
            pytest.skip(f"pip could not install another transformers: {printed.strip()[-200:]}")
    uses = {
        version: use(exported, expected_logits, images, tmp_path / version) for version in OTHERS
    }
    for version, process in uses.items():
        out, err = process.communicate(timeout=1800)
        assert process.returncode == 0, f"{version}: {err[-3000:]}"
        check_use(json.loads(out.splitlines()[-1]), version)


def test_the_current_release_computes_the_same(
    exported: Path,
    expected_logits: Path,
    images: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["published_use.py", str(exported), str(expected_logits), *images]
    )
    runpy.run_path(str(PUBLISHED_USE), run_name="__main__")
    check_use(json.loads(capsys.readouterr().out.splitlines()[-1]), "5.")


def check_use(result: dict[str, Any], version: str) -> None:
    assert result["version"].startswith(version)
    assert result["difference"] < 1e-4, version
    assert len(result["single"]) == len(result["card"]) == 1
    assert len(result["batch"]) == len(result["batch_non_thinking"]) == 3
    texts = [*result["single"], *result["batch"], *result["batch_non_thinking"], *result["card"]]
    assert all(text.strip() for text in texts)


def test_script_copies_the_runs_own_export(run: Command, trained: Any, exported: Path) -> None:
    outcome = run(main, f"run={trained[1]}", "output=out", "title=evaluate", "license=mit")
    assert (outcome.code, outcome.out.splitlines()[-1]) == (0, "out")
    assert {file.name for file in Path("out").iterdir()} == {
        "README.md", *(file.name for file in tiny_policy_folder().iterdir())
    }  # fmt: skip
    for file in exported.iterdir():
        if file.name != "README.md":
            assert (Path("out") / file.name).read_bytes() == file.read_bytes()
    card = ModelCard.load("out/README.md")
    assert (card.data.license, card.data.model_name) == ("mit", "evaluate")
    # A second export does not write over the first.
    again = run(main, f"run={trained[1]}", "output=out")
    assert (again.code, again.err) == (
        2, "error: output=out: exists already; choose another place\n"
    )  # fmt: skip


def test_weights_of_a_checkpoint_are_merged(run: Command, trained: Any, exported: Path) -> None:
    policy, run_dir = trained
    outcome = run(main, f"run={run_dir}", "checkpoint=best", "output=out")
    assert outcome.code == 0, outcome.err
    ours, runs = load_file("out/model.safetensors"), load_file(exported / "model.safetensors")
    assert ours.keys() == runs.keys()
    base = load_file(tiny_policy_folder() / "model.safetensors")
    assert ours.keys() == base.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, runs[name])
    # W + (alpha / r) B A, r = 4, alpha = 16
    layer = policy.model.base_model.model.model.language_model.layers[1].mlp.up_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    merged = ours["model.layers.1.mlp.up_proj.weight"]
    torch.testing.assert_close(
        merged, base["model.layers.1.mlp.up_proj.weight"].float() + 4.0 * (b @ a).detach()
    )
    Qwen2_5_VLForConditionalGeneration.from_pretrained("out")


def test_a_checkpoint_of_four_bits_is_exported_without_a_gpu(
    run: Command, trained: Any, exported: Path, tmp_path: Path
) -> None:
    config = yaml.safe_load((trained[1] / "config.yaml").read_text())
    config["model"] |= {"quantization": "nf4", "dtype": "bfloat16"}
    run_dir = tmp_path / "nf4"
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    state = {f"model.{name}": value for name, value in trained[0].model.state_dict().items()}
    layer = "model.base_model.model.model.language_model.layers.1.mlp.up_proj.base_layer.weight"
    state[layer] = torch.zeros(state[layer].numel() // 2, 1, dtype=torch.uint8)
    state[f"{layer}.absmax"] = torch.zeros(9, dtype=torch.uint8)
    write_training_checkpoint(
        {"state_dict": state, "global_step": 7}, run_dir / "checkpoints" / step_name("step", 7)
    )
    outcome = run(main, f"run={run_dir}", "checkpoint=last", "output=out")
    assert outcome.code == 0, outcome.err
    ours, full = load_file("out/model.safetensors"), load_file(exported / "model.safetensors")
    assert ours.keys() == full.keys()
    for name, value in ours.items():
        # Of the base model's precision, whatever `model.dtype` is.
        assert value.dtype != torch.bfloat16
        torch.testing.assert_close(value.float(), full[name], rtol=1e-3, atol=1e-4)


def test_card_states_what_it_was_trained_on(exported: Path) -> None:
    text = (exported / "README.md").read_text()
    card = ModelCard(text)
    (result, *others) = card.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == (
        "kadid, test", "srcc", 0.675,
    )  # fmt: skip
    # Test and validation are two entries of the metadata: never one metric under the other's name.
    assert [(r.dataset_name, r.dataset_split) for r in others] == [
        ("kadid, test", "test"), ("kadid, validation", "validation"),
    ]  # fmt: skip
    assert [(r.metric_type, r.metric_value) for r in others] == [("plcc", 0.7), ("srcc", 0.71)]
    assert "| SRCC | kadid, test | 0.250 | 0.675 | [+0.350, +0.500] | not recorded |" in text
    assert "| training sets | kadid |" in text
    assert card.data.license == "apache-2.0"
    # The checkpoint's own generation config may hold a penalty.
    assert "do_sample=False, repetition_penalty=1.0" in text
    # Where the training ran stays with the machine.
    assert "/secret" not in text
    assert str(exported.parents[1]) not in text
    config = yaml.safe_load(text.rsplit("```yaml\n", 1)[1].split("```")[0])
    assert config["seed"] == 3
    assert config["dataset"]["root"] == "(a place on the machine of the training)"
    assert "logger" not in config


@pytest.mark.parametrize("recorded", ["absent", None, False, True])
def test_card_and_folder_state_how_the_training_asked(
    trained: tuple[Policy, Path], tmp_path: Path, recorded: bool | str | None
) -> None:
    config = yaml.safe_load((trained[1] / "config.yaml").read_text())
    if recorded == "absent":
        del config["prompt"]["vision_id"]
    else:
        config["prompt"]["vision_id"] = recorded
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(tiny_policy_folder() / "config.json", tmp_path)
    write_model_card(tmp_path, tmp_path)
    # Runs of before the key had it, and null is as the tiny policy's folder records: without.
    expected = recorded in ("absent", True)
    found = ModelConfig(name="x", path=str(tmp_path), min_pixels=1, max_pixels=1)
    assert trained_vision_id(found) is expected
    text = (tmp_path / "README.md").read_text()
    assert f"add_generation_prompt=True, add_vision_id={expected}" in text
    assert ('| prompt | thinking, "Picture 1: " before the image |' in text) is expected
    assert ("transformers 4.49 ignores `add_vision_id`" in text) is expected


@pytest.mark.parametrize("asked", ["absent", [0, 100], "prompt"])
def test_card_states_the_scale_that_the_training_asked_for(
    trained: tuple[Policy, Path], tmp_path: Path, asked: str | list[int]
) -> None:
    config = yaml.safe_load((trained[1] / "config.yaml").read_text())
    if asked == "absent":
        # Records of before there was such a key, and of before the group `answer`.
        del config["answer"]
    elif asked == "prompt":
        del config["answer"]
        config["prompt"] |= {"answer_format": "think_answer", "score_range": [0, 100]}
    else:
        config["answer"]["score_range"] = asked
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(tiny_policy_folder() / "config.json", tmp_path)
    write_model_card(tmp_path, tmp_path)
    low, high = (1, 5) if asked == "absent" else (0, 100)
    text = (tmp_path / "README.md").read_text()
    assert f"as a number from {low} (very poor) to {high} (excellent)" in text


def test_nobody_is_contacted_without_push(
    run: Command, trained: Any, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for arguments in ([], ["checkpoint=best"]):
        place = f"output=out{len(arguments)}"
        assert run(main, f"run={trained[1]}", place, *arguments).code == 0


def test_push_uploads_the_folder(
    run: Command, trained: Any, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline = run(main, f"run={trained[1]}", "output=kept", "push=me/scorer")
    assert offline.code == 2
    assert offline.err.startswith("error: push=me/scorer: the hub did not take it (")
    assert Path("kept/model.safetensors").is_file()

    calls: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(HfApi, "create_repo", lambda _, name, **given: calls.append((name, given)))

    def upload(_: HfApi, *, repo_id: str, folder_path: Path) -> str:
        calls.append((repo_id, {"files": sorted(file.name for file in folder_path.iterdir())}))
        return "https://hub.invalid/me/scorer"

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    outcome = run(main, f"run={trained[1]}", "output=out", "push=me/scorer")
    assert outcome.out.splitlines() == ["https://hub.invalid/me/scorer", "out"]
    assert calls[0] == ("me/scorer", {"private": True, "exist_ok": True})
    assert calls[1][0] == "me/scorer"
    assert {"README.md", "config.json", "model.safetensors"} <= set(calls[1][1]["files"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "error: run: missing; give a run directory, an MLflow run id, or best"),
        (["run=empty"], "empty: no config.yaml, so this is not the directory of a run"),
        (["run=0123"], "error: run=0123: no MLflow database sqlite:///"),
        (["run={run_dir}", "checkpoint=last"], "error: checkpoint=last: there is no "),
        (["run={run_dir}", "push=my--model/name"], "error: push=my--model/name: no name of a rep"),
        (["run={run_dir}", "push=nobody"], "error: push='nobody': "),
        (["run=stopped"], "exported nothing at its end; export one of its checkpoints with "
         "checkpoint=best"),
        (["run=stopped", "checkpoint=best"], "best_00000003.ckpt: not a checkpoint of the "),
        (["run=undecided", "checkpoint=best"], "no validation has chosen one yet: give "
         "checkpoint=last"),
        (["run=bare"], "config.yaml: the key 'model' is missing; it is not the configuration"),
    ],
)  # fmt: skip
def test_mistakes(run: Command, trained: Any, arguments: list[str], words: str) -> None:
    run_dir = trained[1]
    Path("empty").mkdir()
    (Path("stopped") / "checkpoints").mkdir(parents=True)
    Path("stopped/config.yaml").write_bytes((run_dir / "config.yaml").read_bytes())
    (Path("undecided") / "checkpoints").mkdir(parents=True)
    Path("undecided/config.yaml").write_bytes((run_dir / "config.yaml").read_bytes())
    Path("undecided/checkpoints/step_00000003.ckpt").write_bytes(b"a state")
    (Path("bare") / "export").mkdir(parents=True)
    Path("bare/config.yaml").write_text("seed: 1\n")
    Path("stopped/checkpoints/best_00000003.ckpt").write_bytes(b"not a checkpoint")
    Path("stopped/checkpoints/predictions_00000003.ckpt").write_bytes(b"answers")
    given = (argument.format(run_dir=run_dir) for argument in arguments)
    outcome = run(main, *given, "output=made/out")
    assert outcome.code == 2
    assert words in outcome.err
    assert "Traceback" not in outcome.err
    # Nothing half written stays, which the corrected command would refuse to replace.
    assert list(Path().glob("made/*")) == []


def test_only_its_own_leftovers_go(tmp_path: Path) -> None:
    for name in (".cache-of-mine", ".cache.vqr1-partial-killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    with written_aside(tmp_path / "cache") as folder:
        (folder / "weights").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cache-of-mine", "cache"]


def test_best_is_no_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best").mkdir()
    found = ExportedRun(tmp_path / "run" / "export", "run", None, {})
    monkeypatch.setattr("vqr1.evaluation.model_source.exported_run", lambda *asked: found)
    config: Any = SimpleNamespace(run_metric="val/srcc", logger=None)
    assert _run_directory("best", config) == tmp_path / "run"
