"""The trainings of the study: what each changes, and nothing else.

Not here: running them (`study.py`), the ridge on the same features (`ridge.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

STEPS, OTHERS = 310, 100
"""Optimiser steps of the main line, and of those that are compared at a third of them."""

PLAIN, THINKING, ASSEMBLED = "warm", "warm_thinking", "model"
"""Where a line starts: a warm start with or without reasoning, or the assembled model as it is."""

WARM_SEED = 3
"""Seed of the warm starts."""

THINKING_STEPS = 60
"""Supervised steps from the plain warm start to the one with reasoning."""

REASONING_PROMPT = "prompt=short_thinking"
"""Reasoning before the score."""

REASONING = (
    REASONING_PROMPT, "rollout.sampling.max_new_tokens=48", "rollout.sampling.stop=answer",
)  # fmt: skip

LABELS = (
    "stage=sft", "stage.answers=null", "stage.decimals=1", "optimizer.lr=2.0e-4",
    "optimizer.lr_connector=5.0e-4", "optimizer.max_grad_norm=1.0",
)  # fmt: skip
"""Supervised training on the MOS, with the warm start's rates and its one decimal."""


@dataclass(frozen=True)
class Line:
    """One setting.

    Attributes:
        name: in tables and file names.
        overrides: of experiment=real_vlm; of the plain defaults where it starts at a line.
        start: `PLAIN`, `THINKING`, `ASSEMBLED`, or a line, of which the run with the same seed is
            taken, with its model and prompt.
        steps: optimiser steps.
        seeds: one run for each.
        scoring: overrides of eval.py, in place of six sampled answers to the short prompt.
    """

    name: str
    overrides: tuple[str, ...] = ()
    start: str = PLAIN
    steps: int = OTHERS
    seeds: tuple[int, ...] = (1,)
    scoring: tuple[str, ...] = (
        "prompt=short", "mode=sampled", "mode.sampling.max_new_tokens=8", "mode.sampling.stop=eos",
    )  # fmt: skip


LINES = (
    Line("fidelity", steps=STEPS, seeds=(1, 2, 3)),
    Line("fidelity_short"),
    Line("fidelity_published", ("reward=fidelity", "advantage=group_normalised")),
    Line("margin", ("reward=margin", "advantage=centred")),
    Line("mse", ("reward=mse", "advantage=centred")),
    Line("sft", LABELS, steps=STEPS),
    Line("sft_assembled", LABELS, start=ASSEMBLED),
    Line(
        "sft_levels",
        (*LABELS, "prompt=levels", "validation.mode=levels"),
        start=ASSEMBLED,
        steps=STEPS,
        scoring=("prompt=levels", "mode=levels"),
    ),
    Line("pairs", ("dataset.pairs.file=pairs.csv", "dataset.pairs.codes=sign", "target=pairs")),
    Line(
        "thinking",
        REASONING,
        start=THINKING,
        scoring=(
            REASONING_PROMPT, "mode=sampled", "mode.sampling.max_new_tokens=48",
        ),
    ),
    Line(
        "distilled",
        ("stage=distill", "stage.samples=3", "loader.batch_size=16", "optimizer.lr=3.0e-4",
         "validation.max_images=100"),
        start="fidelity",
        steps=300,
        scoring=("mode=expected",),
    ),
    Line("frozen_projector", ("model.freeze_vision=true", "optimizer.lr_connector=null")),
    Line("full_weights", ("model.lora=null", "optimizer.lr=2.0e-5")),
    Line(
        "tower_trained",
        ("model.lora=null", "model.freeze_vision=false", "optimizer.lr=2.0e-5"),
    ),
)  # fmt: skip
"""All of them, the most important first. Soft labels (DeQA-Score) are not among them: they need the
standard deviation of each image's ratings, which BIQ2021 does not state."""
