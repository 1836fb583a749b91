"""The registry of model families, and what every family has to declare."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import transformers

from tests.policy.families.cases import CASES
from vqr1.config import ModelConfig, read_choice, validate
from vqr1.config.model import RecommendedConfig
from vqr1.config.model_defaults import choices_for
from vqr1.errors import ModelError
from vqr1.planning.shape import read_shape
from vqr1.policy.checkpoint_config import load_family
from vqr1.policy.families import FAMILIES, family, folder_family, served_family
from vqr1.policy.families.base import Family
from vqr1.policy.loading import load_policy
from vqr1.policy.packaged import tiny_policy_folder

KNOWN = FAMILIES
CHOICES = ("qwen3_vl_2b", "smolvlm_256m")
"""Files of `conf/model` for different families."""


def test_every_module_is_a_family() -> None:
    """And the suite of this folder runs for each (`cases.py`)."""
    assert {case.model_type for case in CASES} == set(FAMILIES)


@pytest.mark.parametrize("name", KNOWN)
def test_a_family_names_a_class_of_transformers(name: str) -> None:
    found = family(name, "the model")
    assert isinstance(found, Family)
    loads = found.model_class()
    assert loads is getattr(transformers, found.architecture)
    assert loads.config_class.model_type == name


@pytest.mark.parametrize("name", KNOWN)
def test_splits_lie_in_the_model_and_hold_all_of_its_weights(name: str) -> None:
    found = family(name, "the model")
    with torch.device("meta"):
        model = found.model_class()(found.shape_config(found.shapes[0]))
    parts = found.parts(model)
    text = [*parts.embeddings.parameters(), *parts.text.parameters(), *parts.head.parameters()]
    held = {id(weight) for weight in (*text, *parts.vision.parameters())}
    assert held == {id(weight) for weight in model.parameters()}
    modules = set(model.modules())
    assert {*parts.text_layers, *parts.vision_layers, parts.head, parts.embeddings} <= modules


@pytest.mark.parametrize("name", KNOWN)
def test_adapters_sit_in_the_text_model_only(name: str) -> None:
    found = family(name, "the model")
    with torch.device("meta"):
        model = found.model_class()(found.shape_config(found.shapes[0]))
    inside = set(found.parts(model).text.modules())
    pattern = found.adapter_targets(["q_proj", "down_proj"])
    chosen = [module for path, module in model.named_modules() if re.fullmatch(pattern, path)]
    assert len(chosen) == 2 * len(found.parts(model).text_layers)
    assert set(chosen) <= inside


@pytest.mark.parametrize("name", KNOWN)
def test_released_names_have_shapes(name: str) -> None:
    found = family(name, "the model")
    for source, shape in found.released.items():
        assert shape in found.shapes
        planned = read_shape(ModelConfig(name="m", path=source, min_pixels=1, max_pixels=2**20))
        assert planned.family is found
    with pytest.raises(KeyError):
        found.shape_config("nosuch")


@pytest.mark.parametrize("name", KNOWN)
def test_every_family_has_a_file_of_conf_model_which_refusals_name(
    name: str, tmp_path: Path
) -> None:
    """A checkpoint under another family's file, read and planned: the same line."""
    choices = choices_for(name)
    assert choices
    values = read_choice("model", next(c for c in CHOICES if c not in choices), "model")
    other = validate(RecommendedConfig, values["recommended"])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": name}))
    released = next(iter(family(name, "the model").released))
    for source, read in ((str(tmp_path), load_family), (released, read_shape)):
        config = ModelConfig(
            name="m", path=source, min_pixels=1, max_pixels=2**20, recommended=other
        )
        with pytest.raises(ModelError) as caught:
            read(config)
        assert other.model_types is not None
        assert str(caught.value) == (
            f"model.path={source}: the checkpoint is a {name}, and the values of m are for "
            f"{' or '.join(other.model_types)}; choose "
            f"{' or '.join(f'model={choice}' for choice in choices)} and keep model.path"
        )


def test_a_model_of_no_known_family_is_refused_in_one_line(tmp_path: Path) -> None:
    printed = (
        rf"the checkpoint is a bert, the policy must be one of: {', '.join(FAMILIES)}; missing"
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match=printed):
        folder_family(tmp_path)
    config = ModelConfig(name="m", path=str(tmp_path), min_pixels=3136, max_pixels=12544)
    with pytest.raises(ModelError, match=rf"^model\.path={tmp_path}: {printed}"):
        load_family(config)
    with pytest.raises(ModelError, match=rf"^model\.path={tmp_path}: {printed}"):
        read_shape(config)


def test_a_folder_without_a_models_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: not the configuration of a model"):
        folder_family(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"config\.json: not the configuration of a model"):
        folder_family(tmp_path)


def test_a_policy_knows_its_family() -> None:
    config = ModelConfig(name="tiny", path=None, min_pixels=12544, max_pixels=12544)
    policy = load_policy(config)
    assert policy.family is load_family(config) is folder_family(tiny_policy_folder())
    # What only a server has is taken for the family that was there first.
    assert served_family() is policy.family


def test_a_sliding_window_is_refused(tmp_path: Path) -> None:
    for file in tiny_policy_folder().iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    values = json.loads((tmp_path / "config.json").read_text())
    values |= {"use_sliding_window": True, "max_window_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match="use_sliding_window: true"):
        load_policy(ModelConfig(name="m", path=str(tmp_path), min_pixels=12544, max_pixels=12544))
