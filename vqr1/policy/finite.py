"""Numbers that are not finite, named where they arise: in weights, and in a model's own answers.

A model whose weights, activations or logits hold NaN or infinity gives answers all the same: the
likeliest of NaN is token 0, and a draw from NaN is no token at all. Nothing of that may become a
text or a score.

Not here: updates whose gradient is not finite, which are skipped and counted (`StageModule`,
`vqr1.training.callbacks.watchdogs`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vqr1.counted import counted
from vqr1.errors import NonFiniteError


def non_finite_weights(model: nn.Module) -> list[str]:
    """Names of the weights that hold NaN or infinity; one wait for the device in all.

    Statistics of batch norms count, as all buffers of floating point: they decide a tower's rows.

    Args:
        model: any module; every process holds its parameters in full.
    """
    tensors = (*model.named_parameters(), *model.named_buffers())
    named = [
        (name, value.detach())
        for name, value in tensors
        if value.numel() and (value.is_floating_point() or isinstance(value, nn.Parameter))
    ]
    if not named:
        return []
    # The extremes are finite only if all values are: NaN passes through both. Several times as
    # fast on a CPU as testing every value.
    extremes = torch.stack([torch.stack(value.aminmax()).float() for _, value in named])
    finite = torch.isfinite(extremes).all(dim=1).tolist()
    return [name for (name, _), good in zip(named, finite, strict=True) if not good]


def check_answer_logprobs(logprobs: Tensor) -> None:
    """Check log-probabilities of the tokens that spell an answer, of a model in this process.

    Args:
        logprobs: [B, ...] log-probabilities of images' answers; a softmax of finite logits gives
            finite ones.

    Raises:
        NonFiniteError: one of them is NaN or infinite.
    """
    finite = torch.isfinite(logprobs.flatten(1)).all(dim=1)
    if not bool(finite.all()):
        raise NonFiniteError(
            f"the model's logits are NaN or infinite at the answers of {int((~finite).sum())} of "
            f"{counted(len(finite), 'image')}"
        )


def check_logprobs(logprobs: Tensor) -> None:
    """Check what a rollout's tokens were drawn with.

    Args:
        logprobs: [A, K, C] log-probabilities of drawn tokens, 0 after a response's end.

    Raises:
        NonFiniteError: one of them is NaN or infinite, as those of all tokens are that were drawn
            from logits with NaN or infinity.
    """
    finite = torch.isfinite(logprobs)
    if bool(finite.all()):
        return
    broken = ~finite
    responses = broken.any(dim=2)
    first = int(broken.flatten(0, 1).any(dim=0).int().argmax())
    raise NonFiniteError(
        f"the model's logits are NaN or infinite in {int(responses.sum())} of "
        f"{responses.numel()} responses, first at token {first + 1}"
    )
