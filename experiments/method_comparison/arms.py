"""The runs of three studies: methods, rewards, group sizes. What each changes, and nothing else.

Not here: how many steps each takes (`plan.py`), running one (`runs.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator

from vqr1.iqa.answers.score_tokens import score_token

BASELINE = "visualquality_r1"
METHODS, REWARDS, GROUPS = "method_comparison", "reward_ablation", "group_size"
"""Folders of the experiments."""

Writer = Callable[[str, float, Generator], str]
"""A response from a sentence and a score from 1 to 5."""


@dataclass(frozen=True)
class Form:
    """An answer form that the packaged policy is taught before a method trains it.

    Attributes:
        method: whose prompt and answer form it is.
        write: writes one of the packaged policy's own answers in this form.
    """

    method: str
    write: Writer


def _hundred(score: float) -> float:
    return min(max((score - 1) * 25, 0.0), 100.0)


def _five(words: str, score: float, rng: Generator) -> str:
    ratings = [min(max(score + float(e), 1.0), 5.0) for e in rng.normal(0, 0.5, 5)]
    lines = "\n".join(f"{rating:.2f}" for rating in ratings)
    return f"<think>{words}</think><answer>{lines}</answer>"


def _evidence(words: str, score: float, rng: Generator) -> str:
    reasoning = {"evidence": words, "solution": "Repair it."}
    return json.dumps({"reasoning": reasoning, "rating": f"{score:.2f}"})


FORMS: dict[str, Form] = {
    "mr_iqa": Form("mr_iqa", lambda words, score, rng: f"<answer>{score:.2f}</answer>"),
    "q_insight": Form(
        "q_insight",
        lambda words, score, rng: (
            f'<think>\n{words}\n</think>\n<answer>\n{{"rating": {score:.2f}}}\n</answer>'
        ),
    ),
    "refine_iqa": Form(
        "refine_iqa",
        lambda words, score, rng: f"<think>{words}</think><answer>Score: {score:.2f}</answer>",
    ),
    "hundred": Form(
        "tatar",
        lambda words, score, rng: f"<think>{words}</think><answer>{_hundred(score):.2f}</answer>",
    ),
    "iqa_t1": Form(
        "iqa_t1",
        lambda words, score, rng: f'<think>{words}</think>{{"score": {score:.2f}}}',
    ),
    "mr_iqa_2": Form("mr_iqa_2", _evidence),
    "preresq": Form("preresq", _five),
    "score_tokens": Form(
        "unipercept",
        lambda words, score, rng: (
            f"The quality of the image is {score_token(round(_hundred(score)))}"
        ),
    ),
    "boxed": Form("evoquality", lambda words, score, rng: f"{words} \\boxed{{{score:.2f}}}"),
}
"""By name. The sentences and scores are what the packaged policy answers to its own prompt; the
form is new to it, the opinion is not."""

LEVELS = ("validation.mode=levels",)


@dataclass(frozen=True)
class Arm:
    """One setting, run with several seeds.

    Attributes:
        name: in tables and file names.
        experiment: folder that its results lie in.
        overrides: what it changes.
        form: taught before; None starts from the packaged policy.
        teacher: arm whose run it begins with; None: none.
        rounds: trainings one after the other, each from the one before.
        without: data sets that it cannot be run on, with the reason.
        same_as: arm whose runs its own repeat; one run shows it.
        longest: tokens that an answer may have.
    """

    name: str
    experiment: str
    overrides: tuple[str, ...]
    form: str | None = None
    teacher: str | None = None
    rounds: int = 1
    without: tuple[tuple[str, str], ...] = ()
    same_as: str | None = None
    longest: int = 64

    @property
    def limit(self) -> str:
        """The override that sets `longest`."""
        return f"rollout.sampling.max_new_tokens={self.longest}"


def _method(name: str, *overrides: str, form: str | None = None, **more: object) -> Arm:
    given = (f"method={name}", "method.requires=[]", *overrides)
    return Arm(name, METHODS, given, form, **more)  # type: ignore[arg-type]


METHOD_ARMS = (
    _method(BASELINE),
    _method("mr_iqa", form="mr_iqa"),
    _method("q_hawkeye"),
    _method("deqa", without=(("biq2021", "its labels have no standard deviations"),)),
    _method("q_align"),
    # No MOS of the demo set lies between two bins, where alone it differs.
    _method("q_realign", same_as="q_align"),
    # Votes by scores: a policy of two million weights does not compare two images. One round of the
    # two: the votes take a part of the budget.
    _method(
        "evoquality", "votes.by=scores", "votes.count=8", "votes.rounds=1",
        "dataset.max_images=200", form="boxed",
    ),
    # The head in the sizes of conf/stage/distill.yaml: the published ones are for 7,000 images.
    _method(
        "rali", "prompt=thinking", "answer=think_answer", "stage.samples=3",
        "dataset.max_images=400", "stage.embedding=64", "stage.components=32",
        "stage.prototypes=64", "stage.bins=24", teacher=BASELINE,
    ),
    _method("preresq", form="preresq"),
    _method("unipercept", form="score_tokens"),
    _method("refine_iqa", form="refine_iqa"),
    _method("tatar", form="hundred"),
    _method("vq_insight", form="hundred"),
    _method("iqa_t1", form="iqa_t1"),
    _method("zoom_iqa", form="q_insight"),
    # Its pool of 6 does not divide 16 images; its JSON has up to 69 tokens.
    _method("mr_iqa_2", "grpo.pool=8", form="mr_iqa_2", longest=96),
    # Without its degradation task, whose answers the policy cannot write.
    _method("q_insight", "tasks=[]", form="q_insight"),
)  # fmt: skip

PARTLY = ("refine_iqa", "tatar", "vq_insight", "iqa_t1", "zoom_iqa", "mr_iqa_2", "q_insight")
"""Methods of which a part is not here (`method.requires` of their files, or their head)."""

REWARD_ARMS = tuple(
    Arm(f"reward_{name}", REWARDS, (f"method={BASELINE}", f"reward={name}"))
    for name in (
        "mse", "binary", "probability", "fidelity_fixed_variance", "threshold", "margin",
    )
)  # fmt: skip

GROUP_ARMS = tuple(
    Arm(f"group_{k}", GROUPS, (f"method={BASELINE}", f"grpo.group_size={k}")) for k in (2, 4, 8, 12)
)

ARMS = {arm.name: arm for arm in (*METHOD_ARMS, *REWARD_ARMS, *GROUP_ARMS)}
"""All arms by name; the baseline is the fidelity reward and K = 6 of the other two studies."""
