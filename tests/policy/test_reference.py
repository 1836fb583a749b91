"""The second set of weights: where it lies, and how it follows the policy."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny_models import tiny_model
from vqr1.policy.reference import AdapterOff, FrozenCopy, make_reference


def test_there_is_none_without_a_kl_term() -> None:
    assert make_reference(tiny_model(), 0.0) is None
    reference = make_reference(tiny_model(), 0.04, on_host=True)
    assert isinstance(reference, FrozenCopy)
    assert not isinstance(reference, AdapterOff)


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
)  # fmt: skip
def test_a_copy_on_the_host_is_on_the_device_inside_its_block_only(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    model = tiny_model(seed=1).to(device)
    reference = FrozenCopy(model, vision_frozen=False, on_host=True)
    kept = {name: p.data_ptr() for name, p in reference.model.named_parameters()}
    with reference.weights() as copy:
        assert {p.device.type for p in (*copy.parameters(), *copy.buffers())} == {device}
        assert not torch.is_grad_enabled()
    for (name, weight), expected in zip(
        reference.model.named_parameters(), model.parameters(), strict=True
    ):
        assert weight.data_ptr() == kept[name]
        assert weight.device.type == "cpu"
        assert torch.equal(weight, expected.cpu())
        assert not weight.requires_grad


def test_following_moves_the_share_of_the_way_and_tied_weights_once() -> None:
    model = tiny_model(seed=1)
    model.lm_head.weight = model.model.language_model.embed_tokens.weight
    reference = FrozenCopy(model, vision_frozen=False)
    start = {name: weight.clone() for name, weight in reference.state().items()}
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(8.0)
    # A quarter of the way to x + 8 is x + 2.
    reference.follow(model.state_dict().items(), 0.25)
    for name, weight in reference.state().items():
        torch.testing.assert_close(weight, start[name] + 2.0, msg=name)
