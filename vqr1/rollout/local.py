"""Rollouts in this process: image and prompt are computed once for all K responses.

Not here: how a decoding step works (`decode.py`), how a token is drawn (`sampling.py`), when a
response ends (`stopping.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vqr1.config import SamplingConfig
from vqr1.policy.cpu_linear import packed_weights
from vqr1.policy.finite import check_logprobs
from vqr1.policy.loading import vision_trains
from vqr1.policy.prompt_state import PromptState, read_prompts
from vqr1.policy.shared_prompt import pack_prompts
from vqr1.policy.unwrap import eval_mode, family_of, parts_of, unwrap
from vqr1.policy.vision import (
    VisionCache,
    VisionFeatures,
    encode_images,
    image_keys,
    rows_are_kept,
    runs_within,
)
from vqr1.records import PromptBatch, Rollout
from vqr1.rollout.cuda_graph_decode import StaticDecoder
from vqr1.rollout.decode import Decoder
from vqr1.rollout.rollout_builder import rollout_of
from vqr1.rollout.sampling import draw, uniform_noise
from vqr1.rollout.stopping import StopRule, banned_tokens, end_tokens, padding_token


class LocalEngine:
    """Samples from the policy that is being trained, with its current weights.

    The model is put into eval mode for the call and back afterwards; nothing is taken from its
    generation config.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        micro_batch_tokens: int,
        *,
        cuda_graph: bool = True,
        vision_cache: VisionCache | None = None,
    ) -> None:
        """Prepares the token tables.

        Args:
            model: the policy, bare or wrapped.
            tokenizer: its tokenizer.
            micro_batch_tokens: most key-value entries (prompts once, K length limits) that are
                decoded together; larger batches are sampled in turns.
            cuda_graph: on a GPU, record a decoding step once and replay it; no effect elsewhere.
            vision_cache: keeps the features of a frozen tower; not used while the tower trains.
        """
        self.model = model
        self.tokenizer = tokenizer
        self._budget = micro_batch_tokens
        self._cuda_graph = cuda_graph
        self._cache = vision_cache
        self._vocabulary = int(unwrap(model).config.text_config.vocab_size)
        self._ends = end_tokens(tokenizer, family_of(model).end_of_turn)
        banned = banned_tokens(tokenizer, self._ends, self._vocabulary)
        self._banned = torch.tensor(banned, dtype=torch.long)

    def synchronise(self) -> None:
        """Nothing: the weights are the policy's own; see `RolloutEngine.synchronise`."""

    def with_model(self, model: nn.Module) -> LocalEngine:
        """The engine of another policy, whose image features are not kept."""
        return LocalEngine(model, self.tokenizer, self._budget, cuda_graph=self._cuda_graph)

    def sample(
        self,
        prompts: PromptBatch,
        *,
        group_size: int,
        sampling: SamplingConfig,
        seed: int,
        vision: VisionFeatures | None = None,
    ) -> Rollout:
        """Samples `group_size` responses for every prompt; see `RolloutEngine.sample`."""
        entries = group_size * sampling.max_new_tokens
        with eval_mode(self.model):
            turns = []
            for part, state in self.read_turns(prompts, entries, vision):
                noise = None
                if sampling.temperature > 0.0:
                    shape = (group_size, sampling.max_new_tokens)
                    noise = uniform_noise(seed, image_keys(self.model, part), *shape)
                turns.append(self.decode_turn(part, state, group_size, sampling, noise))
        return self.rollout(turns)

    @torch.no_grad()
    def read_turns(
        self, prompts: PromptBatch, entries: int, vision: VisionFeatures | None = None
    ) -> Iterator[tuple[PromptBatch, PromptState]]:
        """Reads prompts in turns that fit the token budget, at least one image each.

        Args:
            prompts: B prompts.
            entries: key-value entries that will continue each prompt.
            vision: features of the B images, if already computed.

        Yields:
            The prompts of a turn, and what is left of them after they were read.
        """
        costs = [len(ids) + entries for ids in prompts.input_ids]
        for first, last in runs_within(costs, self._budget):
            part = prompts.select(first, last)
            encoded = self._encode(part) if vision is None else vision.select(first, last)
            yield part, read_prompts(self.model, pack_prompts(self.model, part, encoded))

    @torch.no_grad()
    def decode_turn(
        self,
        prompts: PromptBatch,
        state: PromptState,
        group_size: int,
        sampling: SamplingConfig,
        noise: Tensor | None,
    ) -> Responses:
        """Responses to prompts that were read, K for each of A images.

        Args:
            prompts: the A prompts, whose tokens a repetition penalty counts.
            state: what is left of them after they were read; it stays as it is.
            group_size: K.
            sampling: how a token is drawn.
            noise: [A, K, limit] float64 uniform numbers in (0, 1); None for greedy responses.

        Raises:
            NonFiniteError: the logits of a token hold NaN or infinity.
        """
        images, limit = len(state.last_hidden), sampling.max_new_tokens
        device = state.last_hidden.device
        shape = (images, group_size, limit)
        if noise is None:
            noise = torch.zeros(shape, dtype=torch.float64)
        self._banned = self._banned.to(device)
        run = Responses(
            torch.full(shape, padding_token(self.tokenizer), dtype=torch.long, device=device),
            torch.zeros(shape, dtype=torch.float32, device=device),
            torch.zeros(shape[:2], dtype=torch.long),
            torch.zeros(shape[:2], dtype=torch.bool),
        )
        slots = max(1, min(group_size, self._budget // (limit * images)))
        for k in range(0, group_size, slots):
            block = slice(k, min(k + slots, group_size))
            shares = noise[:, block].to(device)
            self._decode(state, run.block(block), shares, sampling, self._seen(prompts, sampling))
        check_logprobs(run.logprobs)
        return run

    def _seen(self, prompts: PromptBatch, sampling: SamplingConfig) -> Tensor | None:
        """[A, V] bool tokens of A prompts; None where there is no repetition penalty."""
        if sampling.repetition_penalty == 1.0:
            return None
        seen = torch.zeros(len(prompts.input_ids), self._vocabulary, dtype=torch.bool)
        for row, ids in zip(seen, prompts.input_ids, strict=True):
            row[ids.cpu()] = True
        return seen.to(self._banned.device)

    def _encode(self, prompts: PromptBatch) -> VisionFeatures:
        kept = rows_are_kept(self.model) or not vision_trains(self.model)
        if self._cache is None or not kept:
            return encode_images(self.model, prompts)
        return self._cache.encode(self.model, prompts)

    def _decode(
        self,
        state: PromptState,
        run: Responses,
        noise: Tensor,
        sampling: SamplingConfig,
        seen: Tensor | None,
    ) -> None:
        """Fills one block of responses; `seen` [A, V] is each prompt's share of a penalty."""
        images, slots, limit = run.tokens.shape
        graph = self._cuda_graph and run.tokens.is_cuda
        decoder = (StaticDecoder if graph else Decoder)(self.model, state, slots, limit)
        stop = StopRule(self.tokenizer, self._ends, images * slots, sampling.end_text)
        live = list(range(images * slots))
        logits = decoder.first_logits().repeat_interleave(slots, dim=0)
        noise = noise.reshape(images * slots, limit)
        seen = None if seen is None else seen.repeat_interleave(slots, dim=0)
        with packed_weights(parts_of(self.model).text, images * slots):
            for step in range(limit):
                drawn, drawn_logprobs = draw(logits, noise[:, step], sampling, self._banned, seen)
                run.write(live, step, drawn, drawn_logprobs)
                if seen is not None:
                    seen.scatter_(1, drawn[:, None], True)
                ended = stop.ended(live, drawn.tolist())
                run.end(live, step, ended)
                if any(ended):
                    rows = [row for row, done in enumerate(ended) if not done]
                    if not rows:
                        break
                    decoder.keep(rows)
                    live = [live[row] for row in rows]
                    drawn, noise = drawn[rows], noise[rows]
                    seen = None if seen is None else seen[rows]
                if step + 1 < limit:
                    logits = decoder.step(drawn)

    def rollout(self, turns: Sequence[Responses]) -> Rollout:
        """The responses of all turns, with their texts."""
        lengths = torch.cat([turn.lengths for turn in turns])
        longest = int(lengths.max())
        tokens = torch.cat([turn.tokens[..., :longest] for turn in turns])
        logprobs = torch.cat([turn.logprobs[..., :longest] for turn in turns])
        finished = torch.cat([turn.finished for turn in turns])
        return rollout_of(tokens, lengths, logprobs, finished, self.tokenizer)


@dataclass(frozen=True)
class Responses:
    """Responses that are being written, rows counted image by image.

    Attributes:
        tokens: [A, K, limit] int64, padded.
        logprobs: [A, K, limit] float32, 0 after a response's end.
        lengths: [A, K] int64 on the host.
        finished: [A, K] bool on the host, whether a stop rule ended the response.
    """

    tokens: Tensor
    logprobs: Tensor
    lengths: Tensor
    finished: Tensor

    def block(self, responses: slice) -> Responses:
        """Views of some of every image's responses."""
        parts = (self.tokens, self.logprobs, self.lengths, self.finished)
        return Responses(*(part[:, responses] for part in parts))

    def write(self, live: list[int], step: int, tokens: Tensor, logprobs: Tensor) -> None:
        """Writes the tokens [n] of a step, and their log-probabilities, of the live responses."""
        rows = torch.tensor(live, device=tokens.device)
        slots = self.tokens.shape[1]
        place = (rows // slots, rows % slots, step)
        self.tokens[place] = tokens
        self.logprobs[place] = logprobs

    def end(self, live: list[int], step: int, ended: list[bool]) -> None:
        """Notes the lengths so far and which responses a stop rule ended."""
        rows = torch.tensor(live)
        slots = self.tokens.shape[1]
        place = (rows // slots, rows % slots)
        self.lengths[place] = step + 1
        self.finished[place] = torch.tensor(ended)
