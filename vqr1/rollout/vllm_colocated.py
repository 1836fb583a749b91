"""Responses from a vLLM engine inside the training process, on its own device.

The engine has a second copy of the weights, in the precision of the passes, and takes the policy's
before it samples. Between two rollouts it can sleep: weights and cache are given up, so that the
update has the memory. Several training processes have an engine each, for their own images.

Not here: what any vLLM is asked (`vllm_requests.py`), and what its other arithmetic does to the
gradient (`vqr1.training.importance_sampling`).
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from vqr1.config import ColocatedConfig, ModelConfig, PromptConfig, SamplingConfig
from vqr1.errors import ModelError
from vqr1.policy.loading import Policy
from vqr1.policy.prompts import prompt_builder
from vqr1.policy.served_weights import served_weights
from vqr1.policy.vision import VisionFeatures
from vqr1.records import PromptBatch, Rollout
from vqr1.rollout.vllm_requests import (
    OTHER_PROCESSOR,
    Answer,
    VllmRequests,
    asked_for,
    fitting_logprobs,
    prompt_input,
    seeds_of,
)
from vqr1.rollout.vllm_start import import_vllm, start_vllm

WHO = "rollout.engine=vllm_colocated"


def colocated_vllm() -> Any:
    """The package, prepared for an engine that lives in this process.

    Raises:
        ModelError: it is not installed, or does not fit the other packages.
    """
    # Weights are handed over without a copy on the way.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # It warns of every layer whose weights it does not know how to hand over, buffers included.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    return import_vllm(WHO, "rollout=local")


class VllmColocatedEngine:
    """Samples by vLLM in this process.

    Args:
        policy: the policy, on its device, and where it was loaded from.
        prompt: what is asked.
        config: memory and start-up.
        model: sizes of the images.
        sampling: how the training draws responses.
        dtype: precision of the training's passes: "float32" or "bfloat16".
        seed: of the engine.
        alone: no other process trains.

    Raises:
        ModelError: vLLM is not there or does not start, or this process has had an engine.
    """

    _started = False

    def __init__(
        self,
        policy: Policy,
        prompt: PromptConfig,
        config: ColocatedConfig,
        model: ModelConfig,
        sampling: SamplingConfig,
        *,
        dtype: str,
        seed: int,
        alone: bool,
    ) -> None:
        vllm = colocated_vllm()
        if VllmColocatedEngine._started:
            raise ModelError(
                f"{WHO}: this process has had its engine already, and vLLM allows no second one; "
                "sweep with hydra/launcher=processes, where each job has a process of its own"
            )
        VllmColocatedEngine._started = True
        self._parameters = vllm.SamplingParams
        self._model = policy.model
        self._requests = VllmRequests.of(policy.model, policy.processor, f"{WHO}: vLLM")
        self._builder = prompt_builder(policy.family, policy.processor, model, prompt)
        device = next(policy.model.parameters()).device
        # vLLM frees a GPU's memory only.
        self._sleeps = config.sleep and device.type == "cuda"
        self._on_cpu = device.type == "cpu"
        self._current = False
        longest = self._builder.most_tokens() + sampling.max_new_tokens
        self._llm = start_vllm(
            vllm,
            f"{WHO}, rollout.colocated.kv_cache_gib={config.kv_cache_gib:g}",
            policy.source,
            model.revision,
            policy.family.serving_arguments(self._builder.rule),
            images=self._builder.images,
            dtype=dtype,
            seed=seed,
            max_model_len=longest,
            # Images come resized; there is little to save.
            mm_processor_cache_gb=0,
            kv_cache_memory_bytes=int(config.kv_cache_gib * 2**30),
            # Given the cache's size, this is only compared with what is free at the start.
            gpu_memory_utilization=0.01,
            enable_sleep_mode=self._sleeps,
            enforce_eager=config.enforce_eager,
            logprobs_mode=fitting_logprobs(sampling)[0],
            # The processes of the training are known to PyTorch already.
            distributed_executor_backend=None if alone else "external_launcher",
            **(_on_a_cpu(longest) if self._on_cpu else {}),
        )
        self._rest()

    def with_model(self, model: nn.Module) -> VllmColocatedEngine:
        """See `RolloutEngine.with_model`."""
        self._model = model
        self._current = False
        return self

    def synchronise(self) -> None:
        """See `RolloutEngine.synchronise`; the weights are taken when the next responses are."""
        self._current = False

    def sample(
        self,
        prompts: PromptBatch,
        *,
        group_size: int,
        sampling: SamplingConfig,
        seed: int,
        vision: VisionFeatures | None = None,
    ) -> Rollout:
        """As `SamplingEngine.sample`, by the engine in this process.

        Raises:
            ModelError: vLLM builds another prompt, or answers something else than was asked for.
        """
        images = prompts.to("cpu").images
        tokens = self._builder.template_ids()
        asked = [prompt_input(tokens, shown) for shown in images]
        how = [
            self._parameters(
                n=asked_for(group_size, sampling),
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                logprobs=0,
                **self._requests.fields(sampling, own),
            )
            for own in seeds_of(images, seed)
        ]
        self._wake()
        outputs = self._llm.generate(asked, how, use_tqdm=False)
        self._rest()
        for output, prompt in zip(outputs, prompts.input_ids, strict=True):
            self._requests.check_prompt(output.prompt_token_ids, prompt.tolist(), OTHER_PROCESSOR)
        return self._requests.rollout(
            [_answer(output) for output in outputs],
            sampling,
            group_size,
            prompts.device,
        )

    def _wake(self) -> None:
        """Bring the engine to the policy's weights, and give it its cache."""
        if self._sleeps:
            # What PyTorch keeps for later is not free for vLLM.
            torch.cuda.empty_cache()
            self._llm.wake_up(tags=["weights"])
        if not self._current:
            self._llm.collective_rpc(
                "reload_weights", kwargs={"weights_iterator": served_weights(self._model)}
            )
            if self._on_cpu:
                self._llm.apply_model(_pack_tied_heads)
            self._llm.reset_prefix_cache()
            # Image features are kept by image alone, whatever tower computed them.
            self._llm.llm_engine.reset_encoder_cache()
            self._current = True
        if self._sleeps:
            self._llm.wake_up(tags=["kv_cache"])

    def _rest(self) -> None:
        """Give up weights and cache until the next rollout."""
        if self._sleeps:
            self._llm.sleep(level=2)
            self._current = False


def _on_a_cpu(longest: int) -> dict[str, Any]:
    """Arguments of a CPU's engine: it reads every prompt at once.

    A prompt in pieces would turn its generator back, which those of a CPU cannot.
    """
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(2048, longest)}


def _pack_tied_heads(model: Any) -> None:
    """Gives output heads that have the embedding's weights these again.

    On a CPU vLLM multiplies with a copy in an order of its own, which it makes anew of the weights
    that are handed over by a name of their own.
    """
    for module in model.modules():
        if hasattr(module, "tie_weights") and hasattr(module, "cpu_linear"):
            module.quant_method.process_weights_after_loading(module)


def _answer(output: Any) -> Answer:
    rows = [list(response.token_ids) for response in output.outputs]
    logprobs = [
        [float(found[token].logprob) for token, found in zip(row, response.logprobs, strict=True)]
        for row, response in zip(rows, output.outputs, strict=True)
    ]
    return rows, logprobs
