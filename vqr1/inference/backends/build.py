"""From a configuration to a backend, ready to answer."""

from __future__ import annotations

from vqr1.config import AnyBackend, HardwareConfig, ModelConfig, ServerConfig, VllmBackendConfig
from vqr1.errors import ConfigError
from vqr1.inference.backends.base import Backend


def build_backend(backend: AnyBackend, model: ModelConfig, hardware: HardwareConfig) -> Backend:
    """Load the model, or prepare the client of a server.

    Args:
        backend: which one (`conf/backend`).
        model: checkpoint and image sizes; with a server, the image sizes only.
        hardware: where a model in this process goes.

    Raises:
        ConfigError: a device that is not there, or image sizes that contradict each other.
        ModelError: the checkpoint cannot be loaded, or vLLM is not installed.
    """
    if isinstance(backend, ServerConfig):
        from vqr1.inference.backends.openai import OpenAiBackend

        return OpenAiBackend(backend, model)
    if isinstance(backend, VllmBackendConfig):
        from vqr1.inference.backends.vllm import VllmBackend

        return VllmBackend(backend, model)
    return _local(model, hardware)


def _local(model: ModelConfig, hardware: HardwareConfig) -> Backend:
    import torch
    from transformers.utils.logging import disable_progress_bar

    from vqr1.inference.backends.local import LocalBackend
    from vqr1.policy.loading import load_policy

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
    device = "cuda" if gpu else "cpu"
    return LocalBackend(load_policy(model, attention=hardware.attention, device=device), model)
