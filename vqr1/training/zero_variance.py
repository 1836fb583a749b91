"""Why no group of a run's first steps taught anything.

A group whose rewards do not differ (zero variance) is excluded from the update, its KL term
included. Where that holds for every group from the first step on, no weight changes at all, and
what is wrong is nearly always the set-up: no answer can be read, the answers to an image are all
alike, or the reward cannot distinguish different scores.

Not here: the shares themselves (`scored_rollout.rollout_metrics`), and the watchdog
`zero_variance`, which looks at later steps too (`watchdogs.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vqr1.training.task import task_metric

FIRST_STEPS = 10
"""Steps after which it is reported."""

CAUSES = {
    "zero_variance/no_score": (
        "no answer that holds a score: look at the sample answers, prompt.text and "
        "answer.score_range, and whether rollout.sampling.max_new_tokens cuts answers off"
    ),
    "zero_variance/equal_scores": (
        "equal scores only: raise rollout.sampling.temperature, top_k, top_p or grpo.group_size"
    ),
    "zero_variance/equal_rewards": (
        "scores that differ and earn the same: the reward is at its bound for all of them, or "
        "does not look at scores; check that MOS and scores are on one scale (dataset.mos_scale, "
        "answer.score_range) and the constants of reward.terms"
    ),
}
"""Metric of each cause, and what is to be done."""


class FirstSteps:
    """Collects the first steps' metrics until one group has rewards that differ.

    Args:
        steps: how many steps are looked at.
        task: whose steps these are; empty: those that rank.
    """

    def __init__(self, steps: int = FIRST_STEPS, task: str = "") -> None:
        self.steps = steps
        self.task = task
        self.seen = 0
        self.shares = dict.fromkeys(CAUSES, 0.0)
        self.done = False

    def observe(self, metrics: Mapping[str, float]) -> str | None:
        """Look at one step's metrics; the message after the last of the first steps."""
        if self.done:
            return None
        if metrics[task_metric(self.task, "zero_variance_rate")] < 1.0:
            self.done = True
            return None
        self.seen += 1
        for name in CAUSES:
            # A task without scores knows none of these causes.
            self.shares[name] += metrics.get(task_metric(self.task, name), 0.0)
        return self.finish() if self.seen == self.steps else None

    def finish(self) -> str | None:
        """The message of a run that ends here; None where there is nothing to report."""
        if self.done or self.seen == 0:
            return None
        self.done = True
        if self.task:
            return (
                f"task {self.task}: in none of its first {self.seen} steps did the rewards of any "
                "group differ, so that it has changed no weight; the policy may not answer as the "
                f"task asks (train/{self.task}/format_compliance_rate, truncated_rate): raise "
                "rollout.sampling.max_new_tokens, teach it the form first (stage=sft), or train "
                f"without it (tasks.{self.task}.share)"
            )
        found = sorted(CAUSES, key=lambda name: -self.shares[name])
        parts = [
            f"{self.shares[name] / self.seen:.0%} of the groups have {CAUSES[name]}"
            for name in found
            if self.shares[name] > 0
        ]
        return (
            f"zero variance: in none of the first {self.seen} steps did the rewards of any group "
            f"differ, so no weight has changed; {'; '.join(parts)}"
        )

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far."""
        return {"seen": self.seen, "shares": dict(self.shares), "done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what was seen."""
        self.seen, self.done = state["seen"], state["done"]
        self.shares = {name: state["shares"][name] for name in CAUSES}
