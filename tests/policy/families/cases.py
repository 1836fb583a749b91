"""The model families that the suite of this folder runs for: adding one is adding one line.

Each test of the suite runs for every case, on one tiny checkpoint of it
(`tools.tiny_checkpoints`). What a family does in a way of its own stands in its line; a test never
asks for a `model_type`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class FamilyCase:
    """One family.

    Attributes:
        model_type: as in `config.json`; names the module in `tools/tiny_checkpoints/`.
        sizes: (width, height) of the images of a batch: at least three, of different numbers of
            tokens where the family gives different sizes different ones.
        extreme: (width, height) of further images whose prompts are compared with the processor's:
            one pixel, odd sizes, extreme ratios.
        too_narrow: (width, height) that the resizing rule refuses; None where it takes all.
        area: `model.min_pixels` and `model.max_pixels` of all tests.
        as_resized: options with which the family's own processor takes images that are resized
            already by `resize_rule`, as they are.
        originals: it takes them as they were, with these options, since tiles cannot be put in.
        twin: another family's passes are this one's: besides one test of each kind, its tests run
            in the slow tier only.
        rounding: single precision differs by as many times what it does in the other families.
        notes: what a reader of a failure should know.
    """

    model_type: str
    sizes: tuple[tuple[int, int], ...]
    extreme: tuple[tuple[int, int], ...]
    too_narrow: tuple[int, int] | None
    area: tuple[int, int]
    as_resized: Mapping[str, Any] = field(default_factory=lambda: {"do_resize": False})
    originals: bool = False
    twin: bool = False
    rounding: float = 1.0
    notes: str = ""


_TILED = ((1, 1), (1, 2000), (613, 7), (37, 101), (127, 129), (128, 64), (30, 31))
_NARROW = ((1, 1), (1, 150), (199, 1), (37, 101), (613, 7))

CASES: tuple[FamilyCase, ...] = (
    FamilyCase(
        "qwen2_vl",
        sizes=((60, 60), (140, 84), (56, 56), (56, 112)),
        extreme=_NARROW,
        too_narrow=(201, 1),
        area=(56 * 56, 112 * 112),
        twin=True,
    ),
    FamilyCase(
        "qwen2_5_vl",
        sizes=((60, 60), (140, 84), (56, 56), (56, 112)),
        extreme=_NARROW,
        too_narrow=(201, 1),
        area=(56 * 56, 112 * 112),
    ),
    FamilyCase(
        "qwen3_vl",
        sizes=((60, 60), (140, 84), (64, 64), (64, 128)),
        extreme=_NARROW,
        too_narrow=(201, 1),
        area=(64 * 64, 128 * 128),
    ),
    FamilyCase(
        "qwen3_5",
        sizes=((60, 60), (140, 84), (64, 64), (64, 128)),
        extreme=_NARROW,
        too_narrow=(201, 1),
        area=(64 * 64, 128 * 128),
        rounding=10.0,
        notes="three layers of gated DeltaNet and one of attention",
    ),
    FamilyCase(
        "internvl",
        sizes=((60, 60), (140, 40), (30, 100), (200, 170)),
        extreme=_TILED,
        too_narrow=None,
        area=(56 * 56, 4 * 56 * 56),
        as_resized={"min_patches": 1, "max_patches": 4},
        originals=True,
        notes="tiles of 56 pixels, at most four of them and the whole image as one more",
    ),
    *(
        FamilyCase(
            name,
            sizes=((60, 60), (140, 40), (30, 100), (200, 170)),
            extreme=_TILED,
            too_narrow=None,
            area=(32 * 64, 64 * 64),
            twin=name == "idefics3",
            notes="tiles of 32 pixels, at most 2 x 2 of them and the whole image as one more",
        )
        for name in ("idefics3", "smolvlm")
    ),
    FamilyCase(
        "fast_vlm",
        sizes=((60, 60), (140, 40), (30, 100), (64, 64)),
        extreme=_NARROW,
        too_narrow=(201, 1),
        area=(64 * 64, 64 * 64),
        notes="the centre of every image, 64 x 64 pixels; 2 x 2 cells of a tower of timm",
    ),
    FamilyCase(
        "llava",
        sizes=((60, 60), (140, 40), (30, 100), (42, 42)),
        extreme=_NARROW,
        too_narrow=(201, 1),
        area=(42 * 42, 42 * 42),
        notes="the centre of every image, 42 x 42 pixels; 3 x 3 patches of two layers of CLIP",
    ),
)
