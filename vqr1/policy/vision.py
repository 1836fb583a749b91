"""Image features: computed once per image and weights version, then reused.

Shapes: B images; T_b merged image tokens of image b; N patches before merging; H hidden size of
the text model.

All K responses, the reference pass and the update of one step can use one `VisionFeatures`. Where
the tower is frozen, `VisionCache` keeps the features across steps and epochs, in memory and
optionally on disk.

Not here: what an image looks like in the token sequence (`shared_prompt.py`).
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vqr1.errors import ModelError
from vqr1.policy.backbone import checkpointing_in_eval_mode, unwrap
from vqr1.records import PromptBatch


@dataclass(frozen=True)
class VisionFeatures:
    """Merged image embeddings of B prompts.

    Attributes:
        embeds: B tensors of shape [T_b, H], the vectors that stand in for the prompt's image
            tokens.
    """

    embeds: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.embeds)

    def select(self, start: int, stop: int) -> VisionFeatures:
        """The features of images `start <= b < stop`."""
        return VisionFeatures(self.embeds[start:stop])

    def detach(self) -> VisionFeatures:
        """The same values without their history: for rollouts and the reference."""
        return VisionFeatures(tuple(embed.detach() for embed in self.embeds))

    def leaves(self) -> VisionFeatures:
        """Copies that collect gradients, so that the tower is passed backwards once.

        Several micro batches can be sent backwards one after the other through the leaves; then
        `backward_from` sends the summed gradients through the tower.
        """
        return VisionFeatures(tuple(embed.detach().requires_grad_() for embed in self.embeds))

    def backward_from(self, leaves: VisionFeatures) -> None:
        """Sends the gradients that `leaves` collected through the vision tower."""
        pairs = [
            (embed, leaf.grad)
            for embed, leaf in zip(self.embeds, leaves.embeds, strict=True)
            if leaf.grad is not None and embed.requires_grad
        ]
        if pairs:
            torch.autograd.backward([embed for embed, _ in pairs], [grad for _, grad in pairs])


def encode_images(model: nn.Module, prompts: PromptBatch) -> VisionFeatures:
    """Runs the vision tower once over all images of a batch.

    Gradients are recorded as everywhere in PyTorch: call it under `torch.no_grad()` for rollouts
    and references; a frozen tower records none.

    Args:
        model: the policy, bare or wrapped.
        prompts: B prompts with their patches.

    Returns:
        Features of B images.
    """
    core = unwrap(model).model
    device = core.visual.patch_embed.proj.weight.device
    with checkpointing_in_eval_mode(core.visual.blocks):
        output = core.get_image_features(
            prompts.pixel_values.to(device), prompts.image_grid_thw.to(device), return_dict=True
        )
    return VisionFeatures(tuple(output.pooler_output))


def image_keys(prompts: PromptBatch) -> list[bytes]:
    """A 16-byte digest of every image's patches, the same in every batch and on every machine."""
    patches = prompts.image_grid_thw.prod(dim=1).tolist()
    pixels = prompts.pixel_values.detach().to("cpu", torch.float32).contiguous()
    grids = prompts.image_grid_thw.cpu().tolist()
    keys = []
    for rows, grid in zip(pixels.split(patches), grids, strict=True):
        digest = hashlib.sha256(repr(grid).encode())
        digest.update(memoryview(rows.numpy().reshape(-1)).cast("B"))
        keys.append(digest.digest()[:16])
    return keys


class VisionCache:
    """Features of images that a FROZEN tower has seen, least recently used thrown out first.

    The key is the image's content; the cache must not outlive a change of the tower's weights.

    Attributes:
        hits: images answered from memory or disk so far.
        misses: images that went through the tower so far.
    """

    def __init__(self, max_bytes: int = 2**31, folder: Path | None = None) -> None:
        """Keeps at most `max_bytes` in memory; with `folder`, every image's features on disk."""
        self.max_bytes = max_bytes
        self.folder = folder
        self.hits = 0
        self.misses = 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes = 0
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def encode(self, model: nn.Module, prompts: PromptBatch) -> VisionFeatures:
        """Features of all B images; only images that are not known go through the tower.

        Raises:
            ModelError: the vision tower is trained, so that kept features would be stale.
        """
        visual = unwrap(model).model.visual
        if any(parameter.requires_grad for parameter in visual.parameters()):
            raise ModelError(
                "vision cache: the vision tower's weights are trained, so features change at every "
                "step; set model.freeze_vision=true or use encode_images"
            )
        device = visual.patch_embed.proj.weight.device
        keys = image_keys(prompts)
        found: list[Tensor | None] = [self._load(key) for key in keys]
        unknown = [b for b, embed in enumerate(found) if embed is None]
        with torch.no_grad():
            for b in unknown:
                found[b] = encode_images(model, prompts.select(b, b + 1)).embeds[0]
        self._keep([keys[b] for b in unknown], [found[b] for b in unknown])
        self.misses += len(unknown)
        self.hits += len(keys) - len(unknown)
        return VisionFeatures(tuple(embed.to(device) for embed in found if embed is not None))

    def _load(self, key: bytes) -> Tensor | None:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        embed = load_file(path)["embed"]
        self._remember(key, embed)
        return embed

    def _keep(self, keys: Sequence[bytes], embeds: Sequence[Tensor | None]) -> None:
        for key, embed in zip(keys, embeds, strict=True):
            if embed is None:
                continue
            # A copy: a view would keep the whole batch's features alive.
            kept = embed.detach().cpu().clone()
            self._remember(key, kept)
            path = self._path(key)
            if path is not None:
                # Renaming is atomic, so that a reader never sees half a file.
                partial = path.with_suffix(f".{os.getpid()}.partial")
                save_file({"embed": kept.contiguous()}, partial)
                partial.replace(path)

    def _remember(self, key: bytes, embed: Tensor) -> None:
        if key in self._kept:
            return
        self._kept[key] = embed
        self._bytes += embed.nbytes
        while self._bytes > self.max_bytes and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes

    def _path(self, key: bytes) -> Path | None:
        return None if self.folder is None else self.folder / f"{key.hex()}.safetensors"
