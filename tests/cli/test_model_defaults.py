"""Values that belong to a model: which hold, what they depend on, and what is printed of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from vqr1.cli import mixtures
from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import EvalConfig, TrainConfig, config_dir, interpolations, read_choice, validate
from vqr1.config.model_defaults import lines_about, parameter_count, source_of
from vqr1.evaluation.model_source import ModelSource
from vqr1.evaluation.score_model import _as_trained
from vqr1.policy.packaged import tiny_policy_folder
from vqr1.rewards.build import build_rewards
from vqr1.training.checks import check_training
from vqr1.training.run_record import changed_keys

pytestmark = pytest.mark.medium

SMALLEST = {"hidden_size": 2048, "num_hidden_layers": 36, "intermediate_size": 11008,
            "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936,
            "tie_word_embeddings": True}  # fmt: skip
"""Sizes in `config.json` of Qwen2.5-VL-3B."""
LARGER = {"hidden_size": 5120, "num_hidden_layers": 64, "intermediate_size": 27648,
          "num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 152064,
          "tie_word_embeddings": False}  # fmt: skip
"""The same of Qwen2.5-VL-32B."""


def composed(*overrides: str, command: str = "train") -> DictConfig:
    return compose_config(command, [*overrides, "run_dir=run"])


def taken(*overrides: str) -> tuple[Any, ...]:
    """Learning rate, response length, type and largest image area of a training."""
    config = validate(TrainConfig, plain_values(composed(*overrides)))
    anywhere = replace(
        config.hardware, accelerator="cpu", attention="sdpa", strategy="auto", offload=False,
        precision="32-true",
    )  # fmt: skip
    check_training(replace(config, hardware=anywhere), build_rewards(config.reward))
    return (
        config.optimizer.lr,
        config.rollout.sampling.max_new_tokens,
        config.model.dtype,
        config.model.max_pixels,
    )


def answered(*overrides: str, command: str = "eval") -> tuple[Any, ...]:
    """Answer length, type and largest image area of an evaluation, or of another command."""
    config = compose_config(command, [*overrides, *(["run_dir=x"] if command == "eval" else [])])
    values = plain_values(config)
    model = values["model"]
    return values["mode"]["sampling"]["max_new_tokens"], model["dtype"], model["max_pixels"]


TINY = (2e-4, 48, "float32", 12544)
FULL = (1e-6, 256, "float32", 1003520)
ADAPTERS = (1e-5, 256, "bfloat16", 1003520)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        # As before there were defaults of the model: `make train` computes the same.
        ("", TINY),
        ("hardware=cpu_2procs", TINY),
        # As docs/launching.md, docs/rollout_engines.md and README.md show them.
        ("hardware=8gpu_fsdp2 model=qwen2_5_vl_7b", FULL),
        ("rollout=vllm_colocated model=qwen2_5_vl_7b hardware=1gpu_lora", ADAPTERS),
        ("rollout=vllm_server model=qwen2_5_vl_7b hardware=1gpu", FULL),
        ("model=qwen2_5_vl_3b", FULL),
        # The released weights are bfloat16; training changes them in float32.
        ("model=visualquality_r1", FULL),
        ("model=qwen2_5_vl_3b model.lora={rank:8}", ADAPTERS),
        (
            "model=qwen2_5_vl_3b model.lora={rank:8} model.freeze_vision=tower",
            (1e-5, 256, "float32", 1003520),
        ),
        # An engine does not change how long the tiny policy's responses are.
        ("rollout=vllm_server", TINY),
        # What is set wins: by the command line, a chosen file, an experiment.
        ("model=qwen2_5_vl_7b optimizer.lr=3e-6", (3e-6, 256, "float32", 1003520)),
        ("optimizer=paper rollout=paper", (1e-6, 256, "float32", 12544)),
        ("experiment=paper_kadid", FULL),
        ("experiment=paper_kadid model=tiny", (1e-6, 256, "float32", 12544)),
        ("model=qwen2_5_vl_7b model.max_pixels=12845056", (1e-6, 256, "float32", 12845056)),
        ("model.recommended.lr=1e-3", (1e-3, 48, "float32", 12544)),
        # A checkpoint of another size than the chosen file's, by its hub name.
        ("model.path=Qwen/Qwen2.5-VL-7B-Instruct", FULL),
        ("model.path=someone/Qwen2.5-VL-32B-Instruct", FULL),
        ("model=qwen2_5_vl_7b model.path=null", TINY),
    ],
)
def test_a_training_takes_the_values_of_its_model(command: str, expected: tuple[Any, ...]) -> None:
    assert taken(*command.split()) == expected


@pytest.mark.parametrize("command", ["eval", "score", "serve"])
def test_weights_that_are_not_trained(command: str) -> None:
    assert answered(command=command) == (256, "float32", 12544)
    for model in ("qwen2_5_vl_3b", "qwen2_5_vl_7b", "visualquality_r1"):
        assert answered(f"model={model}", command=command) == (256, "bfloat16", 1003520)
        assert answered(f"model={model}", "mode=greedy", command=command)[0] == 256


def checkpoint(folder: Path, sizes: dict[str, Any], *, nested: bool = False) -> Path:
    folder.mkdir()
    config = {"model_type": "qwen2_5_vl", **({"text_config": sizes} if nested else sizes)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("nested", [False, True])
def test_a_folder_of_another_size_takes_the_values_of_the_nearest(
    tmp_path: Path, nested: bool
) -> None:
    path = checkpoint(tmp_path / "small", SMALLEST, nested=nested)
    assert taken(f"model.path={path}") == FULL
    # Embeddings 151936 x 2048 = 311.2 M, tied. A layer: 2 x 2048^2 (q, o) + 2 x 2048 x 256 (k, v:
    # 2 of 16 heads) + 3 x 2048 x 11008 = 8.39 + 1.05 + 67.63 = 77.07 M; 36 of them 2774.5 M.
    assert lines_about(composed(f"model.path={path}")) == [
        f"model.path={path}: a model of 3.09 B parameters takes the values of "
        "model=qwen2_5_vl_3b, the nearest size, not those of tiny",
        "from the model (qwen2_5_vl_3b): model.dtype=float32, model.max_pixels=1003520, "
        "model.min_pixels=3136, optimizer.lr=1e-06, rollout.sampling.max_new_tokens=256",
    ]
    # Its own size: only what was taken is printed, and by `score.py` nothing.
    own = composed("model=qwen2_5_vl_3b", f"model.path={path}", "optimizer.lr=1e-5")
    assert lines_about(own) == [
        "from the model (qwen2.5-vl-3b): model.dtype=float32, model.max_pixels=1003520, "
        "model.min_pixels=3136, rollout.sampling.max_new_tokens=256"
    ]
    assert lines_about(own, if_other=True) == []


def test_the_size_decides_whichever_file_was_chosen(tmp_path: Path) -> None:
    large = checkpoint(tmp_path / "large", LARGER)
    # 32 B is nearest to 7.6 B: log(32.8 / 7.6) is 1.5, log(32.8 / 3.1) is 2.4.
    assert taken(f"model.path={large}") == FULL
    assert lines_about(composed(f"model.path={large}"))[0].endswith(
        "takes the values of model=qwen2_5_vl_7b, the nearest size, not those of tiny"
    )
    tiny = tiny_policy_folder()
    assert taken(f"model.path={tiny}") == TINY
    assert lines_about(composed(f"model.path={tiny}"), if_other=True) == []
    assert taken("model=qwen2_5_vl_7b", f"model.path={tiny}") == TINY
    assert answered("model=visualquality_r1", f"model.path={tiny}") == (256, "float32", 12544)
    # Of two files of the same size the chosen one holds.
    same = dict(LARGER, hidden_size=3584, num_hidden_layers=28, intermediate_size=18944,
                num_attention_heads=28, num_key_value_heads=4)  # fmt: skip
    released = checkpoint(tmp_path / "released", same)
    assert (
        lines_about(composed("model=visualquality_r1", f"model.path={released}"), if_other=True)
        == []
    )


def test_a_size_that_cannot_be_found_is_printed(tmp_path: Path) -> None:
    unknown = composed("model=qwen2_5_vl_3b", "model.path=someone/fine-tuned")
    assert lines_about(unknown, if_other=True)[0] == (
        "model.path=someone/fine-tuned: of unknown size, takes the values of qwen2.5-vl-3b; choose "
        "the model=... that is nearest in size"
    )
    assert unknown.optimizer.lr == 1e-6
    empty = tmp_path / "7B"
    empty.mkdir()
    # A folder's name is no size; loading it names what is missing there.
    assert "of unknown size" in lines_about(composed(f"model.path={empty}"))[0]


def test_parameters_are_counted() -> None:
    config = json.loads((tiny_policy_folder() / "config.json").read_text())
    # Embeddings, not tied: 2 x 568 x 128 = 145,408. A layer: 2 x 128^2 (q, o) + 2 x 128 x 64 (k, v:
    # 2 of 4 heads) + 3 x 128 x 320 = 32,768 + 16,384 + 122,880 = 172,032; 4 of them 688,128.
    assert parameter_count(config) == 833_536
    assert parameter_count({**LARGER, "vocab_size": None}) is None
    # 32.8 B, as its makers count it without the vision tower.
    assert parameter_count(LARGER) == pytest.approx(32.76e9, rel=1e-3)


def test_every_packaged_model_has_its_values() -> None:
    for file in (config_dir() / "model").glob("*.yaml"):
        values = read_choice("model", file.stem, "model")
        assert values["max_pixels"] == values["recommended"]["max_pixels"]
        assert values["dtype"] == values["recommended"]["dtype_frozen"]


def test_a_hub_name_of_no_file_takes_the_chosen_files_family() -> None:
    own = read_choice("model", "qwen2_5_vl_3b", "model")
    asked = {**own, "path": "Qwen/Qwen2-VL-2B-Instruct"}
    assert source_of(asked).name == own["name"]
    # A size may be given in millions.
    small = read_choice("model", "smolvlm_256m", "model")
    small = {**small, "path": "HuggingFaceTB/SmolVLM-500M-Instruct"}
    assert source_of(small).name == "smolvlm_500m"


def test_a_checkpoint_in_place_of_the_files_own_takes_its_own_image_sizes() -> None:
    # `create_metric("visualquality-r1", model=FOLDER)`.
    path = str(tiny_policy_folder())
    values = read_choice("model", "visualquality-r1", "name", changes={"path": path})
    assert (values["path"], values["min_pixels"], values["max_pixels"]) == (path, 12544, 12544)
    mode = read_choice("mode", "sampled", "mode", model=values)
    assert mode["sampling"]["max_new_tokens"] == 256


def test_a_record_holds_numbers_and_a_run_from_before_resumes() -> None:
    values = plain_values(composed())
    assert values["optimizer"]["lr"] == 2e-4
    before = {**values, "model": {k: v for k, v in values["model"].items() if k != "recommended"}}
    assert changed_keys(before, values) == []
    # A run of 7B that was started at the tiny policy's rate does not change silently.
    large = plain_values(composed("model=qwen2_5_vl_7b"))
    begun = {**large, "optimizer": {**large["optimizer"], "lr": 2e-4}}
    assert changed_keys(begun, large) == ["optimizer.lr: 0.0002 -> 1e-06"]


@pytest.mark.parametrize(
    ("model", "interval"),
    [("tiny", "interval(2e-05, 0.001)"), ("qwen2_5_vl_7b", "interval(1e-07, 5e-06)")],
)
def test_a_search_looks_around_the_models_own_rate(model: str, interval: str) -> None:
    mixtures.register()
    interpolations.register()
    with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        found = compose(
            "train", ["experiment=search_lr", f"model={model}"], return_hydra_config=True
        )
    assert found.hydra.sweeper.params["optimizer.lr"] == f"tag(log, {interval})"


def test_an_evaluation_of_a_run_takes_the_values_of_its_checkpoint(tmp_path: Path) -> None:
    large = str(checkpoint(tmp_path / "export", LARGER))

    def evaluated(rollout_tokens: int | None, *overrides: str) -> tuple[str, int]:
        values = composed("model.run=abc", *overrides, command="eval")
        config = validate(EvalConfig, plain_values(values))
        config = replace(config, model=replace(config.model, path=large))
        source = ModelSource(config.model, "run abc", "abc", rollout_tokens=rollout_tokens)
        found = _as_trained(config, source, values)
        return found.model.dtype, found.mode.sampling.max_new_tokens

    # The file of conf/model is the tiny policy's, which is chosen where nothing is stated.
    assert evaluated(256) == ("bfloat16", 256)
    assert evaluated(48) == ("bfloat16", 256)
    # Trained with longer responses, it would be cut off in all of them.
    assert evaluated(1024) == ("bfloat16", 1024)
    assert evaluated(1024, "mode.sampling.max_new_tokens=64", "model.dtype=float32") == (
        "float32",
        64,
    )
