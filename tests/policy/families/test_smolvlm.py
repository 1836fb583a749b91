"""What SmolVLM does in a way of its own: tiles, their pixels and markers, and what they cost.

Tokens, pixels, positions, gradients and responses are compared by the suite of all families.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from transformers import Idefics3ImageProcessor, SmolVLMImageProcessor
from transformers.models.smolvlm import processing_smolvlm

from tests.planning.test_planning import PLAIN, saved_bytes
from tests.support.images import noise_image
from tools.tiny_checkpoints import build
from tools.tiny_checkpoints.smolvlm import checkpoint
from vqr1.config import ModelConfig, config_dir
from vqr1.errors import ConfigError, ModelError
from vqr1.planning.memory import text_row, tower_row
from vqr1.planning.shape import read_shape
from vqr1.policy.families import idefics3, smolvlm
from vqr1.policy.families._smolvlm_images import TileEncoding, TileRule, tile_rule
from vqr1.policy.fast_layers import use_fast_layers
from vqr1.policy.loading import load_processor
from vqr1.policy.prompts import PromptBuilder
from vqr1.policy.sharded_modules import sharded_modules
from vqr1.policy.shared_prompt import response_logprobs
from vqr1.policy.vision import encode_images

FAMILY = smolvlm.FAMILY
SIZES = ((1, 1), (2, 3), (5, 7), (1, 2000), (2000, 1), (640, 480), (513, 511), (333, 1000))


def reader(image_class: Any = SmolVLMImageProcessor, **options: Any) -> Any:
    """An image processor with the released numbers, or a smaller one's."""
    sizes = {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}}
    return image_class(**{**sizes, **options})


def processed(image_processor: Any, image: Image.Image, longest: int) -> torch.Tensor:
    """[N, 3, tile, tile] values that the library makes of an image."""
    made = image_processor(
        images=[[image]],
        size={"longest_edge": longest},
        return_tensors="pt",
    )
    assert (made["pixel_attention_mask"] == 1).all()
    values: torch.Tensor = made["pixel_values"][0]
    return values


@pytest.mark.parametrize("image_class", [SmolVLMImageProcessor, Idefics3ImageProcessor])
@pytest.mark.parametrize("split", [True, False])
def test_tiles_are_the_image_processors_to_the_bit(image_class: Any, split: bool) -> None:
    own = reader(
        image_class,
        size={"longest_edge": 200},
        max_image_size={"longest_edge": 40},
        do_image_splitting=split,
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.5, 0.6, 0.7],
    )
    encoding = FAMILY.image_encoding(own)
    for area in (40 * 40, 100 * 100, 10**6):
        rule = FAMILY.resize_rule(own, 1, area)
        for number, size in enumerate(SIZES):
            image = noise_image(number, *size)
            pixels = rule.pixels(image)
            assert pixels.shape == (*rule.size(*size)[::-1], 3)
            assert pixels.shape[0] * pixels.shape[1] <= area
            values, (count,) = encoding.encode([pixels])
            assert torch.equal(values, processed(own, image, rule.longest))
            assert count == len(values)


@pytest.mark.parametrize(("own", "side"), [(30, 40), (90, 120), (121, 160), (160, 160)])
def test_a_longest_edge_between_tiles_rounds_up_as_in_the_library(own: int, side: int) -> None:
    processor = reader(size={"longest_edge": own}, max_image_size={"longest_edge": 40})
    rule = FAMILY.resize_rule(processor, 1, 10**6)
    assert (rule.longest, rule.side) == (own, side)
    encoding = FAMILY.image_encoding(processor)
    for number, size in enumerate(SIZES):
        image = noise_image(number, *size)
        pixels = rule.pixels(image)
        assert max(pixels.shape[:2]) == side
        values, (count,) = encoding.encode([pixels])
        assert torch.equal(values, processed(processor, image, own))
        # What a server counts of the resized image; one tile is none there.
        served = {**FAMILY.serving_arguments(rule), "do_image_splitting": True}
        assert count == max(1, processor.get_number_of_image_patches(*pixels.shape[:2], served)[0])
    edge = side // 40
    assert rule.most_tokens(4) >= ((edge**2 + 1) * 4 if edge > 1 else 4)
    # Where the limit is below it, whole tiles within the limit.
    assert FAMILY.resize_rule(processor, 1, 50 * 50).longest == min(own, 40)


def test_the_released_numbers() -> None:
    """2048 pixels are 4 x 4 tiles of 512; a photograph of 4 : 3 is 4 x 3, and the whole of it."""
    own = reader()
    rule = FAMILY.resize_rule(own, 512 * 512, 2048 * 2048)
    assert rule == tile_rule(None, 1, 2048 * 2048) == TileRule(512, 2048)
    image = noise_image(0, 64, 48)
    pixels = rule.pixels(image)
    assert pixels.shape == (1536, 2048, 3)
    encoding = FAMILY.image_encoding(own)
    assert encoding == TileEncoding()
    assert (encoding.grid(pixels), encoding.count(pixels)) == ((3, 4), 13)
    assert encoding.rows(pixels) == 13 * 32 * 32
    assert torch.equal(encoding.encode([pixels])[0], processed(own, image, 2048))
    # Resized images come through the library unchanged: what servers are sent.
    again = own(images=[[Image.fromarray(pixels.numpy())]], do_resize=False, return_tensors="pt")
    assert torch.equal(again["pixel_values"][0], encoding.encode([pixels])[0])
    # 16 tiles of 64 tokens and 2 markers, 4 line breaks (the last two are one token), the whole
    # image's 64 tokens and 3 markers.
    assert 16 * 66 + 4 + 67 <= rule.most_tokens(64) == 16 * 66 + 4 + 68
    assert FAMILY.serving_arguments(rule)["size"] == {"longest_edge": 2048}
    # A checkpoint's own limit is not that of the released ones.
    own.size = {"longest_edge": 1024}
    rule = tile_rule(own, 1, 2048 * 2048)
    assert FAMILY.serving_arguments(rule)["size"] == {"longest_edge": 1024}


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (
            1,
            512 * 512 - 1,
            r"model\.max_pixels=262143: a tile .* 512 x 512 pixels; set it to 262144",
        ),
        (512 * 1024 + 1, 1024 * 1024, r"model\.min_pixels=524289: with model\.max_pixels=1048576 "),
    ],
)
def test_areas_that_contradict_tiles_are_refused(low: int, high: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FAMILY.resize_rule(None, low, high)
    assert FAMILY.resize_rule(None, 512 * 1024, 1024 * 1024).longest == 1024
    # The checkpoint's own longest edge is never exceeded.
    assert FAMILY.resize_rule(None, 1, 10**9).longest == 2048


def test_processors_that_do_not_belong_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"turns do_rescale or do_normalize off, .* SmolVLM was"):
        idefics3.FAMILY.image_encoding(reader(Idefics3ImageProcessor, do_normalize=False))
    with pytest.raises(ConfigError, match="no longest_edge in size"):
        FAMILY.resize_rule(reader(size={"height": 512, "width": 512}), 1, 512 * 512)


def test_tiles_of_another_size_than_the_towers_are_refused(tiny: Any) -> None:
    config = tiny.model.config
    assert FAMILY.processor_problem(config, tiny.processor) is None
    problem = FAMILY.processor_problem(config, SimpleNamespace(image_processor=reader()))
    assert problem is not None
    assert "into tiles of 512 pixels, the model's tower takes 32" in problem


def test_a_checkpoint_whose_processor_asks_for_a_missing_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build("smolvlm", tmp_path, seed=1)
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    config = ModelConfig(name="m", path=str(folder), min_pixels=1, max_pixels=64 * 64)
    with pytest.raises(
        ModelError, match=r"^model\.path=.*: its processor needs .*Package `num2words` is"
    ):
        load_processor(config)


@pytest.mark.parametrize("name", ["smolvlm_256m", "smolvlm_500m"])
def test_model_files_name_released_checkpoints_and_fitting_areas(name: str) -> None:
    values: Any = OmegaConf.load(config_dir() / "model" / f"{name}.yaml")
    assert FAMILY.released[values.path] == name.removeprefix("smolvlm_")
    shape = read_shape(ModelConfig(name="m", path=values.path, min_pixels=1, max_pixels=2**20))
    own = values.recommended
    size = shape.text + shape.embedding + shape.head
    assert own.parameters == pytest.approx(size, rel=0.02)
    assert FAMILY.resize_rule(None, own.min_pixels, own.max_pixels) == TileRule(512, 1024)
    assert list(own.model_types) == ["smolvlm", "idefics3"]


def test_the_same_pixels_in_another_shape_have_another_key() -> None:
    encoding = TileEncoding(tile=32)
    flat = torch.full((32, 128, 3), 7, dtype=torch.uint8)
    assert encoding.key(flat) == encoding.key(flat.clone())
    assert encoding.key(flat) != encoding.key(flat.reshape(64, 64, 3))
    assert encoding.key(flat) != TileEncoding(tile=16).key(flat)


@pytest.fixture(scope="module")
def tiny() -> Any:
    """Model and processor of the tiny checkpoint, with weights of the library's own scale."""
    made = checkpoint()
    made.model.eval()
    use_fast_layers(made.model)
    made.model.image_encoding = FAMILY.image_encoding(made.processor.image_processor)
    return made


def builder(processor: Any, edge: int = 64) -> PromptBuilder:
    return PromptBuilder(FAMILY, processor, "How good?", 1, edge * edge, vision_id=False)


def test_a_tile_of_zeros_is_a_tile(tiny: Any) -> None:
    """The library's own pass drops it as padding, whose features then belong to no token."""
    core = tiny.model
    core.image_encoding = TileEncoding(32, (0.2,) * 3, (0.5,) * 3)
    try:
        batch = builder(tiny.processor)([Image.new("RGB", (9, 9), (51, 51, 51))])
        features = encode_images(core, batch).embeds[0][0]
        values, _ = core.image_encoding.encode([torch.full((64, 64, 3), 51, dtype=torch.uint8)])
    finally:
        core.image_encoding = FAMILY.image_encoding(tiny.processor.image_processor)
    assert (values == 0).all()
    # Five tiles of four tokens.
    assert features.shape == (20, 48)


def test_image_tokens_that_do_not_match_the_tiles_are_refused(tiny: Any) -> None:
    batch = builder(tiny.processor)([noise_image(0, 60, 60), noise_image(1, 60, 20)])
    encoding = tiny.model.image_encoding
    with pytest.raises(ModelError, match="found 20 image tokens for images whose tiles have 12"):
        FAMILY.prompt_positions(
            tiny.model.config, encoding, batch.input_ids[0], (torch.zeros(32, 64, 3),)
        )


def test_every_sharded_module_of_the_tower_has_a_pass_of_its_own(tiny: Any) -> None:
    """A list of modules is never called, so that nothing would unshard its weights."""
    text, *tower = sharded_modules(tiny.model)
    core = tiny.model.model
    assert text.root is core.text_model
    assert [module.root for module in tower] == [core.vision_model, core.connector]
    assert list(tower[0].blocks) == list(core.vision_model.encoder.layers)
    assert not tower[1].blocks


def test_costs_are_those_of_the_prompt_and_of_what_pytorch_saves(tiny: Any) -> None:
    """Tokens of the image's part of a prompt, and bytes that a pass keeps for its way back."""
    model, prompts = tiny.model, builder(tiny.processor)
    for size in ((60, 60), (60, 20), (20, 60)):
        cost = FAMILY.tower_cost(model.config, prompts.rule, size)
        batch = prompts([noise_image(0, *size)] * 2)
        assert cost.tokens == len(batch.input_ids[0]) - prompts.text_tokens
        assert cost.rows == 64 * model.image_encoding.count(torch.zeros(*prompts.rule.size(*size)))
    assert FAMILY.tower_cost(model.config, prompts.rule, None).tokens == 33  # 4 * 6 + 2 + 7
    single = builder(tiny.processor, 32)
    assert FAMILY.tower_cost(model.config, single.rule, None).tokens == 7

    batch = prompts([noise_image(number, 60, 60) for number in range(4)])
    cost = FAMILY.tower_cost(model.config, prompts.rule, (60, 60))
    found = saved_bytes(model, lambda: encode_images(model, batch))
    planned = 4 * cost.rows * (cost.depth * tower_row(cost, PLAIN) + cost.ends * 4)
    assert planned == pytest.approx(found, rel=0.05)

    features = encode_images(model, batch).leaves()
    tokens = torch.zeros((4, 3, 40), dtype=torch.long)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    found = saved_bytes(
        model, lambda: response_logprobs(model, batch, tokens, mask, vision=features)
    )
    rows = 4 * (len(batch.input_ids[0]) + 3 * 39)
    text = model.config.text_config
    logits = 4 * (1 + 3 * 39) * text.vocab_size * 4
    ends = 2 * rows * text.hidden_size * 4
    planned = rows * text.num_hidden_layers * text_row(model.config, PLAIN) + ends + logits
    assert planned == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize(
    ("source", "total", "text"),
    [
        # Tensors of the released checkpoints: 256M and 507M on their pages.
        ("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", 256_484_928, 106_203_456),
        ("HuggingFaceTB/SmolVLM-500M-Instruct", 507_482_304, 314_635_200),
    ],
)
def test_weights_of_released_models_without_a_download(source: str, total: int, text: int) -> None:
    """By hand for 256M: 30 layers of 2 * 576^2 + 2 * 576 * 192 + 3 * 576 * 1536 + 2 * 576, a norm.

    The tower: 12 blocks of 4 * 768^2 + 2 * 768 * 3072 + 9 * 768 + 3072 + 4 * 768 - 3 * 768 numbers,
    16^2 * 3 * 768 + 768 of patches, 1024 positions, a norm; 16 * 768 columns to the text model.
    """
    shape = read_shape(ModelConfig(name="m", path=source, min_pixels=1, max_pixels=2**20))
    assert (shape.total, shape.text) == (total, text)
    if total == 256_484_928:
        assert text == 30 * (2 * 576**2 + 2 * 576 * 192 + 3 * 576 * 1536 + 2 * 576) + 576
        block = 4 * (768**2 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
        tower = 12 * block + 3 * 16**2 * 768 + 768 + 1024 * 768 + 2 * 768
        assert shape.vision == tower + 16 * 768 * 576
        assert shape.embedding == shape.head == 49280 * 576
