"""Rollouts in this process: image and prompt are computed once for all K responses.

Not here: how a decoding step works (`decode.py`), how a token is drawn (`sampling.py`), when a
response ends (`stopping.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vqr1.config import SamplingConfig
from vqr1.device import to_device
from vqr1.policy.cpu_linear import packed_weights
from vqr1.policy.finite import check_logprobs
from vqr1.policy.loading import vision_trains
from vqr1.policy.prompt_state import PromptState, read_prompts
from vqr1.policy.sampling_weights import sampling_weights
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
from vqr1.rollout.abandoned import raise_if_abandoned
from vqr1.rollout.cuda_graph_decode import StaticDecoders
from vqr1.rollout.decode import Decoder
from vqr1.rollout.rollout_builder import rollout_of
from vqr1.rollout.sampling import draw, uniform_noise
from vqr1.rollout.stopping import StopRule, banned_tokens, end_tokens, padding_token
from vqr1.rollout.turns import entry_bytes, free_memory, turn_tokens

LOOK_EVERY = 8
"""Tokens between two looks at which responses have ended, on an accelerator, which is waited for.
A response is drawn up to 7 tokens too long, which are taken out again."""


class LocalEngine:
    """Samples from the policy that is being trained, with its current weights.

    The model is put into eval mode for the call and back afterwards; nothing is taken from its
    generation config.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        micro_batch_tokens: int | None,
        *,
        cuda_graph: bool = True,
        vision_cache: VisionCache | None = None,
        look_every: int | None = None,
    ) -> None:
        """Prepares the token tables.

        Args:
            model: the policy, bare or wrapped.
            tokenizer: its tokenizer.
            micro_batch_tokens: most key-value entries (prompts once, K length limits) that are
                decoded together; larger batches are sampled in turns. None takes what the device's
                free memory holds (`turns.py`).
            cuda_graph: on a GPU, record a decoding step once and replay it; no effect elsewhere.
            vision_cache: keeps the features of a frozen tower; not used while the tower trains.
            look_every: tokens between two looks at which responses have ended; None is
                `LOOK_EVERY` on an accelerator and 1 on a CPU.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.look_every = look_every
        self._wanted = micro_batch_tokens
        # Asked anew before every rollout.
        self._budget = turn_tokens(micro_batch_tokens, gpu=False)
        self._cuda_graph = cuda_graph
        self._static = StaticDecoders()
        self._cache = vision_cache
        self._vocabulary = int(unwrap(model).config.text_config.vocab_size)
        self._ends = end_tokens(tokenizer, family_of(model).end_of_turn)
        banned = banned_tokens(tokenizer, self._ends, self._vocabulary)
        self._banned = torch.tensor(banned, dtype=torch.long)

    def synchronise(self) -> None:
        """Nothing: the weights are the policy's own; see `RolloutEngine.synchronise`."""

    def with_model(self, model: nn.Module) -> LocalEngine:
        """The engine of another policy, whose image features are not kept."""
        return LocalEngine(model, self.tokenizer, self._wanted, cuda_graph=self._cuda_graph)

    def _tokens_together(self) -> int:
        """Key-value entries that are decoded together now."""
        if self._wanted is not None:
            return self._wanted
        device = parts_of(self.model).embeddings.weight.device
        free = free_memory(device)
        if free is not None:
            free += self._static.bytes  # written over, or freed first
        return turn_tokens(None, device.type != "cpu", free, entry_bytes(self.model))

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
        with eval_mode(self.model), self._weights():
            turns = []
            for part, state in self.read_turns(prompts, entries, vision):
                noise = None
                if sampling.temperature > 0.0:
                    shape = (group_size, sampling.max_new_tokens)
                    noise = uniform_noise(seed, image_keys(self.model, part), *shape)
                turns.append(self.decode_turn(part, state, group_size, sampling, noise))
        return self.rollout(turns)

    @contextmanager
    def _weights(self) -> Iterator[None]:
        """Weights as sampling reads them; recorded steps end with copies of them."""
        with sampling_weights(self.model) as copied:
            try:
                yield
            finally:
                if copied:
                    self._static.forget()

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
        self._budget = self._tokens_together()
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
            state: what is left of them after they were read; it stays as it is until the next turn.
            group_size: K.
            sampling: how a token is drawn.
            noise: [A, K, limit] float64 uniform numbers in [0, 1); None for greedy responses.

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
        gpu = run.tokens.device.type != "cpu"
        made = self._static.of if self._cuda_graph and gpu else Decoder
        decoder = made(self.model, state, slots, limit)
        stop = StopRule(self.tokenizer, self._ends, images * slots, sampling.end_text)
        every = self.look_every or (LOOK_EVERY if gpu else 1)
        live = list(range(images * slots))
        rows = torch.arange(images * slots, device=run.tokens.device)
        logits = decoder.first_logits().repeat_interleave(slots, dim=0)
        noise = noise.reshape(images * slots, limit)
        seen = None if seen is None else seen.repeat_interleave(slots, dim=0)
        with packed_weights(parts_of(self.model).text, images * slots):
            for first in range(0, limit, every):
                raise_if_abandoned()
                steps = range(first, min(first + every, limit))
                for step in steps:
                    drawn, drawn_logprobs = draw(
                        logits, noise[:, step], sampling, self._banned, seen
                    )
                    run.write(rows, step, drawn, drawn_logprobs)
                    if seen is not None:
                        seen.scatter_(1, drawn[:, None], True)
                    if step + 1 in steps:
                        logits = decoder.step(drawn)
                kept = run.end(live, steps, stop, run.written(rows, steps))
                if len(kept) < len(live):
                    if not kept:
                        break
                    decoder.keep(kept)
                    chosen = to_device(torch.tensor(kept), rows.device)
                    live = [live[row] for row in kept]
                    rows, drawn, noise = rows[chosen], drawn[chosen], noise[chosen]
                    seen = None if seen is None else seen[chosen]
                if steps.stop < limit:
                    logits = decoder.step(drawn)
        run.clear(padding_token(self.tokenizer))

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

    def write(self, rows: Tensor, step: int, tokens: Tensor, logprobs: Tensor) -> None:
        """Writes the tokens [n] of a step, and their log-probabilities, of the live rows [n]."""
        slots = self.tokens.shape[1]
        place = (rows // slots, rows % slots, step)
        self.tokens[place] = tokens
        self.logprobs[place] = logprobs

    def written(self, rows: Tensor, steps: range) -> list[list[int]]:
        """The tokens of some steps of the live rows [n], by step; waits for the device once."""
        slots = self.tokens.shape[1]
        block = self.tokens[rows // slots, rows % slots, steps.start : steps.stop]
        tokens: list[list[int]] = block.t().tolist()
        return tokens

    def end(
        self, live: list[int], steps: range, stop: StopRule, tokens: list[list[int]]
    ) -> list[int]:
        """Notes the lengths so far and which responses a stop rule ended.

        Args:
            live: numbers of the live responses.
            steps: the steps that were taken since the last call.
            stop: follows the responses.
            tokens: by step, of the live responses.

        Returns:
            Which of the live responses continue, by their places in `live`.
        """
        slots = self.tokens.shape[1]
        going = list(range(len(live)))
        for step, drawn in zip(steps, tokens, strict=True):
            rows = torch.tensor([live[row] for row in going])
            ended = stop.ended(rows.tolist(), [drawn[row] for row in going])
            place = (rows // slots, rows % slots)
            self.lengths[place] = step + 1
            self.finished[place] = torch.tensor(ended)
            going = [row for row, done in zip(going, ended, strict=True) if not done]
            if not going:
                break
        return going

    def clear(self, padding: int) -> None:
        """Takes out what was drawn after a response's end, before the device was looked at."""
        after = torch.arange(self.tokens.shape[2]) >= self.lengths[..., None]
        after = to_device(after, self.tokens.device)
        self.tokens.masked_fill_(after, padding)
        self.logprobs.masked_fill_(after, 0.0)
