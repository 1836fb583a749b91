"""The model card of a training run, from the files in its run directory."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

import vqr1
from vqr1.config import AnswerConfig, AnyAnswer, ModelConfig, TrainConfig, validate
from vqr1.config.affects import Affects, pruned
from vqr1.config.earlier import EARLIER
from vqr1.config.plain import flatten
from vqr1.config.renamed import present_names, renamed_keys
from vqr1.counted import counted
from vqr1.durable import write_file
from vqr1.errors import DataError
from vqr1.evaluation.metrics import HEADLINE, headline, labels
from vqr1.policy.model_card import CARD_FILE, RANKING, CardFacts, MetricValue, model_card
from vqr1.policy.training_prompt import trained_vision_id, write_training_prompt
from vqr1.training.model_card_command import asking, read_answer

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def write_model_card(
    folder: Path,
    run_dir: Path,
    *,
    title: str | None = None,
    license: str | None = None,
    with_metrics: bool = True,
) -> None:
    """Write the card of the checkpoint in `folder`, and how its training asked.

    Args:
        folder: the checkpoint.
        run_dir: the training's run directory, with its `config.yaml`.
        title: name on the card; None: that of the run directory.
        license: of the weights; None: that of the base model.
        with_metrics: the checkpoint is the one that `summary.json` is about.

    Raises:
        DataError: `config.yaml` is missing or lacks what the card names.
        ModelError: `folder` holds no checkpoint of a known family.
    """
    config = read_run_config(run_dir)
    summary_file = run_dir / "summary.json"
    summary = present_names(json.loads(summary_file.read_text())) if summary_file.is_file() else {}
    try:
        facts = _facts(
            folder, config, summary if with_metrics else {}, title or run_dir.name, license
        )
    except KeyError as error:
        raise DataError(
            f"{run_dir / 'config.yaml'}: the key {error} is missing; it is not the configuration "
            "of a training"
        ) from error
    write_file(folder / CARD_FILE, model_card(facts))
    write_training_prompt(
        folder, facts.vision_id, facts.images, facts.system, facts.enable_thinking
    )


def read_run_config(run_dir: Path) -> dict[str, Any]:
    """The composed configuration that a run left.

    Raises:
        DataError: there is none, or it is no YAML mapping.
    """
    file = run_dir / "config.yaml"
    if not file.is_file():
        raise DataError(f"{run_dir}: no config.yaml, so this is not the directory of a run")
    try:
        values = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise DataError(f"{file}: not the configuration of a run")
    return {str(key): value for key, value in values.items()}


def _facts(
    folder: Path,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    title: str,
    license: str | None,
) -> CardFacts:
    model, dataset = config["model"], config["dataset"]
    base, is_hub_name = _base(model["path"])
    answer = _answer(config)
    asked: AnswerConfig = validate(AnyAnswer, answer)
    stage = config.get("stage", {}).get("_target_", EARLIER["stage._target_"])
    ranks = stage == EARLIER["stage._target_"]
    # It imports torch, which the commands that use this module do without until then.
    from vqr1.policy.families import folder_family

    return CardFacts(
        family=folder_family(folder),
        title=title,
        base=base,
        base_is_hub_name=is_hub_name,
        license="apache-2.0" if license is None and model["path"] is None else license,
        datasets=list(dataset["parts"]) if dataset.get("parts") else [dataset["name"]],
        rewards=list(config["reward"]["terms"]) if ranks else [],
        trained_by=_TRAINED_BY.get(stage, f"the stage {stage}"),
        prompt_name=config["prompt"]["name"],
        prompt=config["prompt"]["text"],
        vision_id=run_vision_id(config),
        images=config["prompt"].get("images", EARLIER["prompt.images"]),
        system=config["prompt"].get("system", EARLIER["prompt.system"]),
        enable_thinking=config["prompt"].get("enable_thinking", EARLIER["prompt.enable_thinking"]),
        answer=asked.form,
        asking=asking(config["prompt"], answer),
        min_pixels=model["min_pixels"],
        max_pixels=model["max_pixels"],
        max_new_tokens=config["rollout"]["sampling"]["max_new_tokens"],
        metrics=_metrics(summary, "+".join(dataset.get("parts") or [dataset["name"]])),
        config_yaml=yaml.safe_dump(
            _without_places(pruned(TrainConfig, config, Affects.ROUNDING)),
            sort_keys=False,
        ),
        version=vqr1.__version__,
        weights=_weights(summary),
    )


_TRAINED_BY = {
    EARLIER["stage._target_"]: RANKING,
    "vqr1.training.stages.SftStage": "supervised training",
}
"""By class of the stage, in words."""


def _answer(config: Mapping[str, Any]) -> dict[str, Any]:
    """The group `answer` of a run; `config` is of any version."""
    if "answer" in config:
        return dict(config["answer"])
    earlier = renamed_keys(flatten(config))
    own = {
        key.removeprefix("answer."): earlier[key] for key in earlier if key.startswith("answer.")
    }
    return own if "_target_" in own else read_answer(config["prompt"]["name"]) | own


def run_vision_id(config: Mapping[str, Any]) -> bool:
    """Whether a run was trained with "Picture 1: " before the image.

    Args:
        config: its composed configuration, of any version.
    """
    value = config["prompt"].get("vision_id", EARLIER["prompt.vision_id"])
    if value is None:
        value = trained_vision_id(validate(ModelConfig, config["model"]))
    return bool(value)


def _base(path: str | None) -> tuple[str, bool]:
    """Name of the base model, and whether the hub knows it by that name."""
    if path is None:
        return "the tiny policy that ships with vqr1", False
    if _HUB_NAME.fullmatch(path) and not Path(path).exists():
        return path, True
    return f"a local checkpoint ({Path(path).name})", False


def _metrics(summary: Mapping[str, Any], sets: str) -> list[MetricValue]:
    """Metrics of `summary.json`; those that a run did not take are excluded."""
    seen = summary.get("test_trained_on") or {}
    metrics = [
        MetricValue(
            headline().label, name, "test", part[f"{HEADLINE}_after"], part[f"{HEADLINE}_before"],
            _pair(part),
            _and_trained(
                _scored(part.get("images"), part.get("excluded"), "before or after training"),
                [seen.get(name)],
            ),
        )
        for name, part in summary.get("test_by_dataset", {}).items()
        if part[f"{HEADLINE}_after"] is not None
    ]  # fmt: skip
    interval = summary.get(f"test_{HEADLINE}_gain_interval")
    images, unscored = summary.get("test_images"), summary.get("test_unscored_after")
    scored = _and_trained(_scored_of(images, unscored), list(seen.values()))
    for metric, label in labels().items():
        after = summary.get(f"test_{metric}_after")
        if after is not None:
            gain = interval if metric == HEADLINE and None not in (interval or [None]) else None
            before = summary.get(f"test_{metric}_before")
            pair = None if gain is None else (gain[0], gain[1])
            metrics.append(MetricValue(label, sets, "test", after, before, pair, scored))
    best = summary.get(f"val_{HEADLINE}_best")
    if best is not None:
        images, unscored = summary.get("val_images"), summary.get("val_unscored_best")
        scored = _scored_of(images, unscored)
        metrics.append(MetricValue(headline().label, sets, "validation", best, scored=scored))
    return metrics


def _scored_of(images: int | None, unscored: int | None) -> str | None:
    return None if images is None or unscored is None else _scored(images - unscored, unscored)


def _scored(count: int | None, missing: int | None, when: str = "") -> str | None:
    """How many images a metric is over, and how many have no score."""
    if count is None or missing is None:
        return None
    if not missing:
        return f"{counted(count, 'image')}"
    return f"{count} of {count + missing} images ({missing} without a score{when and f' {when}'})"


def _and_trained(scored: str | None, seen: Sequence[Mapping[str, int] | None]) -> str | None:
    """How many images a metric is over, and how many of them the run was trained on."""
    trained = sum(counts["trained"] for counts in seen if counts)
    words = f"{trained} of them trained on" if trained else None
    return ", ".join(text for text in (scored, words) if text) or None


def _weights(summary: Mapping[str, Any]) -> str | None:
    """Which weights of the run the exported ones are; None in records of earlier versions."""
    if "exported_step" not in summary:
        return None
    step = summary["exported_step"]
    if summary["exported_by"] == "validation":
        return f"step {step}, the best by validation"
    return f"step {step}, the last one: no validation chose among the steps"


def _pair(part: Mapping[str, Any]) -> tuple[float, float] | None:
    low, high = part[f"{HEADLINE}_gain_interval"]
    return None if low is None or high is None else (low, high)


def _without_places(value: Any) -> Any:
    """The value with absolute paths and addresses replaced: a card is for other machines."""
    if isinstance(value, dict):
        return {key: _without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    if isinstance(value, str) and (value.startswith(("/", "~")) or "://" in value):
        return "(a place on the machine of the training)"
    return value
