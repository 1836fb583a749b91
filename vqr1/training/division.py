"""How the weights of a run are divided between its processes, as the ranking step sees it.

`Replicated`: each process holds all weights, and gradients are added up once a step (`ranks.py`).
`Sharded`: every block of the vision tower and of the text model is cut into one piece a process by
PyTorch's fully_shard (FSDP2); its weights are put together for the length of its forward and
backward pass, and its gradient is added up and cut at once. Embedding and output head, which the
shared-prompt passes use outside of the model's own forward pass, stay whole in every process; so
does a vision tower that does not train, whose features are kept.

Pieces are put together by all processes at the same moment. All make the same number of passes
therefore (`same_passes`), and sampling, whose steps differ, happens while the weights are whole.

Not here: DeepSpeed (`zero.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from vqr1.policy.backbone import unwrap
from vqr1.policy.loading import trainable_parameters, vision_trains
from vqr1.policy.vision import VisionFeatures
from vqr1.training.agreement import largest
from vqr1.training.ranks import add_gradients, own_rank


class Division(Protocol):
    """What the step needs to know."""

    def whole(self) -> Any:
        """Context manager in which every process holds all weights; gradients off."""
        ...

    def same_passes(self, passes: int) -> int:
        """Forward and backward passes to make, at least this process's own `passes`."""
        ...

    def zero_grad(self, optimizer: Any) -> None:
        """Forget the gradients of the last update."""
        ...

    def backward(self, module: Any, loss: Tensor) -> None:
        """Send the loss of one pass backwards.

        Args:
            module: the Lightning module.
            loss: scalar.
        """
        ...

    def backward_vision(self, vision: VisionFeatures, leaves: VisionFeatures) -> None:
        """Send the gradients that `leaves` have collected through the vision tower."""
        ...

    def whole_weights(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Name and whole value of every weight of the policy; all processes have to ask."""
        ...

    def close(self) -> None:
        """No pass follows any more."""
        ...

    def finish_gradients(self, model: nn.Module, limit: float | None) -> float:
        """Add gradients up over all processes and clip them.

        Args:
            model: the policy; its gradients are changed in place.
            limit: largest norm; None does not clip.

        Returns:
            Norm of all gradients together before clipping; 0 where there are none.
        """
        ...


class _OwnPasses:
    """Backward passes and weights as PyTorch has them."""

    def zero_grad(self, optimizer: Any) -> None:
        """See `Division`."""
        optimizer.zero_grad(set_to_none=True)

    def backward(self, module: Any, loss: Tensor) -> None:
        """See `Division`."""
        module.manual_backward(loss)

    def backward_vision(self, vision: VisionFeatures, leaves: VisionFeatures) -> None:
        """See `Division`."""
        vision.backward_from(leaves)

    def whole_weights(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """See `Division`."""
        for name, value in model.state_dict().items():
            yield name, whole_tensor(value)

    def close(self) -> None:
        """Nothing to let go."""


class Replicated(_OwnPasses):
    """Every process holds all weights."""

    @contextmanager
    def whole(self) -> Iterator[None]:
        """They are."""
        yield

    def same_passes(self, passes: int) -> int:
        """As many as there are to make."""
        return passes

    def finish_gradients(self, model: nn.Module, limit: float | None) -> float:
        """See `Division`."""
        add_gradients(trainable_parameters(model))
        parameters = [p for p in trainable_parameters(model) if p.grad is not None]
        if not parameters:
            return 0.0
        most = math.inf if limit is None else limit
        return float(torch.nn.utils.clip_grad_norm_(parameters, most))


class Sharded(_OwnPasses):
    """FSDP2: each process holds a piece of every block.

    Args:
        model: the policy on its device, the same in every process; it is changed in place.
        half_passes: the passes compute in bfloat16; the pieces stay as they are.
    """

    def __init__(self, model: nn.Module, half_passes: bool) -> None:
        core = unwrap(model)
        text, visual = core.model.language_model, core.model.visual
        policy = MixedPrecisionPolicy(cast_forward_inputs=False)
        if half_passes:
            policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
            )
        self._parts: list[FSDPModule] = []
        # The whole comes after its blocks, and takes what they have left.
        self._shard(text, text.layers, policy, {text.embed_tokens.weight})
        if vision_trains(model):
            self._shard(visual, visual.blocks, policy, set())

    def _shard(
        self,
        root: nn.Module,
        blocks: Sequence[nn.Module],
        policy: MixedPrecisionPolicy,
        left_whole: set[nn.Parameter],
    ) -> None:
        modules = [*blocks, root]
        for module in modules:
            fully_shard(
                module, reshard_after_forward=True, mp_policy=policy, ignored_params=left_whole
            )
        # The root first: it is the one that the blocks belong to.
        for part in reversed(modules):
            assert isinstance(part, FSDPModule)
            # The loss is a sum with the denominators of all processes, not a mean of means.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
            self._parts.append(part)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Put all pieces together, and cut them again."""
        for part in self._parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            with torch.no_grad():
                yield
        finally:
            for part in self._parts:
                part.reshard()
                part.set_reshard_after_forward(True, recurse=False)

    def same_passes(self, passes: int) -> int:
        """The most that any process has to make."""
        return largest(passes)

    def finish_gradients(self, model: nn.Module, limit: float | None) -> float:
        """See `Division`; the gradients of the pieces are added up already."""
        pieces, wholes = split_parameters(trainable_parameters(model))
        if wholes:
            add_gradients(wholes)
        gradients = [[p.grad for p in part if p.grad is not None] for part in (pieces, wholes)]
        norms = [torch.nn.utils.get_total_norm(part) for part in gradients if part]
        if not norms:
            return 0.0
        norm = float(torch.stack([whole_tensor(part) for part in norms]).norm())
        if limit is not None and math.isfinite(norm):
            scale = min(1.0, limit / (norm + 1e-6))
            for gradient in (g for part in gradients for g in part):
                gradient.mul_(scale)
        return norm


def split_parameters(
    parameters: Sequence[nn.Parameter],
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Those of which this process holds a piece, and those that it holds whole."""
    pieces: list[nn.Parameter] = [p for p in parameters if isinstance(p, DTensor)]
    return pieces, [p for p in parameters if not isinstance(p, DTensor)]


def whole_tensor(value: Tensor) -> Tensor:
    """The whole of a divided tensor; all processes have to ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_state(value: Any) -> Any:
    """Nested containers with every divided tensor whole, on the first process's host.

    The others take part and keep an empty one: eight copies of a large model fit no host.
    """
    if isinstance(value, Mapping):
        return {key: whole_state(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole_state(part) for part in value)
    if not isinstance(value, DTensor):
        return value
    whole = whole_tensor(value.detach())
    return whole.cpu() if own_rank() == 0 else whole.new_empty(0, device="cpu")


def divide_like(values: Mapping[str, Any], parameter: nn.Parameter) -> dict[str, Any]:
    """An optimiser's state of one parameter, cut as the parameter is."""
    if not isinstance(parameter, DTensor):
        return dict(values)
    return {
        name: distribute_tensor(
            value.to(parameter.device), parameter.device_mesh, parameter.placements
        )
        if isinstance(value, Tensor) and value.shape == parameter.shape
        else value
        for name, value in values.items()
    }
