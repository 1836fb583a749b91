"""The model card of an exported checkpoint: what it is, how to use it, metrics, configuration.

A pure function of a record. Not here: where the facts come from (`vqr1.training.model_card`), and
evaluations beyond the training run's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCardData

from vqr1.iqa.answers import AnswerForm, PlainAnswer
from vqr1.iqa.number_grammar import grammar_of

if TYPE_CHECKING:
    # It imports torch, which whoever only reads a card's facts does without.
    from vqr1.policy.families import Family

CARD_FILE = "README.md"

LICENSE_OF_BASE = (
    "Adapted weights are under the licence of the base model they derive from; see the base "
    "model's page."
)


@dataclass(frozen=True)
class MetricValue:
    """One metric of the training run.

    Attributes:
        metric: `SRCC`, `PLCC`, ...
        dataset: the set whose images it was taken on, such as `kadid`.
        split: which images of the set, `test` or `validation`.
        value: the metric of the exported weights.
        before: the same metric of the base model, or None.
        interval: 95 % interval of the gain over `before`, or None.
        scored: how many images it is over, as `58 of 60 (2 without a score)`; None where unknown.
    """

    metric: str
    dataset: str
    split: str
    value: float
    before: float | None = None
    interval: tuple[float, float] | None = None
    scored: str | None = None

    @property
    def images(self) -> str:
        """Which images it was taken on, such as `kadid, test`."""
        return f"{self.dataset}, {self.split}"


RANKING = "reinforcement learning to rank"


@dataclass(frozen=True)
class CardFacts:
    """What a card states.

    Attributes:
        family: the checkpoint's model family.
        title: name of the checkpoint.
        base: hub name of the base model, or a description where it has none.
        base_is_hub_name: whether `base` may stand in the card's metadata.
        license: SPDX-like identifier; None: that of the base model.
        datasets: names of the training sets.
        rewards: names of the reward terms; empty of a training without rewards.
        prompt_name: short name of the prompt.
        prompt: the user's message that the policy was trained with.
        vision_id: whether "Picture 1: " stood before the first image, and so on.
        answer: the form of the answers that the policy was trained to give.
        asking: overrides with which `vqr1-score` asks as the training did, as a shell takes them;
            None: none do.
        min_pixels: smallest image area at training.
        max_pixels: largest image area at training.
        max_new_tokens: length limit of a response at training.
        metrics: the training run's metrics.
        weights: which weights of the run these are; None where unknown.
        images: images of a prompt.
        system: the system message; None: what the chat template writes without one.
        enable_thinking: whether the template opened a block of reasoning; None: as by itself.
        trained_by: the kind of training, in words.
        config_yaml: the composed configuration, without places of the machine it ran on.
        version: version of vqr1.
    """

    family: Family
    title: str
    base: str
    base_is_hub_name: bool
    license: str | None
    datasets: Sequence[str]
    rewards: Sequence[str]
    prompt_name: str
    prompt: str
    vision_id: bool
    answer: AnswerForm
    asking: Sequence[str] | None
    min_pixels: int
    max_pixels: int
    max_new_tokens: int
    metrics: Sequence[MetricValue]
    config_yaml: str
    version: str
    weights: str | None = None
    images: int = 1
    enable_thinking: bool | None = None
    system: str | None = None
    trained_by: str = RANKING


def model_card(facts: CardFacts) -> str:
    """The card as Markdown with the hub's metadata block in front."""
    parts = [
        f"---\n{_metadata(facts).to_yaml()}\n---",
        f"# {facts.title}",
        _summary(facts),
        f"## Use\n\n{_use(facts)}",
        f"## Metrics\n\n{_metrics(facts.metrics)}",
        f"## Limitations\n\n{_limitations(facts)}",
        f"## Licence\n\n{facts.license or LICENSE_OF_BASE}",
        f"## Training configuration\n\n```yaml\n{facts.config_yaml.strip()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(facts: CardFacts) -> ModelCardData:
    results = [
        EvalResult(
            task_type="image-text-to-text",
            dataset_type=metric.dataset,
            # Results of one set with one split are one entry under the first one's name.
            dataset_split=metric.split,
            dataset_name=metric.images,
            metric_type=metric.metric.lower(),
            metric_name=metric.metric,
            metric_value=round(metric.value, 4),
        )
        for metric in facts.metrics
    ]
    return ModelCardData(
        license=facts.license or "other",
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        base_model=facts.base if facts.base_is_hub_name else None,
        tags=[
            "image-quality-assessment",
            *([RANKING.replace(" ", "-")] if facts.rewards else []),
            "vqr1",
        ],
        model_name=facts.title,
        eval_results=results or None,
    )


def _summary(facts: CardFacts) -> str:
    weights = f"| weights | {facts.weights} |\n" if facts.weights else ""
    reward = f"| reward | {' + '.join(facts.rewards)} |\n" if facts.rewards else ""
    low, high = facts.answer.score_range
    return (
        f"A {facts.family.title} policy that evaluates how good an image looks, as a number from "
        f"{low:g} (very poor) to {high:g} (excellent), trained by {facts.trained_by} "
        f"with vqr1 {facts.version}.\n\n"
        "| | |\n|---|---|\n"
        f"| base model | {facts.base} |\n"
        f"| training sets | {', '.join(facts.datasets)} |\n"
        f"{reward}{weights}"
        f"| prompt | {facts.prompt_name}{_vision_words(facts)} |\n"
        f"| image area | {facts.min_pixels} to {facts.max_pixels} pixels |"
    )


def _vision_words(facts: CardFacts) -> str:
    several = f", {facts.images} images" if facts.images > 1 else ""
    where = "each image, numbered" if facts.images > 1 else "the image"
    return several + (f', "Picture 1: " before {where}' if facts.vision_id else "")


def _use(facts: CardFacts) -> str:
    return f"""\
{_command(facts)}With {facts.family.usage_needs()} alone:

```python
{facts.family.usage_code(facts)}
```

{_score(facts.answer)}
Where there is none the answer is invalid: leave the image out, and do not make a number up."""


def _command(facts: CardFacts) -> str:
    """How vqr1 scores images as the training did; empty where no command does."""
    # It asks about one image at a time.
    if facts.asking is None or facts.images > 1:
        return ""
    form = facts.answer
    expected = form.opening is not None and grammar_of(form).continues("")
    asking = [*facts.asking, *([] if expected else ["mode=greedy"])]
    return f"""\
With vqr1, deterministic{" and with an uncertainty" if expected else ""}:

```bash
vqr1-score photos/ model.path=FOLDER {" ".join(asking)} \\
    model.min_pixels={facts.min_pixels} model.max_pixels={facts.max_pixels}
```

"""


def _score(form: AnswerForm) -> str:
    """What of an answer is the score, in one sentence."""
    if form.levels:
        low, *_, high = sorted(form.levels.items(), key=lambda level: level[1])
        place = f" after `{form.opening}`" if form.opening else ""
        return (
            f"The score is what the word{place} stands for, one of {len(form.levels)} words from "
            f"`{low[0]}` ({low[1]:g}) to `{high[0]}` ({high[1]:g})."
        )
    if form.opening is not None:
        if len(form.score_ends) == 1:
            return f"The score is the number between `{form.opening}` and `{form.score_ends[0]}`."
        return f"The score is the number after `{form.opening}`."
    if isinstance(form, PlainAnswer):
        return "The answer is the score: one number and nothing else."
    if form.ratings:
        return f"The score is the mean of the answer's {len(form.ratings)} ratings."
    return f"The score is what `{type(form).__name__}` of vqr1 reads from the answer."


def _metrics(metrics: Sequence[MetricValue]) -> str:
    if not metrics:
        return "No metrics were taken on these weights by the training run."
    rows = ["| metric | images | base model | this checkpoint | 95 % interval of the gain | over |"]
    rows.append("|---|---|---|---|---|---|")
    for metric in metrics:
        before = "" if metric.before is None else f"{metric.before:.3f}"
        gain = (
            ""
            if metric.interval is None
            else f"[{metric.interval[0]:+.3f}, {metric.interval[1]:+.3f}]"
        )
        rows.append(
            f"| {metric.metric} | {metric.images} | {before} | {metric.value:.3f} | {gain} | "
            f"{metric.scored or 'not recorded'} |"
        )
    return "\n".join(rows)


def _limitations(facts: CardFacts) -> str:
    low, high = facts.answer.score_range
    beyond = "" if facts.answer.levels else f", and a score may leave the range {low:g} to {high:g}"
    reasoning = """
- The reasoning is the model's text, not an account of how the score came about."""
    order = """
- Ranking rewards teach an order, so scores need not lie on the MOS scale of any set. Compare
  scores of this checkpoint with each other only."""
    lines = f"""\
- Trained on {", ".join(facts.datasets)} only. Other contents, distortions and image sizes were not
  evaluated by this run; evaluate it on images like yours first (`vqr1-eval`).{
        order if facts.rewards else ""
    }
- Images are resized to at most {facts.max_pixels} pixels; what is lost there cannot be seen.
- An answer may be invalid{beyond}.{reasoning if facts.answer.reasons else ""}"""
    further = facts.family.usage_limitation(facts)
    return lines if further is None else f"{lines}\n{further}"
