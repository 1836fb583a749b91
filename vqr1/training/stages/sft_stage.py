"""`stage=sft`: supervised training. What a run asks of it; the step is `sft.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from vqr1.config import TrainConfig
from vqr1.errors import ConfigError
from vqr1.rewards import WeightedRewards
from vqr1.training.stages.base import Stage, StageParts

if TYPE_CHECKING:
    from vqr1.data.datamodule import RankingDataModule
    from vqr1.training.stages.module import StageModule
    from vqr1.training.stages.responses import Responses
    from vqr1.training.stages.sft import Objective

_Weight = Annotated[float, Field(ge=0)]


@dataclass(config={"extra": "forbid"}, kw_only=True, frozen=True)
class SftStage(Stage):
    """Learns to write given responses.

    Attributes:
        target: `answer`: responses, by cross-entropy; `soft_levels`: DeQA-Score's soft labels.
        answers: JSONL of responses (`vqr1.data.response_file`); None writes the labels in the
            answer form.
        edge: level of a MOS between two bins: the `lower` (Q-Align, DeQA-Score) or the `upper` one
            (Q-ReAlign).
        decimals: of a label that is written as a number, 0 to 2.
        density: soft labels by the density at a level (`pdf`) or its mass around it (`cdf`).
        label_weight: of cross-entropy and KL beside the fidelity, with soft labels.
        fidelity_weight: of the fidelity between pairs, with soft labels.
    """

    target: Literal["answer", "soft_levels"] = "answer"
    answers: str | None = None
    edge: Literal["lower", "upper"] = "lower"
    decimals: Annotated[int, Field(ge=0, le=2)] = 2
    density: Literal["pdf", "cdf"] = "pdf"
    label_weight: _Weight = 0.05
    fidelity_weight: _Weight = 1.0

    @property
    def soft(self) -> bool:
        """The target is soft labels."""
        return self.target == "soft_levels"

    def build(self, parts: StageParts) -> StageModule:
        """See `Stage.build`."""
        from vqr1.training.stages.sft import SftModule
        from vqr1.training.step import UpdateSettings

        config = parts.config
        settings = UpdateSettings(
            optimizer=config.optimizer,
            micro_batch_tokens=config.hardware.micro_batch_tokens,
            total_steps=parts.total_steps,
        )
        return SftModule(
            parts.policy,
            parts.engine,
            parts.validator,
            self._objective(parts),
            settings,
            parts.vision_cache,
        )

    def _objective(self, parts: StageParts) -> Objective:
        from vqr1.iqa.answers import already_written
        from vqr1.policy.level_score import level_tokens
        from vqr1.training.stages.response_targets import CrossEntropy, ResponseTokens
        from vqr1.training.stages.soft_levels import SoftLevels

        form, tokenizer = parts.config.answer.form, parts.policy.processor.tokenizer
        written = already_written(form, parts.data.prompt_text)
        encode = ResponseTokens(tokenizer, parts.policy.family, written)
        if not self.soft:
            return CrossEntropy(self._responses(parts.config, parts.data), encode)
        return SoftLevels(
            parts.data.sets,
            form,
            level_tokens(tokenizer, form),
            encode,
            self.edge,
            self.density,
            self.label_weight,
            self.fidelity_weight,
        )

    def problems(self, config: TrainConfig, rewards: WeightedRewards) -> list[str]:
        """See `Stage.problems`."""
        form, problems = config.answer.form, []
        if config.target == "pairs" and self.answers is None:
            problems.append(
                f"target=pairs, stage.target={self.target}: stated pairs are no labels that could "
                "be written as answers; use target=mos, or give responses as stage.answers"
            )
        if config.target == "self_vote":
            problems.append(
                "target=self_vote, stage=sft: votes are rewards of stage=grpo; in a chain give it "
                "to that entry (chain=[sft,'grpo target=self_vote'])"
            )
        if self.soft and self.answers is not None:
            problems.append(
                f"stage.target=soft_levels, stage.answers={self.answers}: soft labels come from "
                "the data set's labels; set stage.answers=null, or stage.target=answer"
            )
        processes = config.hardware.devices * config.hardware.nodes
        images = config.loader.global_batch_size or config.loader.batch_size * processes
        if self.compares(rewards) and processes > 1 and images // processes < 2:
            problems.append(
                f"stage.target=soft_levels, {processes} processes, loader.batch_size="
                f"{images // processes}: the fidelity compares pairs of images within each "
                "process, which needs 2 there; raise it, or set stage.fidelity_weight=0"
            )
        steps = np.diff(sorted(form.levels.values()))
        if self.soft and (
            len(form.levels) != 5 or form.reasons or not np.allclose(steps, steps[0])
        ):
            problems.append(
                "stage.target=soft_levels, answer: it needs five words with evenly spaced scores "
                "and no reasoning; choose prompt=levels"
            )
        if not self.soft and self.answers is None and form.scored and form.response_of("3") is None:
            problems.append(
                "stage.target=answer, answer: this form asks for more than a score, which labels "
                "do not state; choose prompt=non_thinking or prompt=levels, or give responses as "
                "stage.answers"
            )
        return problems

    def compares(self, rewards: WeightedRewards) -> bool:
        """See `Stage.compares`."""
        return self.soft and self.fidelity_weight > 0

    def compares_in_process(self, config: TrainConfig) -> bool:
        """See `Stage.compares_in_process`: pairs are neighbours in a process's batch."""
        return True

    def check_data(
        self, config: TrainConfig, rewards: WeightedRewards, data: RankingDataModule
    ) -> None:
        """See `Stage.check_data`."""
        if not self.soft:
            self._responses(config, data)
            return
        from vqr1.training.label_checks import missing_labels

        problems = missing_labels(data.sets.values(), "std", "stage.target=soft_levels")
        if problems:
            raise ConfigError(problems)

    def _responses(self, config: TrainConfig, data: RankingDataModule) -> Responses:
        from vqr1.training.stages.responses import responses_from_file, responses_from_labels

        form = config.answer.form
        if self.answers is None:
            return responses_from_labels(data.sets, form, self.edge, self.decimals)
        return responses_from_file(Path(self.answers).expanduser(), data.sets, form)

    def described(self, config: TrainConfig) -> str:
        """See `Stage.described`."""
        if self.soft:
            return "; soft labels over level words"
        return f"; responses {'from the labels' if self.answers is None else self.answers}"
