"""Fidelity of a further score of the answer to the order of a further label column.

One term for each further score trains an answer of several (quality, authenticity, alignment):
the ranked score with the MOS, the others with the columns of their sets.

Not here: the formula (`vqr1.iqa.thurstone`); weighing the terms is `weight`'s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from vqr1.rewards.base import Need, RewardInputs
from vqr1.rewards.fidelity import FidelityReward


class AttributeFidelity(FidelityReward):
    """`FidelityReward` of another score than the ranked one.

    Args:
        attribute: name of the score in the answer, such as one of `answer.scores`.
        column: label column with its number for each image, higher being better; None: of the
            attribute's name. Only the order of the numbers counts.
        constants: those of `FidelityReward`.

    Raises:
        ValueError: a constant is out of range.
    """

    needs: tuple[Need, ...] = ("attributes",)

    def __init__(self, attribute: str, column: str | None = None, **constants: Any) -> None:
        super().__init__(**constants)
        self.attribute = attribute
        self.column = column or attribute
        self.attribute_names = (self.attribute,)
        self.label_columns = self.number_columns = (self.column,)

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] in [0, 1.001]; 0 where the answer does not state the score."""
        scores = inputs.attributes[self.attribute]
        return super().__call__(
            replace(
                inputs,
                scores=scores,
                valid=scores.isfinite(),
                mos=inputs.columns[self.column].to(inputs.mos),
                preferences=None,  # those of pairs are about the ranked score
            )
        )
