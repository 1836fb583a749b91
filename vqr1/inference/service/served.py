"""The model that answers, and what answers state of it.

Not here: loading it (`vqr1.cli.serve`), who is served (`service.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from vqr1.inference.scorer import Scorer
from vqr1.inference.service.batching import Answer, Task
from vqr1.inference.tested_scores import TestedScores


@dataclass(frozen=True)
class ServiceInfo:
    """What answers state of the model.

    Attributes:
        model: its name.
        prompt: name of the prompt of scores.
        describe: name of the prompt of descriptions; None where the model writes no text.
        mode: how an answer becomes a score.
    """

    model: str
    prompt: str
    describe: str | None
    mode: str


@dataclass(frozen=True)
class Served:
    """The model that answers, in both of its parts.

    Attributes:
        scorer: gives scores.
        describer: gives descriptions, with the same model; None where it writes no text.
        tested: scores of the images that the model was tested on; None where unknown.
    """

    scorer: Scorer
    describer: Scorer | None
    tested: TestedScores | None = None

    def images(self) -> dict[Task, int]:
        """Images of a prompt, by task that there is."""
        shown: dict[Task, int] = {"score": self.scorer.images}
        return shown if self.describer is None else {**shown, "describe": self.describer.images}

    def answer(self, task: Task) -> Answer:
        """Who answers a task."""
        scorer = self.scorer if task == "score" else self.describer
        assert scorer is not None
        return scorer.score_resized
