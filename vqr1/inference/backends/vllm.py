"""vLLM in this process as a backend, where it is installed (`pip install 'vqr1[vllm]'`).

The published prompt is rendered by the checkpoint's own template and handed over with the images,
so that nothing of it depends on vLLM's own chat code. Whether batches change a score in the last
digits is vLLM's affair.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image
from torch import Tensor

from vqr1.config import ModelConfig, PromptConfig, VllmBackendConfig
from vqr1.data.prompts import image_groups
from vqr1.distributed.environment import is_launched
from vqr1.inference.request import Reply, Request, with_beginning
from vqr1.policy.chat_content import chat_content
from vqr1.policy.checkpoint_config import load_family
from vqr1.policy.loading import load_processor
from vqr1.policy.packaged import tiny_policy_folder
from vqr1.policy.prompts import resize_rule
from vqr1.policy.top_logprobs import ReportedToken, expected_from_tokens
from vqr1.policy.training_prompt import vision_id_of
from vqr1.rollout.chat_request import TOP_LOGPROBS
from vqr1.rollout.sampling import prompt_seed
from vqr1.rollout.vllm_start import import_vllm, start_vllm


class VllmBackend:
    """Answers from vLLM.

    Args:
        config: how vLLM is started.
        model: checkpoint and image sizes.
        local_rank: number of this process on its machine; each has an engine on GPUs of its own.
        images: most images of a prompt.

    Raises:
        ConfigError: image sizes that contradict each other.
        ModelError: vLLM is not installed, or cannot load the checkpoint.
    """

    def __init__(
        self, config: VllmBackendConfig, model: ModelConfig, local_rank: int = 0, images: int = 1
    ) -> None:
        os.environ.update(_engine_variables(local_rank, config.tensor_parallel_size, os.environ))
        vllm = import_vllm("backend=vllm", "backend=local")
        self._parameters = vllm.SamplingParams
        self._model = model
        self._processor = load_processor(model)
        self._family = load_family(model)
        reader = self._processor.image_processor
        self._rule = resize_rule(self._family, reader, model.min_pixels, model.max_pixels)
        source = str(tiny_policy_folder()) if model.path is None else model.path
        self._engine = start_vllm(
            vllm,
            f"backend=vllm, model.path={source}",
            source,
            model,
            self._family,
            images=images,
            dtype=model.dtype,
            gpu_memory_utilization=config.gpu_memory_utilization,
            max_model_len=config.max_model_len,
            tensor_parallel_size=config.tensor_parallel_size,
            enforce_eager=config.enforce_eager,
        )

    def resize(self, image: Image.Image) -> Tensor:
        """See `Backend.resize`."""
        return self._rule.pixels(image)

    def prepare(self, request: Request) -> None:
        """Nothing can be wrong that loading has not found; see `Backend.prepare`."""

    def reply(
        self,
        images: Sequence[Tensor | Sequence[Tensor]],
        request: Request,
        prompts: Sequence[PromptConfig] | None = None,
    ) -> list[Reply]:
        """See `Backend.reply`."""
        if not images:
            return []
        texts = [self._text(p) for p in prompts or [request.prompt]]
        if prompts is None:
            texts *= len(images)
        groups = image_groups(images, (prompts or [request.prompt])[0].images)
        asked = [
            {
                "prompt": text,
                "multi_modal_data": {
                    "image": [Image.fromarray(image.cpu().numpy()) for image in shown]
                },
            }
            for shown, text in zip(groups, texts, strict=True)
        ]
        outputs = self._engine.generate(
            asked, [self._sampling(shown, request) for shown in groups], use_tqdm=False
        )
        return [
            with_beginning(_read(output.outputs, request), request.answer, text)
            for output, text in zip(outputs, texts, strict=True)
        ]

    def _text(self, prompt: PromptConfig) -> str:
        """A prompt as the template writes it."""
        vision_id = vision_id_of(prompt, self._model)
        content = chat_content(prompt.text, prompt.images)
        return self._family.chat_text(self._processor, content, vision_id, prompt.system)

    def _sampling(self, images: Sequence[Tensor], request: Request) -> Any:
        sampling = request.sampling
        end = sampling.end_text
        return self._parameters(
            n=request.samples,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=0.0,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            max_tokens=sampling.max_new_tokens,
            stop=None if end is None else [end],
            include_stop_str_in_output=end is not None,
            seed=prompt_seed(request.seed, images) if sampling.temperature > 0 else None,
            logprobs=TOP_LOGPROBS if request.expected else None,
        )


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


def _read(outputs: Sequence[Any], request: Request) -> Reply:
    reply = Reply(tuple(output.text for output in outputs))
    if not request.expected:
        return reply
    numbers = expected_from_tokens(
        [
            _token(number, place)
            for number, place in zip(outputs[0].token_ids, outputs[0].logprobs, strict=True)
        ],
        request.answer,
    )
    return replace(reply, score=numbers.score, std=numbers.std, lost=numbers.lost)


def _token(number: int, place: Mapping[int, Any]) -> ReportedToken:
    return ReportedToken(
        place[number].decoded_token or "",
        {entry.decoded_token or "": entry.logprob for entry in place.values()},
    )
