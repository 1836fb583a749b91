"""What an export takes from the checkpoint that the training began with, and what it does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from vqr1.cli.plan import load_train_config
from vqr1.inference import tested_scores as tested
from vqr1.policy.export import export_checkpoint, merged_onto_checkpoint
from vqr1.policy.loading import load_policy
from vqr1.policy.packaged import tiny_policy_folder
from vqr1.policy.training_prompt import PROMPT_FILE
from vqr1.policy.unwrap import parts_of


def test_records_of_the_first_weights_stay_with_them(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_policy_folder(), base)
    record = tested.tested_scores(np.linspace(1.0, 5.0, 9), ["kadid"], "thinking", 1, 0.5)
    assert record is not None
    tested.write_tested_scores(record, base)
    (base / "assembled.json").write_text(json.dumps({"projector_seed": 3}))
    policy = load_policy(load_train_config(["model=tiny", f"model.path={base}"]).model)
    found = {file.name for file in export_checkpoint(policy, tmp_path / "export").iterdir()}
    # Whoever exports writes how this training asked, and what these weights' test was.
    assert {file.name for file in base.iterdir()} - found == {tested.FILE, PROMPT_FILE}
    assert "assembled.json" in found


def test_what_trains_beside_adapters_is_exported_with_them() -> None:
    config = load_train_config(["model=tiny", "hardware=1gpu_lora", "model.freeze_vision=tower"])
    policy = load_policy(config.model)
    projector = parts_of(policy.model).connector
    with torch.no_grad():
        for weight in projector.parameters():
            weight.add_(0.25)
    merged = merged_onto_checkpoint(policy)
    kept = load_file(tiny_policy_folder() / "model.safetensors")
    for name, weight in parts_of(merged).connector.named_parameters():
        expected = projector.get_parameter(name).float()
        # Rounded to the base model's type.
        torch.testing.assert_close(weight.float(), expected, rtol=1e-3, atol=1e-3)
    # Adapters are without effect at the start, and the rest is frozen.
    embeddings = parts_of(merged).embeddings.weight
    (own,) = (weight for name, weight in kept.items() if name.endswith("embed_tokens.weight"))
    assert torch.equal(embeddings.float(), own.float())
