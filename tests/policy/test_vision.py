"""Image features: what is reused, and when."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tests.support.tiny_models import tiny_model, tiny_prompts
from tools.tiny_checkpoints import build
from vqr1.config import LoraConfig, ModelConfig
from vqr1.errors import ModelError
from vqr1.policy.loading import load_policy, vision_trains
from vqr1.policy.reference import make_reference
from vqr1.policy.unwrap import parts_of
from vqr1.policy.vision import VisionCache, encode_images, image_keys
from vqr1.records import PromptBatch

PROMPTS = tiny_prompts([(2, 2), (3, 5), (4, 2)], [1, 2, 3])


@pytest.fixture
def frozen():
    model = tiny_model()
    model.model.visual.requires_grad_(False)
    return model


@pytest.fixture
def tower_runs(frozen):
    runs = []
    frozen.model.visual.register_forward_pre_hook(lambda *_: runs.append(1))
    return runs


def test_features_of_each_image_do_not_depend_on_the_batch(frozen):
    together = encode_images(frozen, PROMPTS)
    assert [tuple(embed.shape) for embed in together.flat] == [(4, 48), (15, 48), (8, 48)]
    for b, embed in enumerate(together.flat):
        alone = encode_images(frozen, PROMPTS.select(b, b + 1)).flat[0]
        torch.testing.assert_close(embed, alone, rtol=1e-5, atol=1e-5)


def test_leaves_carry_gradients_to_the_tower_once():
    model = tiny_model()
    weight = model.model.visual.patch_embed.proj.weight
    features = encode_images(model, PROMPTS)
    (expected,) = torch.autograd.grad(
        sum((embed**2).sum() for embed in features.flat), weight, retain_graph=True
    )
    leaves = features.leaves()
    for embed in leaves.flat[:2]:
        (embed**2).sum().backward()
    (leaves.flat[2] ** 2).sum().backward()
    assert weight.grad is None
    features.backward_from(leaves)
    torch.testing.assert_close(weight.grad, expected)


def test_checkpointing_recomputes_the_tower_in_eval_mode():
    model = tiny_model()
    weight = model.model.visual.patch_embed.proj.weight

    def gradient():
        total = sum((embed**2).sum() for embed in encode_images(model, PROMPTS).flat)
        return torch.autograd.grad(total, weight)[0]

    expected = gradient()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    runs = []
    model.model.visual.blocks[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    torch.testing.assert_close(gradient(), expected)
    assert len(runs) == 2
    assert not any(block.training for block in model.model.visual.blocks)


def test_keys_follow_the_image_not_the_batch():
    model = tiny_model()
    keys = image_keys(model, PROMPTS)
    assert len(set(keys)) == 3
    assert image_keys(model, PROMPTS.select(1, 3)) == keys[1:]
    changed = PROMPTS.flat_images[0].clone()
    changed[0, 0, 0] ^= 1
    other = image_keys(model, replace(PROMPTS, images=((changed,), *PROMPTS.images[1:])))
    assert other[0] != keys[0]
    assert other[1:] == keys[1:]


def test_keys_of_the_loader_are_not_computed_again():
    keys = ((b"a" * 16,), (b"b" * 16,), (b"c" * 16,))
    prompts = replace(PROMPTS, keys=keys)
    assert image_keys(tiny_model(), prompts) == keys
    assert image_keys(tiny_model(), prompts.choose([2, 0])) == (keys[2], keys[0])


def test_cache_runs_the_tower_for_unknown_images_only(frozen, tower_runs):
    cache = VisionCache()
    expected = encode_images(frozen, PROMPTS)
    tower_runs.clear()
    cache.encode(frozen, PROMPTS.select(0, 2))
    found = cache.encode(frozen, PROMPTS)
    assert len(tower_runs) == 3
    assert (cache.hits, cache.misses) == (2, 3)
    for embed, truth in zip(found.flat, expected.flat, strict=True):
        torch.testing.assert_close(embed, truth, rtol=1e-5, atol=1e-5)


def test_cache_forgets_the_oldest_image_beyond_its_size(frozen, tower_runs):
    # Image 0 takes 4 * 48 * 4 = 768 bytes, image 1 takes 15 * 48 * 4 = 2880, image 2 1536.
    cache = VisionCache(max_bytes=768 + 2880)
    cache.encode(frozen, PROMPTS)
    tower_runs.clear()
    cache.encode(frozen, PROMPTS.select(2, 3))
    assert tower_runs == []
    cache.encode(frozen, PROMPTS.select(0, 1))
    assert tower_runs == [1]


def test_cache_on_disk_outlives_the_process(frozen, tower_runs, tmp_path):
    first = VisionCache(folder=tmp_path / "features").encode(frozen, PROMPTS)
    tower_runs.clear()
    second = VisionCache(folder=tmp_path / "features").encode(frozen, PROMPTS)
    assert tower_runs == []
    for embed, truth in zip(second.flat, first.flat, strict=True):
        assert torch.equal(embed, truth)


def test_cache_on_disk_belongs_to_one_tower_and_survives_a_torn_file(frozen, tower_runs, tmp_path):
    first = VisionCache(folder=tmp_path).encode(frozen, PROMPTS)
    for file in tmp_path.glob("*/*.safetensors"):
        file.write_bytes(file.read_bytes()[:50])
    tower_runs.clear()
    again = VisionCache(folder=tmp_path).encode(frozen, PROMPTS)
    assert len(tower_runs) == 3
    assert all(map(torch.equal, again.flat, first.flat))
    with torch.no_grad():
        frozen.model.visual.patch_embed.proj.weight.mul_(1.5)
    other = VisionCache(folder=tmp_path).encode(frozen, PROMPTS)
    assert not torch.allclose(other.flat[0], first.flat[0])


def loaded(folder, **changes):
    """A checkpoint whose `config.json` differs, with a frozen tower."""
    file = folder / "config.json"
    before = file.read_text()
    file.write_text(json.dumps({**json.loads(before), **changes}))
    size = {"min_pixels": 42 * 42, "max_pixels": 42 * 42}
    model = load_policy(ModelConfig(name="m", path=str(folder), freeze_vision=True, **size)).model
    file.write_text(before)
    return model


def test_cache_on_disk_belongs_to_one_configuration_of_a_tower(tmp_path):
    folder = build("llava", tmp_path / "model", seed=1)
    pixels = torch.randint(0, 256, (42, 42, 3), generator=torch.Generator().manual_seed(0))
    prompts = PromptBatch((torch.empty(0, dtype=torch.int64),), ((pixels.byte(),),))
    one = loaded(folder)
    # The same weights, of which other rows are taken.
    other = loaded(folder, vision_feature_layer=[-2, -3])
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
    cache = tmp_path / "features"
    for model in (one, other, one):
        (found,) = VisionCache(folder=cache).encode(model, prompts).flat
        torch.testing.assert_close(found, encode_images(model, prompts).flat[0])
    assert len(list(cache.iterdir())) == 2
    # Where it lies and who wrote it, types beside the weights' and the text model: the same tower.
    third = loaded(folder, architectures=["Another"], transformers_version="4.57.0")
    third.config.text_config.rms_norm_eps = 1e-3
    again = VisionCache(folder=cache)
    again.encode(third, prompts)
    assert (again.hits, again.misses) == (1, 0)


def test_cached_features_are_the_same_bits_whatever_the_batch(frozen):
    together = VisionCache().encode(frozen, PROMPTS)
    alone = VisionCache().encode(frozen, PROMPTS.select(1, 2))
    assert torch.equal(together.flat[1], alone.flat[0])


def test_cache_refuses_a_tower_that_is_trained():
    with pytest.raises(ModelError, match=r"model\.freeze_vision=true"):
        VisionCache().encode(tiny_model(), PROMPTS)


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)])
@pytest.mark.parametrize("freeze", [False, True, "tower"])
def test_what_freezing_leaves_to_train(freeze, lora):
    config = ModelConfig(
        name="m", path=None, min_pixels=3136, max_pixels=12544, freeze_vision=freeze, lora=lora
    )
    model = load_policy(config).model
    parts = parts_of(model)
    merger = {*parts.connector.parameters()}
    tower = {*parts.vision.parameters()} - merger
    merged = freeze == "tower" or (freeze is False and lora is None)
    assert merger
    assert all(weight.requires_grad == (freeze is False and lora is None) for weight in tower)
    assert all(weight.requires_grad == merged for weight in merger)
    assert parts.embeddings.weight.requires_grad == (lora is None)
    assert vision_trains(model) == merged
    if merged:
        # Kept features would be those of an old merger, and so would the reference's be.
        with pytest.raises(ModelError, match=r"model\.freeze_vision=true"):
            VisionCache().encode(model, PROMPTS)
    reference = make_reference(model, kl_weight=0.1)
    assert reference.shares_vision == (not merged)
    with torch.no_grad():
        before = encode_images(model, PROMPTS).flat[0]
        for weight in merger if merged else ():
            weight.add_(0.1)
    with reference.weights() as kept:
        assert torch.equal(encode_images(kept, PROMPTS).flat[0], before)
