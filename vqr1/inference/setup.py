"""Who answers and what is asked, in one record that any process can open.

It is built from the configuration of any command and holds nothing loaded, so that checks and
loader workers need no model.

Not here: what the commands check of it (`mode_checks.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vqr1.config import (
    AnyAnswer,
    AnyBackend,
    EvalConfig,
    EvalModeConfig,
    HardwareConfig,
    ModelConfig,
    PromptConfig,
    ScoreConfig,
)
from vqr1.inference.request import Request, build_request

if TYPE_CHECKING:
    from vqr1.data.prompts import ResizeRule
    from vqr1.inference.backends.base import Backend


@dataclass(frozen=True)
class InferenceSetup:
    """A backend and what it is asked, before anything is loaded.

    Attributes:
        backend: who answers.
        model: checkpoint and image sizes; with a server, the image sizes only.
        hardware: where a model in this process goes.
        prompt: what is asked.
        answer: how the answer is written, and how it is read.
        mode: how an answer becomes a score.
        seed: of sampled answers.
    """

    backend: AnyBackend
    model: ModelConfig
    hardware: HardwareConfig
    prompt: PromptConfig
    answer: AnyAnswer
    mode: EvalModeConfig
    seed: int

    @classmethod
    def of(cls, config: EvalConfig | ScoreConfig) -> InferenceSetup:
        """The setup of a command."""
        return cls(
            config.backend,
            config.model,
            config.hardware,
            config.prompt,
            config.answer,
            config.mode,
            config.seed,
        )

    @property
    def request(self) -> Request:
        """What each image is asked."""
        return build_request(self.mode, self.prompt, self.answer.form, self.seed)

    def resize_rule(self) -> ResizeRule:
        """How images are resized for this backend.

        Raises:
            UserError: image sizes or a processor that cannot be used.
        """
        from vqr1.inference.backends.build import build_resize_rule

        return build_resize_rule(self.backend, self.model)

    def named(self) -> InferenceSetup:
        """The setup with the name of a server's model, which decides its answers.

        Raises:
            ModelError: the server has to be asked and cannot be used.
        """
        from vqr1.inference.backends.build import with_server_model

        return replace(self, backend=with_server_model(self.backend))

    def open(self, local_rank: int = 0) -> Backend:
        """The backend, ready to answer the request.

        Args:
            local_rank: number of this process on its machine, and of its GPU.

        Raises:
            UserError: backend, model or prompt are not as they should be.
        """
        # Importing PyTorch takes seconds; a mistake on the command line is reported before.
        from vqr1.inference.backends import build_backend

        backend = build_backend(
            self.backend, self.model, self.hardware, local_rank, self.prompt.images
        )
        backend.prepare(self.request)
        return backend
