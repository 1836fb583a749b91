"""What vLLM is asked for one prompt, and its answers as a `Rollout`; however it is reached.

Responses are cut by our stop rules: vLLM's own only save it work. A response's seed depends on the
step's seed and its images; whether that decides the response is vLLM's affair.

Not here: asking (`vllm_server.py`, `vllm_colocated.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vqr1.config import SamplingConfig
from vqr1.errors import ModelError
from vqr1.policy.families import Family
from vqr1.policy.finite import check_logprobs
from vqr1.policy.unwrap import family_of, unwrap
from vqr1.records import Rollout
from vqr1.rollout.rollout_builder import padded, response_end, rollout_of
from vqr1.rollout.sampling import prompt_seed
from vqr1.rollout.stopping import banned_tokens, end_tokens, padding_token

NEVER = -100.0
"""Added to the logit of a token that a response must not hold."""

OTHER_PROCESSOR = "the processor files in model.path are not those that transformers reads here"
"""Why vLLM in this process builds another prompt."""

Answer = tuple[list[list[int]], list[list[float]]]
"""Tokens of the responses to one prompt, and the log-probability of each."""


class VllmRequests:
    """Requests for one model's responses.

    Args:
        family: the model's.
        vocabulary: columns of its logits.
        processor: its processor.
        who: how a message calls this vLLM, with the key that chose it.
    """

    def __init__(self, family: Family, vocabulary: int, processor: Any, who: str) -> None:
        self._who = who
        self._tokenizer = processor.tokenizer
        self._image_token = int(processor.image_token_id)
        self._ends = end_tokens(self._tokenizer, family.end_of_turn)
        self._banned = frozenset(banned_tokens(self._tokenizer, self._ends, vocabulary))

    @staticmethod
    def of(model: nn.Module, processor: Any, who: str) -> VllmRequests:
        """Of a loaded policy, bare or with adapters."""
        vocabulary = unwrap(model).config.get_text_config().vocab_size
        return VllmRequests(family_of(model), vocabulary, processor, who)

    def fields(self, sampling: SamplingConfig, seed: int) -> dict[str, Any]:
        """Sampling parameters of vLLM beside temperature, top-k, top-p and the length limit.

        Those that nothing here uses are given too, off: what is omitted, a server takes from the
        checkpoint's generation config or from its own defaults.

        Args:
            sampling: how a response is drawn.
            seed: of the prompt's responses.
        """
        fields: dict[str, Any] = {
            "stop_token_ids": sorted(self._ends),
            "logit_bias": dict.fromkeys(sorted(self._banned), NEVER),
            "repetition_penalty": sampling.repetition_penalty,
            "min_p": 0.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        }
        if sampling.temperature > 0:
            fields["seed"] = seed
        if sampling.end_text is not None:
            fields |= {"stop": [sampling.end_text], "include_stop_str_in_output": True}
        return fields

    def text(self, tokens: Sequence[int], sampling: SamplingConfig) -> str:
        """A response's tokens as text, up to where it ends by our rules.

        vLLM's own text lacks what may be the beginning of a character.

        Args:
            tokens: of the response.
            sampling: how it was drawn.
        """
        count, _ = response_end(tokens, self._tokenizer, self._ends, sampling.end_text)
        found: str = self._tokenizer.decode(
            list(tokens[:count]), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return found

    def check_prompt(self, served: Sequence[int], prompt: Sequence[int], remedy: str) -> None:
        """Check that vLLM was given the prompt that the training will compute.

        Args:
            served: the tokens that vLLM states it was given.
            prompt: the training's.
            remedy: what to do where they differ.

        Raises:
            ModelError: they differ.
        """
        if list(served) != list(prompt):
            image = self._image_token
            raise ModelError(
                f"{self._who} builds another prompt ({len(served)} tokens, "
                f"{list(served).count(image)} of the image; the training has {len(prompt)} and "
                f"{list(prompt).count(image)}): {remedy}"
            )

    def rollout(
        self,
        answers: Sequence[Answer],
        sampling: SamplingConfig,
        group_size: int,
        device: torch.device,
    ) -> Rollout:
        """The answers to B prompts as B x K responses that end by our rules.

        Args:
            answers: those of each prompt, `asked_for` of them.
            sampling: how they were drawn.
            group_size: K.
            device: where the tensors shall be.

        Raises:
            ModelError: other responses than were asked for.
            NonFiniteError: a token's log-probability is NaN or infinite.
        """
        wanted = asked_for(group_size, sampling)
        tokens: list[list[list[int]]] = []
        logprobs: list[list[list[float]]] = []
        ends: list[list[tuple[int, bool]]] = []
        for rows, values in answers:
            if len(rows) != wanted:
                raise ModelError(f"{self._who} gives {len(rows)} responses instead of {wanted}")
            cut = [
                response_end(row, self._tokenizer, self._ends, sampling.end_text) for row in rows
            ]
            times = group_size // wanted
            ends.append(times * cut)
            tokens.append(times * [row[:n] for row, (n, _) in zip(rows, cut, strict=True)])
            logprobs.append(times * [row[:n] for row, (n, _) in zip(values, cut, strict=True)])
        padding = padding_token(self._tokenizer)
        ids, reported = padded(tokens, logprobs, padding)
        strangers = self._banned.intersection(ids.unique().tolist()) - {padding}
        if strangers:
            raise ModelError(
                f"{self._who} gives a response that holds the control token {min(strangers)}: it "
                "does not heed logit_bias"
            )
        check_logprobs(reported)
        lengths = torch.tensor([[n for n, _ in cut] for cut in ends])
        finished = torch.tensor([[done for _, done in cut] for cut in ends])
        return rollout_of(ids.to(device), lengths, reported.to(device), finished, self._tokenizer)


def prompt_input(tokens: Sequence[int], images: Sequence[Tensor]) -> dict[str, Any]:
    """A prompt as vLLM in this process takes it.

    Args:
        tokens: the prompt with one token in the place of each image, for which vLLM puts the
            image's own (`PromptBuilder.template_ids`).
        images: its resized images [H, W, 3] uint8 on the host.
    """
    return {
        "prompt_token_ids": list(tokens),
        "multi_modal_data": {"image": [Image.fromarray(one.numpy()) for one in images]},
    }


def asked_for(group_size: int, sampling: SamplingConfig) -> int:
    """Responses to ask vLLM for: greedy ones are all alike, and it refuses to give several."""
    return 1 if sampling.temperature == 0 else group_size


def fitting_logprobs(sampling: SamplingConfig) -> tuple[str, ...]:
    """The values of vLLM's `logprobs_mode` that report what `Rollout.logprobs` means.

    That is the whole distribution at the temperature. vLLM's raw values are those of temperature 1,
    and its processed ones are divided by what top-k and top-p leave.
    """
    raw = ("raw_logprobs",) if sampling.temperature == 1.0 else ()
    cut = sampling.top_k > 0 or sampling.top_p < 1.0
    return raw if cut else (*raw, "processed_logprobs")


def seeds_of(images: Sequence[Sequence[Tensor]], seed: int) -> list[int]:
    """One seed for each prompt; images that come twice, together, have two.

    Args:
        images: of each of B prompts, its images [H, W, 3] uint8.
        seed: the step's.
    """
    seen: Counter[int] = Counter()
    seeds = []
    for shown in images:
        first = prompt_seed(seed, shown)
        seeds.append(prompt_seed(seed, shown, seen[first]) if seen[first] else first)
        seen[first] += 1
    return seeds
