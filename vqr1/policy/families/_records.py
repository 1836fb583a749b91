"""Records of model families: the parts of a model, and what its layers and images become.

Not here: the families (`base.py` states what they declare).

Shape legend: see `base.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class ImageEncoding(Protocol):
    """What one checkpoint makes of a resized image; made by its family, which knows more of it."""

    def rows(self, image: Tensor) -> int:
        """Rows of an image [H, W, 3] uint8 that go through the tower."""
        ...

    def key(self, image: Tensor) -> bytes:
        """A digest of what the tower takes, the same in every batch and on every machine.

        It decides the noise of the image's responses: another definition would be other samples.
        """
        ...


@dataclass(frozen=True)
class Parts:
    """The modules of a policy that passes work on.

    Attributes:
        text: the text model; takes `inputs_embeds`, has `layers`, `norm` and `rotary_emb`.
        embeddings: token embedding, [L] -> [L, H].
        head: output head, [L, H] -> [L, vocabulary].
        text_layers: blocks of the text model.
        vision: the tower with what leads from it to the text model; several modules as one
            `nn.ModuleList`.
        vision_layers: blocks of the tower.
        connector: what of `vision` comes after the tower: merger, projector; several modules as
            one `nn.ModuleList`.
    """

    text: Any
    embeddings: Any
    head: Any
    text_layers: Any
    vision: Any
    vision_layers: Any
    connector: Any


@dataclass(frozen=True)
class AttentionRows:
    """What an attention layer makes of n rows.

    Attributes:
        both: [n, Q + G, D] queries and then keys, which are rotated together.
        values: [n, G, D].
        gate: [n, Q * D] factors of the attention's result; None without a gate.
    """

    both: Tensor
    values: Tensor
    gate: Tensor | None = None


def normalised_heads(attention: Any, hidden: Tensor) -> AttentionRows:
    """What an attention layer with norms of queries and keys, head by head, makes of [n, H]."""
    size = attention.head_dim
    query = attention.q_norm(attention.q_proj(hidden).unflatten(-1, (-1, size)))
    key = attention.k_norm(attention.k_proj(hidden).unflatten(-1, (-1, size)))
    value = attention.v_proj(hidden).unflatten(-1, (-1, size))
    return AttentionRows(torch.cat([query, key], dim=1), value)
