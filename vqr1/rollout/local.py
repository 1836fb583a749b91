"""Rollouts in this process: image and prompt are computed once for all K responses.

Not here: how a decoding step works (`decode.py`), how a token is drawn (`sampling.py`), when a
response ends (`stopping.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vqr1.config import SamplingConfig
from vqr1.policy.backbone import unwrap
from vqr1.policy.cpu_linear import packed_weights
from vqr1.policy.loading import vision_trains
from vqr1.policy.shared_prompt import pack_prompts
from vqr1.policy.vision import VisionCache, VisionFeatures, encode_images, image_keys
from vqr1.records import PromptBatch, Rollout
from vqr1.rollout.decode import Decoder, PromptState, read_prompts
from vqr1.rollout.sampling import draw, uniform_noise
from vqr1.rollout.static_decode import StaticDecoder
from vqr1.rollout.stopping import StopRule, banned_tokens


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
        self._model = model
        self._tokenizer = tokenizer
        self._budget = micro_batch_tokens
        self._cuda_graph = cuda_graph
        self._cache = vision_cache
        vocabulary = unwrap(model).config.text_config.vocab_size
        self._banned = torch.tensor(banned_tokens(tokenizer, vocabulary), dtype=torch.long)

    @torch.no_grad()
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
        core = unwrap(self._model)
        device = core.model.language_model.embed_tokens.weight.device
        limit = sampling.max_new_tokens
        shape = (len(prompts), group_size, limit)
        tokens = torch.full(shape, self._padding(), dtype=torch.long, device=device)
        logprobs = torch.zeros(shape, dtype=torch.float32, device=device)
        lengths = torch.zeros(shape[:2], dtype=torch.long)
        finished = torch.zeros(shape[:2], dtype=torch.bool)
        noise = self._noise(prompts, group_size, sampling, seed)
        self._banned = self._banned.to(device)
        was_training = self._model.training
        self._model.eval()
        try:
            for first, last in self._turns(prompts, group_size * limit):
                part = prompts.select(first, last)
                encoded = self._encode(part) if vision is None else vision.select(first, last)
                state = read_prompts(self._model, pack_prompts(self._model, part, encoded))
                slots = max(1, min(group_size, self._budget // (limit * (last - first))))
                for k in range(0, group_size, slots):
                    block = (slice(first, last), slice(k, min(k + slots, group_size)))
                    run = _Run(tokens[block], logprobs[block], lengths[block], finished[block])
                    self._decode(state, run, noise[block].to(device), sampling)
        finally:
            self._model.train(was_training)
        return self._rollout(tokens, logprobs, lengths, finished.to(device))

    def _encode(self, prompts: PromptBatch) -> VisionFeatures:
        if self._cache is None or vision_trains(self._model):
            return encode_images(self._model, prompts)
        return self._cache.encode(self._model, prompts)

    def _padding(self) -> int:
        pad = self._tokenizer.pad_token_id
        return int(self._tokenizer.eos_token_id if pad is None else pad)

    def _noise(
        self, prompts: PromptBatch, group_size: int, sampling: SamplingConfig, seed: int
    ) -> Tensor:
        shape = (len(prompts), group_size, sampling.max_new_tokens)
        if sampling.temperature == 0.0:
            return torch.zeros(shape, dtype=torch.float64)
        return uniform_noise(seed, image_keys(prompts), *shape[1:])

    def _turns(self, prompts: PromptBatch, response_entries: int) -> list[tuple[int, int]]:
        """Runs of images that fit the budget, at least one image each."""
        turns = []
        start, total = 0, 0
        for b, ids in enumerate(prompts.input_ids):
            cost = len(ids) + response_entries
            if b > start and total + cost > self._budget:
                turns.append((start, b))
                start, total = b, 0
            total += cost
        turns.append((start, len(prompts)))
        return turns

    def _decode(
        self, state: PromptState, run: _Run, noise: Tensor, sampling: SamplingConfig
    ) -> None:
        """Fills one block of responses."""
        images, slots, limit = run.tokens.shape
        graph = self._cuda_graph and run.tokens.is_cuda
        decoder = (StaticDecoder if graph else Decoder)(self._model, state, slots, limit)
        stop = StopRule(self._tokenizer, images * slots, sampling.stop == "answer")
        live = list(range(images * slots))
        logits = decoder.first_logits().repeat_interleave(slots, dim=0)
        noise = noise.reshape(images * slots, limit)
        with packed_weights(unwrap(self._model).model.language_model, images * slots):
            for step in range(limit):
                drawn, drawn_logprobs = draw(logits, noise[:, step], sampling, self._banned)
                run.write(live, step, drawn, drawn_logprobs)
                ended = stop.ended(live, drawn.tolist())
                run.end(live, step, ended)
                if any(ended):
                    rows = [row for row, done in enumerate(ended) if not done]
                    if not rows:
                        break
                    decoder.keep(rows)
                    live = [live[row] for row in rows]
                    drawn, noise = drawn[rows], noise[rows]
                if step + 1 < limit:
                    logits = decoder.step(drawn)

    def _rollout(
        self, tokens: Tensor, logprobs: Tensor, lengths: Tensor, finished: Tensor
    ) -> Rollout:
        longest = int(lengths.max())
        tokens, logprobs = tokens[..., :longest], logprobs[..., :longest]
        lengths = lengths.to(tokens.device)
        mask = torch.arange(longest, device=tokens.device) < lengths[..., None]
        counts = lengths.tolist()
        texts = [
            self._tokenizer.batch_decode(
                [row[:count] for row, count in zip(group, sizes, strict=True)],
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            )
            for group, sizes in zip(tokens.tolist(), counts, strict=True)
        ]
        return Rollout(tokens.contiguous(), mask, texts, finished, logprobs.contiguous())


class _Run:
    """Views of the result that one block of responses writes into; rows count image by image."""

    def __init__(self, tokens: Tensor, logprobs: Tensor, lengths: Tensor, finished: Tensor) -> None:
        self.tokens = tokens
        self._logprobs = logprobs
        self._lengths = lengths
        self._finished = finished
        self._slots = tokens.shape[1]

    def write(self, live: list[int], step: int, tokens: Tensor, logprobs: Tensor) -> None:
        rows = torch.tensor(live, device=tokens.device)
        place = (rows // self._slots, rows % self._slots, step)
        self.tokens[place] = tokens
        self._logprobs[place] = logprobs

    def end(self, live: list[int], step: int, ended: list[bool]) -> None:
        """Notes the lengths so far and which responses a stop rule ended."""
        rows = torch.tensor(live)
        place = (rows // self._slots, rows % self._slots)
        self._lengths[place] = step + 1
        self._finished[place] = torch.tensor(ended)
