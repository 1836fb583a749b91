"""Image encoders of students: the teacher's own tower, or a timm architecture.

An encoder takes images as the teacher's rule has resized them and gives F features of each.

Not here: what is made of the features (`model.py`), files (`folder.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vqr1.errors import ConfigError, ModelError, first_line
from vqr1.policy.families import Family, family
from vqr1.policy.fast_layers import use_fast_layers
from vqr1.policy.unwrap import parts_of, unwrap
from vqr1.policy.vision import encode_images
from vqr1.records import PromptBatch

TOWER = "tower"


class ImageEncoder(nn.Module, ABC):
    """Features of images.

    Attributes:
        width: F.
    """

    width: int

    @abstractmethod
    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """[B, F] features of B images [H_b, W_b, 3] uint8 on the encoder's device."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What `build_encoder` needs to make the same encoder again, beside its weights."""

    def tensors(self) -> dict[str, Tensor]:
        """All that its weights' file holds, by name."""
        return dict(self.state_dict())

    def fit_mode(self) -> None:
        """Set its layers up for steps that train it."""


class TowerEncoder(ImageEncoder):
    """A policy's vision tower with its merger: mean and deviation over an image's rows.

    Args:
        config: the policy's configuration (of transformers).
        image_processor: the policy's.
        tensors: weights and buffers of the tower, by name within it; copied to float32.
        blocks: how many of its blocks are kept, from the first; None: all.

    Raises:
        ModelError: tensors are missing, or have other shapes.
    """

    def __init__(
        self, config: Any, image_processor: Any, tensors: Mapping[str, Tensor],
        blocks: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        own = family(config.model_type, "the teacher")
        with torch.device("meta"):
            shell = own.model_class()._from_config(
                config, dtype=torch.float32, attn_implementation="sdpa"
            )
        parts = parts_of(shell)
        vision = parts.vision
        if blocks is not None:
            del parts.vision_layers[blocks:]
        self._blocks = blocks
        _place(vision, tensors)
        shell.image_encoding = own.image_encoding(image_processor)
        shell.eval()
        # The text model has no weights; only the tower is a part of this module.
        self._shell = (shell,)
        self.vision = vision
        use_fast_layers(shell)
        self.width = 2 * _width_of(own, shell, image_processor)

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """See `ImageEncoder.forward`."""
        none = torch.empty(0, dtype=torch.int64)
        prompts = PromptBatch((none,) * len(images), tuple((image,) for image in images))
        features = encode_images(self._shell[0], prompts)
        return torch.stack([torch.cat([f.mean(dim=0), _deviation(f)]) for f in features.flat])

    def record(self) -> dict[str, Any]:
        """See `ImageEncoder.record`."""
        policy = self._shell[0].config.to_dict()
        return {"kind": TOWER, "policy": policy, "blocks": self._blocks}

    def tensors(self) -> dict[str, Tensor]:
        """See `ImageEncoder.tensors`; buffers that no state dict has are among them."""
        return {f"vision.{name}": tensor for name, tensor in named_tensors(self.vision)}


def _deviation(features: Tensor) -> Tensor:
    """[W] standard deviation of [T, W] features, differentiable where all rows are alike too."""
    return (features.var(dim=0, correction=0) + 1e-8).sqrt()


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers, those in no state dict too."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def tower_of(policy: nn.Module) -> dict[str, Tensor]:
    """The weights and buffers of a policy's tower, by name within it."""
    return dict(named_tensors(parts_of(policy).vision))


def share_of_blocks(policy: nn.Module, share: float) -> int | None:
    """How many of the blocks of a policy's tower a share in (0, 1] is, one at least; None: all.

    Raises:
        ConfigError: the tower's blocks differ, so that it has no first part.
    """
    if share == 1:
        return None
    layers = parts_of(policy).vision_layers
    if not isinstance(layers, nn.ModuleList):
        raise ConfigError(
            [
                f"stage.tower_share={share}: the blocks of this teacher's tower are of different "
                "shapes, none can be left away; set 1"
            ]
        )
    return max(1, round(share * len(layers)))


def _place(vision: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for prefix, module in vision.named_modules():
        for holder, kind in ((module._parameters, nn.Parameter), (module._buffers, Tensor.clone)):
            for key, expected in holder.items():
                if expected is None:
                    continue
                name = f"{prefix}.{key}" if prefix else key
                found = tensors.get(name)
                if found is None or found.shape != expected.shape:
                    raise ModelError(
                        f"the student's tower: {name} is missing or not of shape "
                        f"{list(expected.shape)}; its weights are those of another student"
                    )
                value = found.detach()
                value = value.float() if value.is_floating_point() else value
                holder[key] = kind(value.to(copy=True))


def _width_of(own: Family, shell: nn.Module, image_processor: Any) -> int:
    """W of a tower's features, found by a pass over a small image."""
    core = unwrap(shell)
    rule = own.resize_rule(image_processor, 1, 2048 * 2048)
    image = rule.pixels(Image.new("RGB", (112, 112)))
    prompts = PromptBatch((torch.empty(0, dtype=torch.int64),), ((image,),))
    with torch.no_grad():
        (features,) = encode_images(core, prompts).flat
    return int(features.shape[1])


class TimmEncoder(ImageEncoder):
    """A timm architecture; images become squares by bilinear interpolation.

    Args:
        architecture: its name in timm.
        image_size: edge of the squares, in pixels.
        weights: safetensors file of its weights; None: random ones.

    Raises:
        ConfigError: timm is not installed or has no such architecture.
        ModelError: the weights' file cannot be used.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: str, image_size: int, weights: str | None = None) -> None:
        super().__init__()
        who = f"student {architecture}"
        try:
            import timm
        except ImportError as error:
            raise ConfigError(
                [f"{who}: timm is not installed; install the extra vqr1[timm]"]
            ) from error
        if not timm.is_model(architecture):
            raise ConfigError([f"{who}: timm has no such architecture; see timm.list_models()"])
        self.net = timm.create_model(architecture, pretrained=False, num_classes=0)
        self._architecture, self._size = architecture, image_size
        facts = self.net.pretrained_cfg
        shape = (1, 3, 1, 1)
        for name in ("mean", "std"):
            values = torch.tensor(facts.get(name) or [0.5] * 3, dtype=torch.float32)
            self.register_buffer(name, values.view(shape), persistent=False)
        self.width = int(self.net.num_features)
        if weights is not None:
            self._take(Path(weights).expanduser())

    def _take(self, file: Path) -> None:
        try:
            found = load_file(file)
            own = self.net.state_dict()
            self.net.load_state_dict({name: found[name] for name in own})
        except (OSError, SafetensorError, RuntimeError, KeyError) as error:
            raise ModelError(
                f"stage.weights={file}: not the weights of a {self._architecture} "
                f"({first_line(error)}); give its safetensors file, or null for random weights"
            ) from error

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """See `ImageEncoder.forward`."""
        size = (self._size, self._size)
        squares = [
            nn.functional.interpolate(
                image.permute(2, 0, 1)[None].float(), size, mode="bilinear", antialias=True
            )
            for image in images
        ]
        pixels = torch.cat(squares) / 255.0
        features = self.net((pixels - self.mean) / self.std)
        assert isinstance(features, Tensor)
        return features

    def record(self) -> dict[str, Any]:
        """See `ImageEncoder.record`."""
        return {"kind": "timm", "architecture": self._architecture, "image_size": self._size}

    def fit_mode(self) -> None:
        """See `ImageEncoder.fit_mode`: norms over batches have no statistics to begin with."""
        self.net.train()


def build_encoder(
    record: Mapping[str, Any], image_processor: Any, tensors: Mapping[str, Tensor]
) -> ImageEncoder:
    """The encoder of a saved student.

    Args:
        record: see `ImageEncoder.record`.
        image_processor: the teacher's.
        tensors: its weights, by name.

    Raises:
        ConfigError: its library is not installed.
        ModelError: weights or record do not fit.
    """
    if record["kind"] == TOWER:
        from transformers import AutoConfig

        prefix = "vision."
        inner = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        policy = AutoConfig.for_model(**record["policy"])
        return TowerEncoder(policy, image_processor, inner, record["blocks"])
    encoder = TimmEncoder(record["architecture"], record["image_size"])
    try:
        encoder.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise ModelError(f"the student's encoder: {first_line(error)}") from error
    return encoder
