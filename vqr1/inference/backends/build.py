"""From a configuration to a backend, ready to answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vqr1.config import AnyBackend, HardwareConfig, ModelConfig, ServerConfig, VllmBackendConfig
from vqr1.data.prompts import ResizeRule
from vqr1.errors import ConfigError
from vqr1.inference.backends.base import Backend
from vqr1.policy.without_sklearn import hide_sklearn_from_transformers


def build_backend(
    backend: AnyBackend,
    model: ModelConfig,
    hardware: HardwareConfig,
    local_rank: int = 0,
    images: int = 1,
) -> Backend:
    """Load the model, or prepare the client of a server.

    Args:
        backend: which one (`conf/backend`).
        model: checkpoint and image sizes; with a server, the image sizes only.
        hardware: where a model in this process goes.
        local_rank: number of this process on its machine, and of its GPU.
        images: most images of a prompt, for which vLLM has to be started.

    Raises:
        ConfigError: a device that is not there, or image sizes that contradict each other.
        ModelError: the checkpoint cannot be loaded, or vLLM is not installed.
    """
    if isinstance(backend, ServerConfig):
        from vqr1.inference.backends.openai import OpenAiBackend

        return OpenAiBackend(backend, model)
    if isinstance(backend, VllmBackendConfig):
        from vqr1.inference.backends.vllm import VllmBackend

        return VllmBackend(backend, model, local_rank, images)
    return _local(model, hardware, local_rank)


def _local(model: ModelConfig, hardware: HardwareConfig, local_rank: int) -> Backend:
    hide_sklearn_from_transformers()
    import torch
    from transformers.utils.logging import disable_progress_bar

    gpu = hardware.accelerator == "gpu"
    if gpu and not torch.cuda.is_available():
        raise ConfigError(
            ["hardware.accelerator=gpu: PyTorch finds no GPU on this machine; use hardware=cpu"]
        )
    if hardware.threads is not None:
        torch.set_num_threads(hardware.threads)
    if model.path is None:
        # The tiny policy loads in a blink; larger ones keep their bar.
        disable_progress_bar()
    device = f"cuda:{local_rank}" if gpu else "cpu"
    return local_backend(model, device, hardware.attention, hardware.precision)


def local_backend(
    model: ModelConfig,
    device: Any = "cpu",
    attention: str = "sdpa",
    precision: str = "32-true",
) -> Backend:
    """A model in this process: a policy, or a student where `model.path` is one.

    Args:
        model: checkpoint and image sizes.
        device: where it goes.
        attention: see `load_policy`.
        precision: `hardware.precision` of a policy's passes; as in its training.

    Raises:
        ConfigError: image sizes that contradict each other.
        ModelError: the checkpoint cannot be loaded.
    """
    from vqr1.inference.backends.local import LocalBackend
    from vqr1.policy.loading import load_policy
    from vqr1.student.files import is_student

    if is_student(model):
        from vqr1.inference.backends.student import StudentBackend

        return StudentBackend(model, device)
    return LocalBackend(load_policy(model, attention=attention, device=device), model, precision)


def build_resize_rule(backend: AnyBackend, model: ModelConfig) -> ResizeRule:
    """How a backend resizes images, given before its model is loaded.

    Raises:
        ConfigError: image sizes that contradict each other.
        ModelError: the checkpoint's processor cannot be loaded.
    """
    from vqr1.policy.checkpoint_config import load_family
    from vqr1.policy.loading import load_processor
    from vqr1.policy.prompts import resize_rule, served_resize_rule
    from vqr1.student.files import is_student
    from vqr1.student.folder import load_resize_rule

    if isinstance(backend, ServerConfig):
        return served_resize_rule(model)
    if model.path is not None and is_student(model):
        return load_resize_rule(model.path)
    # A checkpoint that is not there is reported by what every command needs of it first.
    reader = load_processor(model).image_processor
    return resize_rule(load_family(model), reader, model.min_pixels, model.max_pixels)


def with_server_model(backend: AnyBackend) -> AnyBackend:
    """The configuration with the name of a server's model, which decides its answers.

    Raises:
        ModelError: the server has to be asked and cannot be used.
    """
    if not isinstance(backend, ServerConfig) or backend.model is not None:
        return backend
    from vqr1.rollout.openai_client import OpenAiClient

    with OpenAiClient(backend) as server:
        return replace(backend, model=server.model())
