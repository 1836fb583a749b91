"""Who answers: this process, a server, or vLLM in this process, after one interface."""

from vqr1.inference.backends.base import Backend
from vqr1.inference.backends.build import build_backend

__all__ = ["Backend", "build_backend"]
