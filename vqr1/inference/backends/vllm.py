"""vLLM in this process as a backend, where it is installed (`pip install 'vqr1[vllm]'`).

The prompt is handed over as tokens with the resized images, so that nothing of it depends on
vLLM's own chat code, and what vLLM made of both is compared with it. Answers end where the local
engine's end and hold no tokens that these may not hold. Whether batches change a score in the last
digits is vLLM's affair.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from vqr1.config import ModelConfig, PromptConfig, VllmBackendConfig
from vqr1.distributed.environment import is_launched
from vqr1.inference.backends.prompted import PromptedBackend
from vqr1.inference.request import Reply, Request, with_beginning
from vqr1.policy.checkpoint_config import load_config, source_of
from vqr1.policy.loading import load_processor
from vqr1.policy.prompts import PromptBuilders
from vqr1.policy.top_logprobs import ReportedToken, expected_from_tokens
from vqr1.records import joined_prompts
from vqr1.rollout.chat_request import TOP_LOGPROBS
from vqr1.rollout.sampling import prompt_seed
from vqr1.rollout.vllm_requests import OTHER_PROCESSOR, VllmRequests, prompt_input
from vqr1.rollout.vllm_start import check_computed, import_vllm, start_vllm

WHO = "backend=vllm"


class VllmBackend(PromptedBackend):
    """Answers from vLLM.

    Args:
        config: how vLLM is started.
        model: checkpoint and image sizes.
        local_rank: number of this process on its machine; each has an engine on GPUs of its own.
        images: most images of a prompt.

    Raises:
        ConfigError: image sizes that contradict each other.
        ModelError: vLLM is not installed, has no models of this family, or cannot load the
            checkpoint.
    """

    def __init__(
        self, config: VllmBackendConfig, model: ModelConfig, local_rank: int = 0, images: int = 1
    ) -> None:
        os.environ.update(_engine_variables(local_rank, config.tensor_parallel_size, os.environ))
        family, found = load_config(model)
        check_computed(family, found, WHO, "backend=local")
        vllm = import_vllm(WHO, "backend=local")
        self._parameters = vllm.SamplingParams
        processor = load_processor(model)
        vocabulary = found.get_text_config().vocab_size
        self._requests = VllmRequests(family, vocabulary, processor, f"{WHO}: vLLM")
        super().__init__(PromptBuilders(family, processor, model))
        source = source_of(model)
        self._engine = start_vllm(
            vllm,
            f"{WHO}, model.path={source}",
            source,
            model.revision,
            family.serving_arguments(self._builders.rule),
            images=images,
            dtype=model.dtype,
            gpu_memory_utilization=config.gpu_memory_utilization,
            max_model_len=config.max_model_len,
            tensor_parallel_size=config.tensor_parallel_size,
            enforce_eager=config.enforce_eager,
        )

    def reply(
        self,
        images: Sequence[Tensor | Sequence[Tensor]],
        request: Request,
        prompts: Sequence[PromptConfig] | None = None,
    ) -> list[Reply]:
        """See `Backend.reply`."""
        if not images:
            return []
        if prompts is None:
            builders = [self._builders.of(request.prompt)] * len(images)
        else:
            builders = [self._builders.new(prompt) for prompt in prompts]
        built = joined_prompts(
            [b.from_resized([one]) for b, one in zip(builders, images, strict=True)]
        ).to("cpu")
        asked = [
            prompt_input(builder.template_ids(), shown)
            for builder, shown in zip(builders, built.images, strict=True)
        ]
        outputs = self._engine.generate(
            asked, [self._sampling(shown, request) for shown in built.images], use_tqdm=False
        )
        for output, ids in zip(outputs, built.input_ids, strict=True):
            self._requests.check_prompt(output.prompt_token_ids, ids.tolist(), OTHER_PROCESSOR)
        return [
            with_beginning(self._read(output.outputs, request), request.answer, builder.text)
            for output, builder in zip(outputs, builders, strict=True)
        ]

    def _sampling(self, images: Sequence[Tensor], request: Request) -> Any:
        sampling = request.sampling
        return self._parameters(
            n=request.samples,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            logprobs=TOP_LOGPROBS if request.expected else None,
            **self._requests.fields(sampling, prompt_seed(request.seed, images)),
        )

    def _read(self, outputs: Sequence[Any], request: Request) -> Reply:
        rows = [list(output.token_ids) for output in outputs]
        reply = Reply(tuple(self._requests.text(row, request.sampling) for row in rows))
        if not request.expected:
            return reply
        numbers = expected_from_tokens(
            [
                _token(number, place)
                for number, place in zip(rows[0], outputs[0].logprobs, strict=True)
            ],
            request.answer,
        )
        return replace(reply, score=numbers.score, std=numbers.std, lost=numbers.lost)


def _engine_variables(local_rank: int, gpus: int, environment: Mapping[str, str]) -> dict[str, str]:
    """What the process of an engine has to find, where it is one of several on a machine.

    Args:
        local_rank: number of this process on its machine.
        gpus: GPUs of one engine.
        environment: the present variables.
    """
    if not is_launched(environment) and not local_rank:
        return {}
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    devices = range(local_rank * gpus, (local_rank + 1) * gpus)
    shown = [str(device) for device in devices] if listed is None else listed.split(",")
    own = shown if listed is None else shown[devices.start : devices.stop]
    # A fork would inherit the group of ranks of this process, of which the engine is no part.
    return {
        "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
        "CUDA_VISIBLE_DEVICES": ",".join(own),
    }


def _token(number: int, place: Mapping[int, Any]) -> ReportedToken:
    return ReportedToken(
        place[number].decoded_token or "",
        {entry.decoded_token or "": entry.logprob for entry in place.values()},
    )
