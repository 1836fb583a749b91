"""vqr1: train, evaluate and serve vision-language models that evaluate image quality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqr1.inference.metric import create_metric

__version__ = "0.2.0"
__all__ = ["__version__", "create_metric"]


def __getattr__(name: str) -> Any:
    """`create_metric`, imported at its first use: it needs PyTorch, `import vqr1` does not."""
    if name != "create_metric":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vqr1.inference.metric import create_metric

    return create_metric
