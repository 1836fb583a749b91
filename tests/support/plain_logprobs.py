"""The unshared reference path: every response is a full row of its own.

`plain_logprobs` gives what `shared_prompt.response_logprobs` gives, through nothing but the
model's own forward pass on a padded batch of B*K rows with B*K copies of the images: what other
trainers do. It is the independent check of the shared path and the yardstick of its speed; no
training step uses it.

Shapes: B images, K responses each, C tokens a response, P longest prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vqr1.policy.shared_prompt import ResponseLogprobs
from vqr1.policy.unwrap import unwrap
from vqr1.policy.vision import encoding_of
from vqr1.records import PromptBatch


def plain_logprobs(
    model: nn.Module,
    prompts: PromptBatch,
    tokens: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> ResponseLogprobs:
    """Log-probabilities of K responses to each of B prompts by B*K full rows.

    Args:
        model: the policy, bare or wrapped.
        prompts: B prompts; padded on the left here.
        tokens: [B, K, C] int64 response tokens.
        mask: [B, K, C] bool, True on the tokens that count.
        temperature: divides the logits, above 0.
        with_entropy: also compute entropies.

    Returns:
        Log-probabilities, differentiable in the weights, and entropies.
    """
    core = unwrap(model)
    device = core.lm_head.weight.device
    images, group, longest = tokens.shape
    tokens, mask = tokens.to(device), mask.to(device)
    pad = 0
    ids = pad_sequence(
        [prompt.flip(0) for prompt in prompts.input_ids], batch_first=True, padding_value=pad
    ).flip(1)
    real = pad_sequence(
        [torch.ones_like(prompt).flip(0) for prompt in prompts.input_ids], batch_first=True
    ).flip(1)
    ids = ids.to(device).repeat_interleave(group, dim=0)
    real = real.to(device).repeat_interleave(group, dim=0)
    responses = tokens.view(images * group, longest).masked_fill(~mask.view(-1, longest), pad)
    rows = torch.cat([ids, responses], dim=1)
    copies = [image.to(device) for shown in prompts.images for _ in range(group) for image in shown]
    patches, grids = encoding_of(model).encode(copies)
    is_image = (rows == core.config.image_token_id) & torch.cat(
        [real.bool(), torch.zeros_like(responses, dtype=torch.bool)], dim=1
    )
    output = model(
        input_ids=rows,
        attention_mask=torch.cat([real, mask.view(-1, longest).long()], dim=1),
        mm_token_type_ids=is_image.int(),
        pixel_values=patches,
        image_grid_thw=grids.to(device),
        logits_to_keep=longest + 1,
        use_cache=False,
    )
    logits = output.logits[:, :-1].float().view(images, group, longest, -1) / temperature
    everything = logits.log_softmax(dim=-1)
    chosen = everything.gather(-1, tokens[..., None])[..., 0].masked_fill(~mask, 0.0)
    if not with_entropy:
        return ResponseLogprobs(chosen, None)
    entropy = torch.distributions.Categorical(logits=everything.detach()).entropy()
    return ResponseLogprobs(chosen, entropy.masked_fill(~mask, 0.0))
