"""Tree attention against one masked softmax over the whole row."""

from __future__ import annotations

import pytest
import torch

from vqr1.policy import flash
from vqr1.policy.tree_attention import TreeLayout, tree_attention


def whole_mask(layout):
    """[L, L] bool: what each token of the row may see, written down token by token."""
    owners = []
    for image, length in enumerate(layout.prompt_lengths):
        owners += [(image, None, place) for place in range(length)]
    for image, group in enumerate(layout.response_lengths):
        for response, length in enumerate(group):
            owners += [(image, response, place) for place in range(length)]
    return torch.tensor(
        [
            [
                key[0] == query[0]
                and (
                    (key[1] == query[1] and key[2] <= query[2])
                    or (key[1] is None and query[1] is not None)
                )
                for key in owners
            ]
            for query in owners
        ]
    )


def masked_attention(q, k, v, layout):
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~whole_mask(layout), -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v)


LAYOUTS = {
    "equal prompts, equal responses": ([5, 5], [[3, 3], [3, 3]]),
    "ragged": ([2, 5, 5, 9], [[4, 1, 2], [3, 0, 3], [0, 0, 0], [7, 2, 2]]),
    "no responses": ([4, 6], [[], []]),
    "single tokens": ([1], [[1]]),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_equals_one_masked_softmax(name, kv_heads):
    layout = TreeLayout.build(*LAYOUTS[name], torch.device("cpu"))
    rows = layout.prompt_rows + sum(map(sum, layout.response_lengths))
    torch.manual_seed(1)
    q = torch.randn(rows, 4, 8, dtype=torch.float64, requires_grad=True)
    k = torch.randn(rows, kv_heads, 8, dtype=torch.float64, requires_grad=True)
    v = torch.randn(rows, kv_heads, 8, dtype=torch.float64, requires_grad=True)
    found = tree_attention(q, k, v, layout)
    expected = masked_attention(q, k, v, layout)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(found)
    found_grads = torch.autograd.grad((found * weights).sum(), (q, k, v))
    expected_grads = torch.autograd.grad((expected * weights).sum(), (q, k, v))
    for gradient, truth in zip(found_grads, expected_grads, strict=True):
        torch.testing.assert_close(gradient, truth, rtol=1e-5, atol=1e-5)


def test_layout_by_hand():
    layout = TreeLayout.build([3, 3, 4], [[2, 1], [0, 0], [0, 3]], torch.device("cpu"))
    assert layout.buckets == ((0, 2, 3), (6, 1, 4))
    # Image 0: its prompt starts at 0, has 3 rows; responses 0 to 2. Image 2: prompt at 6.
    assert layout.spans == ((0, 3, 0, 3), (6, 4, 3, 3))
    grid = layout.responses
    assert grid is not None
    assert (grid.count, grid.longest, grid.rows) == (3, 3, 6)
    # Responses of 2, 1 and 3 tokens in rows of 3: places 0 1 . | 3 . . | 6 7 8.
    assert grid.places is not None
    assert grid.places.tolist() == [0, 1, 3, 6, 7, 8]
    assert layout.last_prompt_rows == [2, 5, 9]
    assert (layout.prompt_rows, sum(map(sum, layout.response_lengths))) == (10, 6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_matrix_products_equal_the_flash_kernel(causal, heads):
    torch.manual_seed(2)
    query_heads, kv_heads = heads
    keys = 6 if causal else 9
    q = torch.randn(2, query_heads, 6, 8)
    k, v = torch.randn(2, kv_heads, keys, 8), torch.randn(2, kv_heads, keys, 8)
    grad = torch.randn_like(q)
    out, lse = flash.forward(q, k, v, causal=causal, scale=0.3)
    math_out, math_lse = flash.math_forward(q, k, v, causal=causal, scale=0.3)
    torch.testing.assert_close(out, math_out, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lse, math_lse, rtol=1e-5, atol=1e-6)
    for found, expected in zip(
        flash.backward(grad, q, k, v, out, lse, causal=causal, scale=0.3),
        flash.math_backward(grad, q, k, v, out=out, lse=lse, causal=causal, scale=0.3),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_gradients_of_bfloat16_are_those_of_its_values() -> None:
    torch.manual_seed(2)
    q, grad = (torch.randn(2, 4, 9, 8, dtype=torch.bfloat16) for _ in range(2))
    k, v = (torch.randn(2, 2, 9, 8, dtype=torch.bfloat16) for _ in range(2))
    out, lse = flash.forward(q, k, v, causal=True, scale=0.3)
    found = flash.backward(grad, q, k, v, out, lse, causal=True, scale=0.3)
    exact = flash.math_backward(
        *(x.double() for x in (grad, q, k, v)), out=out.double(), lse=lse.double(), causal=True,
        scale=0.3,
    )  # fmt: skip
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.bfloat16
        # One rounding, of the result.
        torch.testing.assert_close(one.double(), other, rtol=2**-8, atol=1e-6)
