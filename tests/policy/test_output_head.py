"""The chunked head against one log-softmax."""

from __future__ import annotations

import pytest
import torch

from vqr1.policy.output_head import target_logprobs


@pytest.mark.parametrize("max_logits", [1, 30, 10**6])
def test_chunks_equal_one_log_softmax(max_logits):
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 10)
    hidden = torch.randn(7, 6, requires_grad=True)
    targets = torch.randint(0, 10, (7, 3))
    found, entropy = target_logprobs(
        head, hidden, targets, temperature=0.5, with_entropy=True, max_logits=max_logits
    )
    everything = torch.log_softmax(head(hidden) / 0.5, dim=-1)
    expected = everything.gather(1, targets)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(entropy, -(everything.exp() * everything).sum(-1))
    assert not entropy.requires_grad
    weights = torch.randn_like(found)
    wanted = (hidden, head.weight, head.bias)
    for gradient, truth in zip(
        torch.autograd.grad((found * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(gradient, truth)


def test_logits_never_exceed_the_budget():
    sizes = []

    class Recorder(torch.nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            sizes.append(out.numel())
            return out

    hidden = torch.randn(9, 4, requires_grad=True)
    targets = torch.zeros(9, 1, dtype=torch.long)
    found, entropy = target_logprobs(Recorder(4, 10), hidden, targets, max_logits=40)
    found.sum().backward()
    assert entropy is None
    # 4 rows a chunk: 4 + 4 + 1 forwards, and again backwards.
    assert sorted(sizes) == [10, 10, 40, 40, 40, 40]
