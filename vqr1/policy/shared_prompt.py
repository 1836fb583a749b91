"""Log-probabilities of K responses per prompt, with its images and the prompt computed once.

All K responses to a prompt continue it. Here the prompts of a batch and all responses
lie in one row without padding (`tree_attention.TreeLayout`); every response restarts at the
position after its prompt, attends to the prompt and to itself, and its first token is predicted by
the prompt's last position, which is computed once for all K. The prompt's gradient is therefore
the sum over its K responses. Values and gradients equal those of the ordinary padded batch of B*K
rows (`tests/support/plain_logprobs.py`) up to rounding.

A training step over micro batches:

    for part in plan_micro_batches(prompts, mask, budget):
        chosen = prompts.select(part.start, part.stop)
        result = response_logprobs(model, chosen, tokens[part], mask[part])
        loss(result.logprobs, ...).backward()

Shapes: B prompts, K responses each, C tokens a response; P_b tokens of prompt b; L tokens of the
packed row; W width of embedded rows (`families/base.py`); X axes of rotary positions (three in
multimodal ones, else one).

Not here: sampling (`vqr1.rollout`), losses, what families do in ways of their own (`families/`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from vqr1.device import to_device
from vqr1.errors import ModelError
from vqr1.policy.output_head import target_logprobs
from vqr1.policy.tree_attention import (
    AttentionPlan,
    KeyValueStore,
    TreeLayout,
    attention_switched,
)
from vqr1.policy.unwrap import family_of, parts_of, unwrap
from vqr1.policy.vision import VisionFeatures, encode_images, encoding_of
from vqr1.records import PromptBatch


@dataclass(frozen=True)
class ResponseLogprobs:
    """A policy's log-probabilities of given responses.

    Attributes:
        logprobs: [B, K, C] float32 (float64 of a model in float64) natural log-probabilities at the
            temperature, 0 where the mask is False.
        entropy: [B, K, C] of the same type, entropy in nats of the distribution that each token was
            drawn from, 0 where the mask is False and never differentiable; None if not asked for.
    """

    logprobs: Tensor
    entropy: Tensor | None


def response_lengths(mask: Tensor) -> list[list[int]]:
    """Tokens of each response: K numbers for each of B images.

    Raises:
        ValueError: a response's mask has a gap; responses begin at token 0 and end once.
    """
    mask = mask.cpu()
    lengths = mask.sum(dim=-1)
    expected = torch.arange(mask.shape[-1]) < lengths[..., None]
    if not torch.equal(mask, expected):
        raise ValueError("mask: True must fill each response from its first token on, without gaps")
    result: list[list[int]] = lengths.tolist()
    return result


def plan_micro_batches(prompts: PromptBatch, mask: Tensor, micro_batch_tokens: int) -> list[slice]:
    """Cuts a batch into runs of prompts that fit a token budget.

    Every part holds at least one prompt, so one above the budget makes a part of its own. Prompts
    whose responses are all masked cost nothing.

    Args:
        prompts: B prompts.
        mask: [B, K, C] bool, the tokens that count.
        micro_batch_tokens: most tokens of a part, prompts counted once and responses K times.

    Returns:
        Slices of prompt numbers in order, which together cover every prompt with a response; empty
        if there is none.
    """
    counts = mask.sum(dim=(1, 2)).tolist()
    costs = [
        len(ids) + count if count else 0
        for ids, count in zip(prompts.input_ids, counts, strict=True)
    ]
    parts = []
    start, total = 0, 0
    for b, cost in enumerate(costs):
        if total and cost and total + cost > micro_batch_tokens:
            parts.append(slice(start, b))
            start, total = b, 0
        total += cost
    if total:
        parts.append(slice(start, len(costs)))
    return parts


@dataclass(frozen=True)
class FedTokens:
    """R tokens of responses that are inputs of a pass, image by image.

    Attributes:
        tokens: [R] int64 on the model's device.
        prompts: [R] which of A prompts each follows, on the host.
        steps: [R] its number in its response, on the host.
    """

    tokens: Tensor
    prompts: Tensor
    steps: Tensor


def _numbered(counts: Tensor) -> tuple[Tensor, Tensor]:
    """[R] of each of counts [N] items its number in N, and that of each of its tokens in it."""
    items = torch.arange(len(counts)).repeat_interleave(counts)
    first = counts.cumsum(0) - counts
    return items, torch.arange(len(items)) - first[items]


@dataclass(frozen=True)
class PackedPrompts:
    """A prompts as one row of embeddings.

    Attributes:
        embeds: [sum P_a + R, W] token embeddings with the image features in place; R tokens that
            follow the prompts come last, where `pack_prompts` was given any.
        positions: [X, sum P_a + R] rotary positions.
        lengths: tokens of each prompt.
        next_positions: position of the first response token after each prompt.
    """

    embeds: Tensor
    positions: Tensor
    lengths: tuple[int, ...]
    next_positions: tuple[int, ...]

    def select(self, start: int, stop: int) -> PackedPrompts:
        """Prompts `start <= a < stop`."""
        rows = slice(sum(self.lengths[:start]), sum(self.lengths[:stop]))
        return PackedPrompts(
            self.embeds[rows],
            self.positions[:, rows],
            self.lengths[start:stop],
            self.next_positions[start:stop],
        )


def pack_prompts(
    model: nn.Module,
    prompts: PromptBatch,
    vision: VisionFeatures,
    fed: FedTokens | None = None,
) -> PackedPrompts:
    """Embeds prompts one after the other, without padding.

    Args:
        model: the policy, bare or wrapped.
        prompts: A prompts.
        vision: features of their images.
        fed: tokens of responses that follow the prompts in the row. They are embedded in the same
            call: a second one would make a second gradient of the embedding's size.

    Raises:
        ModelError: a prompt's placeholders do not match its images.
    """
    family, config = family_of(model), unwrap(model).config
    parts = parts_of(model)
    device = parts.embeddings.weight.device
    # Numbers of tokens and rows are counted on the host, which then waits for nothing.
    host = torch.cat(prompts.input_ids)
    ids = to_device(host, device)
    # Positions are computed where the prompts are: small integer work, needed on the host.
    positions, following = [], []
    encoding = encoding_of(model)
    for prompt, shown in zip(prompts.input_ids, prompts.images, strict=True):
        place, after = family.prompt_positions(config, encoding, prompt, shown)
        positions.append(place)
        following.append(after)
    if fed is not None:
        ids = torch.cat([ids, fed.tokens])
        after_prompts = torch.tensor(following)[fed.prompts] + fed.steps
        positions.append(after_prompts.expand(len(positions[0]), -1))
    embeds = family.embed(parts, ids)
    images = torch.cat(vision.flat).to(embeds)
    image_rows = (host == family.image_token(config)).nonzero()[:, 0]
    if image_rows.shape[0] != images.shape[0]:
        raise ModelError(
            f"prompt: found {image_rows.shape[0]} image tokens and {images.shape[0]} image "
            "features; features and prompts must be of the same images"
        )
    return PackedPrompts(
        family.place_features(embeds, to_device(image_rows, device), images),
        to_device(torch.cat(positions, dim=1), device),
        tuple(len(prompt) for prompt in prompts.input_ids),
        tuple(following),
    )


def run_packed(
    model: nn.Module,
    embeds: Tensor,
    positions: Tensor,
    plan: AttentionPlan,
    store: KeyValueStore | None = None,
) -> Tensor:
    """The text model over one packed row.

    Args:
        model: the policy, bare or wrapped.
        embeds: [L, W] embeddings, in the order that the plan expects.
        positions: [X, L] rotary positions.
        plan: how the L rows attend, such as a `TreeLayout`.
        store: receives every layer's keys and values, where given.

    Returns:
        [L, H] hidden states after the final norm.
    """
    parts = parts_of(model)
    with attention_switched(parts.text.config, parts.text_layers):
        return family_of(model).run_text(parts.text, embeds, positions, plan=plan, store=store)


def response_logprobs(
    model: nn.Module,
    prompts: PromptBatch,
    tokens: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    vision: VisionFeatures | None = None,
    micro_batch_tokens: int | None = None,
    with_entropy: bool = False,
) -> ResponseLogprobs:
    """Log-probabilities of K responses to each of B prompts, every prompt computed once.

    Differentiable in the model's weights and in `vision`. Gradient checkpointing, adapters and
    autocast work as the model is set up.

    Args:
        model: the policy, bare or wrapped.
        prompts: B prompts.
        tokens: [B, K, C] int64 response tokens.
        mask: [B, K, C] bool, True from each response's first token to its last; on the host nothing
            is waited for. Responses may be empty; a prompt with only empty responses is not
            computed at all.
        temperature: divides the logits, above 0.
        vision: features of the B prompts' images; None runs the vision tower here, for prompts that
            have responses.
        micro_batch_tokens: most tokens in one forward pass (see `plan_micro_batches`); None puts
            all into one. Bounds memory where no gradient is recorded; for training loop over the
            plan and send each part backwards by itself.
        with_entropy: also compute entropies.

    Returns:
        Log-probabilities and, if asked for, entropies.

    Raises:
        ValueError: a mask with gaps.
        ModelError: prompts, image features and model do not belong together.
    """
    device = parts_of(model).embeddings.weight.device
    tokens, mask = tokens.to(device), mask.cpu()
    lengths = response_lengths(mask)
    if micro_batch_tokens is None:
        parts = [slice(0, len(prompts))]
    else:
        parts = plan_micro_batches(prompts, mask, micro_batch_tokens)
    precision = torch.promote_types(parts_of(model).embeddings.weight.dtype, torch.float32)
    logprobs = torch.zeros(mask.shape, dtype=precision, device=device)
    entropy = torch.zeros_like(logprobs) if with_entropy else None
    for part in parts:
        active = [b for b in range(part.start, part.stop) if any(lengths[b])]
        if not active:
            continue
        # Equally long prompts side by side share one attention call.
        active.sort(key=lambda b: len(prompts.input_ids[b]))
        if vision is None:
            encoded = encode_images(model, prompts.choose(active))
        else:
            encoded = vision.choose(active)
        places, values, entropies = _packed_logprobs(
            model,
            prompts.choose(active),
            encoded,
            tokens,
            active,
            [lengths[b] for b in active],
            temperature,
            with_entropy,
        )
        logprobs = logprobs.view(-1).index_copy(0, places, values).view_as(tokens)
        if entropy is not None and entropies is not None:
            entropy.view(-1).index_copy_(0, places, entropies)
    return ResponseLogprobs(logprobs, entropy)


@torch.no_grad()
def response_states(
    model: nn.Module, prompts: PromptBatch, tokens: Tensor, mask: Tensor, vision: VisionFeatures
) -> Tensor:
    """[B, K, H] float32 mean last hidden state over each response's tokens; 0 of an empty one.

    Args:
        model: the policy, bare or wrapped.
        prompts: B prompts.
        tokens: [B, K, C] int64 response tokens.
        mask: [B, K, C] bool, True from each response's first token to its last.
        vision: features of the B prompts' images.
    """
    device = parts_of(model).embeddings.weight.device
    counts = torch.tensor(response_lengths(mask))
    group, width = tokens.shape[1:]
    owners, steps = _numbered(counts.flatten())
    places, responses = to_device(torch.stack([owners * width + steps, owners]), device).unbind()
    fed = FedTokens(tokens.to(device).flatten()[places], owners // group, steps)
    packed = pack_prompts(model, prompts, vision, fed)
    layout = TreeLayout.build(packed.lengths, counts.tolist(), device)
    hidden = run_packed(model, packed.embeds, packed.positions, layout)
    rows = hidden[layout.prompt_rows :].float()
    sums = rows.new_zeros(counts.numel(), rows.shape[1]).index_add_(0, responses, rows)
    sizes = to_device(counts.clamp(min=1), device)
    return sums.view(*counts.shape, -1) / sizes[..., None]


def _packed_logprobs(
    model: nn.Module,
    prompts: PromptBatch,
    vision: VisionFeatures,
    tokens: Tensor,
    active: list[int],
    lengths: list[list[int]],
    temperature: float,
    with_entropy: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log-probabilities of N tokens of A of B prompts: all first tokens, then the rest.

    Args:
        model: the policy, bare or wrapped.
        prompts: the A prompts.
        vision: features of their images.
        tokens: [B, K, C] tokens of all prompts, on the model's device.
        active: numbers of the A prompts.
        lengths: [A][K] tokens of each response.
        temperature: divides the logits.
        with_entropy: also compute entropies.

    Returns:
        [N] flat places in [B, K, C], [N] log-probabilities, [N] entropies or None.
    """
    device = tokens.device
    group, width = tokens.shape[1:]
    counts = torch.tensor(lengths)
    # The last token of a response predicts nothing that is asked for, so it is not an input.
    inputs = (counts - 1).clamp(min=0)
    owners, steps = _numbered(inputs.flatten())
    # Where responses begin in [B, K, C], and where their inputs are; sent in one transfer.
    begins = ((torch.tensor(active)[:, None] * group + torch.arange(group)) * width).flatten()
    present = counts.flatten().nonzero()[:, 0]
    sizes = [len(owners), len(begins), len(present)]
    packs = torch.cat([begins[owners] + steps, begins, present])
    places, begins, present = to_device(packs, device).split(sizes)
    flat = tokens.flatten()
    packed = pack_prompts(model, prompts, vision, FedTokens(flat[places], owners // group, steps))
    layout = TreeLayout.build(packed.lengths, inputs.tolist(), device)
    hidden = run_packed(model, packed.embeds, packed.positions, layout)
    logprobs_of = partial(
        target_logprobs,
        parts_of(model).head,
        temperature=temperature,
        with_entropy=with_entropy,
    )
    # One row of logits per prompt serves the first tokens of its K responses.
    last = to_device(torch.tensor(layout.last_prompt_rows), device)
    first, first_entropy = logprobs_of(hidden[last], flat[begins].view(len(active), group))
    rest, rest_entropy = logprobs_of(hidden[layout.prompt_rows :], flat[places + 1][:, None])
    targets = torch.cat([begins[present], places + 1])
    values = torch.cat([first.flatten()[present], rest[:, 0]])
    if first_entropy is None or rest_entropy is None:
        return targets, values, None
    entropy = first_entropy.repeat_interleave(group)[present]
    return targets, values, torch.cat([entropy, rest_entropy])
