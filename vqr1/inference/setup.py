"""Who answers and what is asked, in one record that any process can open.

It is built from the configuration of any command and holds nothing loaded, so that checks, settings
and loader workers need no model.

Not here: what the commands check of it (`mode_checks.py`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from vqr1.config import (
    AnyAnswer,
    AnyBackend,
    EvalConfig,
    EvalModeConfig,
    HardwareConfig,
    ModelConfig,
    PromptConfig,
    ScoreConfig,
    ServerConfig,
)
from vqr1.inference.request import Request, build_request
from vqr1.policy.training_prompt import vision_id_of

if TYPE_CHECKING:
    from vqr1.data.prompts import ResizeRule
    from vqr1.inference.backends.base import Backend

EXPECTATION = "numbers of at most two decimals in the accepted range"
"""What an expected score is taken over: results from before it was a grammar are not mixed."""


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

    def settings(self) -> dict[str, Any]:
        """What decides an image's answers, by dotted key; all else may change when resumed."""
        model, mode = self.model, self.mode
        server = isinstance(self.backend, ServerConfig)
        settings: dict[str, Any] = {
            "model.path": model.path,
            "model.revision": model.revision,
            "model.dtype": model.dtype,
            "model.min_pixels": model.min_pixels,
            "model.max_pixels": model.max_pixels,
            "prompt.text": self.prompt.text,
            "prompt.images": self.prompt.images,
            "prompt.system": self.prompt.system,
            "prompt.vision_id": vision_id_of(self.prompt, model, hub=not server),
            **self.answer.settings(),
            "mode.name": mode.name,
            "mode.samples": mode.samples,
            **{f"mode.sampling.{key}": value for key, value in asdict(mode.sampling).items()},
            "backend.name": self.backend.name,
        }
        if isinstance(self.backend, ServerConfig):
            # A server's address may change while its model stays.
            settings["backend.model"] = self.backend.model
            settings["backend.extra_body"] = self.backend.extra_body
            settings["backend.unsupported"] = self.backend.unsupported
        if mode.name == "sampled":
            settings["seed"] = self.seed
        if mode.name == "expected":
            settings["mode.expectation"] = EXPECTATION
        return settings
