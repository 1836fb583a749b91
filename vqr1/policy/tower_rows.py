"""What a family adds whose connector can run without the tower before it.

The connector of such a family takes each image's rows by themselves, so that the rows of a tower
that does not change can be kept while the connector trains (`vqr1.policy.vision`).

Not here: families (`vqr1.policy.families`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from vqr1.policy.families.base import Parts


class TowerRows(ABC):
    """`Family.image_features` in two halves: `connect(parts, tower_rows(core, ...))`."""

    @abstractmethod
    def tower_rows(self, core: Any, encoding: Any, images: Sequence[Tensor]) -> list[Tensor]:
        """The tower alone; arguments as of `Family.image_features`.

        Returns:
            B tensors [T_b, tower's width], which do not depend on the connector's weights.
        """

    @abstractmethod
    def connect(self, parts: Parts, rows: Sequence[Tensor]) -> list[Tensor]:
        """What the connector makes of the rows of B images, as `Family.image_features` gives it.

        Args:
            parts: of the model.
            rows: as `tower_rows` gives them.
        """
