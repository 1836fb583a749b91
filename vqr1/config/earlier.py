"""What held before a key existed: records of earlier versions are read with these values.

Where a key is not listed here, a record without it is from a version that did something else, or
something unknown, and cannot be continued with the key's present value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from vqr1.config.renamed import renamed_keys

_PART = re.compile(r"^dataset\.parts\.[^.]+\.")

COMPARE = (
    "<image><image> You are performing an image quality assessment task. Compare the two images "
    "and decide which one has better perceptual quality. Answer strictly with the index of the "
    "better image: 0 if the first image is better, or 1 if the second image is better."
)
"""The question of a comparison that `votes.text` came with (EvoQuality)."""

EARLIER: dict[str, Any] = {
    "prompt.vision_id": True,
    "perturbation": None,
    "dataset.split.near_duplicates": "report",
    "dataset.split.protocol": None,
    "dataset.score": None,
    "dataset.full_reference": False,
    "prompt.images": 1,
    "prompt.system": None,
    "prompt.enable_thinking": None,
    "rollout.sampling.repetition_penalty": 1.0,
    "mode.sampling.repetition_penalty": 1.0,
    "rollout.ahead": 0,
    "backend.name": "local",
    "init_from": None,
    "optimizer.lr_connector": None,
    "hardware.memory_check": "skip",
    "callbacks.hung_step": None,
    "model.quantization": None,
    "validation.mode": "answers",
    "stage._target_": "vqr1.training.stages.GrpoStage",
    "stage.decimals": 2,
    "loss._target_": "vqr1.training.losses.GrpoLoss",
    "loss.kl": "k3",
    "loss.kl_until": None,
    "loss.ratio": "token",
    "loss.clip_high": None,
    "loss.ratio_cap": None,
    "loss.entropy_quantile": None,
    "loss.off_policy_limit": None,
    "loss.perception.weight": 0.0,
    "loss.perception.until": 1.0,
    "loss.perception.degradation.white_noise": 0.176,
    "loss.perception.degradation.gaussian_blur": 2.0,
    "loss.perception.degradation.jpeg": 5.0,
    "loss.perception.degradation.darkness": 0.6,
    "grpo.resample_zero_variance": 0,
    "advantage._target_": "vqr1.training.advantages.GroupNormalised",
    "dataset.path": None,
    "dataset.alias": None,
    "dataset.reference_folder": False,
    "dataset.columns.distortion": None,
    "dataset.columns.further": [],
    "dataset.columns.header": None,
    "dataset.columns.separator": None,
    "dataset.columns.decimal": None,
    "dataset.columns.sheet": None,
    "dataset.columns.name_pattern": None,
    "target": "mos",
    "votes.by": "comparisons",
    "votes.count": 32,
    "votes.pairs_per_image": 16,
    "votes.rounds": 1,
    "votes.text": COMPARE,
    "dataset.pairs.file": None,
    "dataset.pairs.first": "first",
    "dataset.pairs.second": "second",
    "dataset.pairs.preference": "preference",
    "dataset.pairs.codes": None,
    "dataset.pairs.words": None,
    "dataset.pairs.votes": None,
    "dataset.pairs.equal_votes": None,
    "dataset.pairs.name_pattern": None,
    "dataset.pairs.tie_threshold": 0,
    "dataset.pairs.human_ties": "half",
    "dataset.pairs.fit": "thurstone",
    "dataset.pairs.header": None,
    "dataset.pairs.separator": None,
    "dataset.pairs.decimal": None,
    "dataset.pairs.sheet": None,
}
"""By dotted key, the value in every record that lacks it. Requests to a server lacked sampling
fields then, so that its own defaults held: `backend.unsupported` is not listed."""


def earlier_values(keys: Iterable[str]) -> dict[str, Any]:
    """Of some dotted keys, those that are listed; a mixture's sets have the keys of a set."""
    single = {key: _PART.sub("dataset.", key) for key in keys}
    return {key: EARLIER[listed] for key, listed in single.items() if listed in EARLIER}


def completed(record: Mapping[str, Any], keys: Iterable[str] = ()) -> dict[str, Any]:
    """A record by dotted keys under their present names, with the keys that it lacks.

    Args:
        record: of any version.
        keys: those of now, by which the sets of a mixture are known.
    """
    return {**EARLIER, **earlier_values(keys), **renamed_keys(record)}


def changed_settings(saved: Mapping[str, Any], now: Mapping[str, Any], begun: str) -> list[str]:
    """The settings that decide answers and differ from those of a file or folder, in words.

    Args:
        saved: by dotted key, those that it was begun with.
        now: those of the present command.
        begun: what it is and that it was begun, such as `output=a.csv was begun`.

    Returns:
        One line for each, to be continued with further ways out.
    """
    old = completed(saved, now)
    lines = []
    for key in sorted({*renamed_keys(saved), *now}):
        if key not in old:
            lines.append(
                f"{key}={now[key]!r}: {begun} without it, by another command or an earlier version "
                "that may have done otherwise; continue with that"
            )
        elif key not in now:
            lines.append(f"{key}: {begun} with {old[key]!r}; set it to that")
        elif old[key] != now[key]:
            lines.append(f"{key}={now[key]!r}: {begun} with {old[key]!r}; set it to that")
    return lines


_SAME: dict[str, tuple[Any, Any]] = {"rollout.micro_batch_tokens": (16384, None)}
"""A value that was a key's default, and the one that means the same since; on a CPU, where all runs
of that time were."""


def present_value(key: str, value: Any) -> Any:
    """A recorded value as it is written today."""
    earlier, today = _SAME.get(key, (None, None))
    return today if key in _SAME and value == earlier else value
