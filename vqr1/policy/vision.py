"""Image features: computed once per image and weights version, then reused.

Shapes: B prompts, of one or several images each; T tokens of an image; W width of features, as the
family has them.

Batches carry resized images; their patches are made here, for the time of a pass. All K responses,
the reference pass and the update of one step can use one `VisionFeatures`; an image that comes in
several prompts of a batch, or several times in one, goes through the tower once. Where the tower is
frozen, `VisionCache` keeps the features across steps and epochs, in memory and optionally on disk.

Where only what comes after the tower trains, and its family can run it alone, the tower's rows are
kept instead.

Not here: what an image looks like in the token sequence (`shared_prompt.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vqr1.device import exact, to_device
from vqr1.durable import replacing
from vqr1.errors import ModelError
from vqr1.policy.tower_rows import TowerRows
from vqr1.policy.unwrap import checkpointing_in_eval_mode, family_of, parts_of, unwrap
from vqr1.records import PromptBatch, map_once

_CPU_PATCHES = 3072
"""Patches that go through the tower together on a CPU: what lies between two layers then stays in
the processor's cache."""

_COMPUTES_NOTHING = ("architectures", "dtype", "transformers_version")
"""Keys of a model's configuration on which no pass depends; types are those of its weights."""


@dataclass(frozen=True)
class VisionFeatures:
    """Image features of B prompts.

    Attributes:
        embeds: of each of B prompts, for each of its images in order, a tensor of shape [T, W],
            which stands in for the image's tokens; the same tensor wherever an image comes again.
    """

    embeds: tuple[tuple[Tensor, ...], ...]

    def __len__(self) -> int:
        return len(self.embeds)

    @property
    def flat(self) -> tuple[Tensor, ...]:
        """The features of all prompts' images, one prompt after the other."""
        return tuple(embed for embeds in self.embeds for embed in embeds)

    def select(self, start: int, stop: int) -> VisionFeatures:
        """The features of prompts `start <= b < stop`."""
        return VisionFeatures(self.embeds[start:stop])

    def choose(self, numbers: Sequence[int]) -> VisionFeatures:
        """The features of some of the prompts, in the given order."""
        return VisionFeatures(tuple(self.embeds[b] for b in numbers))

    def detach(self) -> VisionFeatures:
        """The same values without their history: for rollouts and the reference."""
        return VisionFeatures(map_once(Tensor.detach, self.embeds))

    def leaves(self) -> VisionFeatures:
        """Copies that collect gradients, so that the tower is passed backwards once.

        Several micro batches can be sent backwards one after the other through the leaves; then
        `backward_from` sends the summed gradients through the tower.
        """
        return VisionFeatures(map_once(lambda embed: embed.detach().requires_grad_(), self.embeds))

    def gradients(self, leaves: VisionFeatures) -> list[tuple[Tensor, Tensor]]:
        """Features of each distinct image with the gradient that its leaf collected, if any."""
        distinct = {id(e): (e, leaf) for e, leaf in zip(self.flat, leaves.flat, strict=True)}
        return [(embed, leaf.grad) for embed, leaf in distinct.values() if leaf.grad is not None]

    def backward_from(self, leaves: VisionFeatures) -> None:
        """Sends the gradients that `leaves` collected through the vision tower."""
        pairs = [pair for pair in self.gradients(leaves) if pair[0].requires_grad]
        if not pairs:
            return
        with exact(pairs[0][0].device):
            torch.autograd.backward([embed for embed, _ in pairs], [grad for _, grad in pairs])


def encoding_of(model: nn.Module) -> Any:
    """What a policy makes of an image: as its processor's files ask, else the released numbers.

    The result is an `ImageEncoding` of the policy's family, which knows more of it.

    Args:
        model: the policy, bare or wrapped.
    """
    core = unwrap(model)
    kept = getattr(core, "image_encoding", None)
    return family_of(core).released_encoding(core.config) if kept is None else kept


def encode_images(
    model: nn.Module, prompts: PromptBatch, *, at_once: bool = False
) -> VisionFeatures:
    """Runs the vision tower once over all images of a batch, over equal ones once.

    Gradients are recorded as everywhere in PyTorch: call it under `torch.no_grad()` for rollouts
    and references; a frozen tower records none.

    Args:
        model: the policy, bare or wrapped.
        prompts: B prompts with their images.
        at_once: in one pass on a CPU too, whose caches would rather have several: processes that
            hold shards of the tower have to make the same number of passes.

    Returns:
        Features of the images of B prompts.
    """
    return _through(family_of(model).image_features, model, prompts, at_once=at_once)


def _through(
    tower: Callable[..., list[Tensor]],
    model: nn.Module,
    prompts: PromptBatch,
    *,
    at_once: bool = False,
) -> VisionFeatures:
    """What one of a family's passes over images gives for those of a batch."""
    core, parts = unwrap(model), parts_of(model)
    encoding = encoding_of(model)
    device = next(parts.vision.parameters()).device
    distinct, numbers = _distinct_images(prompts)
    sizes = [encoding.rows(image) for image in distinct]
    in_pieces = device.type == "cpu" and not at_once
    runs = runs_within(sizes, _CPU_PATCHES) if in_pieces else [(0, len(sizes))]
    features: list[Tensor] = []
    with checkpointing_in_eval_mode(parts.vision_layers):
        for first, last in runs:
            images = [image.to(device) for image in distinct[first:last]]
            features += tower(core, encoding, images)
    return VisionFeatures(tuple(tuple(features[i] for i in group) for group in numbers))


def _distinct_images(prompts: PromptBatch) -> tuple[list[Tensor], list[list[int]]]:
    """The images of a batch without their copies, and by prompt the numbers of its images there."""
    flat = prompts.flat_images
    names: list[Any] = list(map(id, flat))
    if prompts.keys is not None:
        names = [key for keys in prompts.keys for key in keys]
    elif len(flat) > 1:
        names = [(tuple(image.shape), image.cpu().numpy().tobytes()) for image in flat]
    distinct = dict(zip(names, flat, strict=True))
    number = {name: i for i, name in enumerate(distinct)}
    rest = iter(names)
    return list(distinct.values()), [
        [number[next(rest)] for _ in group] for group in prompts.images
    ]


def runs_within(sizes: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Cuts a sequence of items into runs (first, after the last) whose sizes sum to a limit.

    An item above the limit is a run of its own.
    """
    runs = []
    first, total = 0, 0
    for number, size in enumerate(sizes):
        if number > first and total + size > limit:
            runs.append((first, number))
            first, total = number, 0
        total += size
    return [*runs, (first, len(sizes))] if sizes else []


def image_keys(model: nn.Module, prompts: PromptBatch) -> tuple[tuple[bytes, ...], ...]:
    """By prompt, its images' keys: those that the loader computed, else computed here.

    Args:
        model: the policy, bare or wrapped.
        prompts: B prompts.
    """
    if prompts.keys is not None:
        return prompts.keys
    return map_once(encoding_of(model).key, prompts.images)


def rows_are_kept(model: nn.Module) -> bool:
    """Whether the tower stays while what comes after it trains, and its rows can be kept.

    Args:
        model: the policy, bare or wrapped.
    """
    parts = parts_of(model)
    after = _trained(parts.connector)
    alone = isinstance(family_of(model), TowerRows)
    return bool(alone and after and _trained(parts.vision) <= after)


def _trained(module: nn.Module) -> set[int]:
    return {id(parameter) for parameter in module.parameters() if parameter.requires_grad}


def weights_digest(module: nn.Module, settings: str, without: nn.Module | None = None) -> str:
    """32 hexadecimal digits that distinguish what a module computes.

    SHA-256 of its weights' names, types and bytes, and of what decides how they are used: towers
    whose convolutions pad in two ways, or of which two layers are taken, have the same weights.

    Args:
        module: whose weights.
        settings: as `configuration_text` gives them.
        without: a module inside it that does not count.
    """
    apart = set() if without is None else {id(weight) for weight in without.parameters()}
    digest = hashlib.sha256(settings.encode())
    for name, weight in sorted(module.state_dict(keep_vars=True).items()):
        if id(weight) in apart:
            continue
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        raw = weight.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(memoryview(raw.numpy()))
    return digest.hexdigest()[:32]


def configuration_text(model: nn.Module, *, text_model: bool) -> str:
    """What a policy's configuration states of its passes, in one form on every machine.

    Where the checkpoint lies and which release wrote it does not count.

    Args:
        model: the policy, bare or wrapped.
        text_model: with what it states of the text model.
    """
    skipped = _COMPUTES_NOTHING if text_model else (*_COMPUTES_NOTHING, "text_config")
    return json.dumps(
        _without(unwrap(model).config.to_dict(), skipped), sort_keys=True, default=str
    )


def _without(values: Any, names: Sequence[str]) -> Any:
    """Plain values without some keys, and without the library's own, at any depth."""
    if isinstance(values, dict):
        return {
            str(name): _without(value, names)
            for name, value in values.items()
            if name not in names and not str(name).startswith("_")
        }
    if isinstance(values, list | tuple):
        return [_without(value, names) for value in values]
    return values


def _on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies on the host, of one transfer: each would be waited for by itself."""
    if not tensors:
        return []
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).cpu()
    parts = flat.split([tensor.numel() for tensor in tensors])
    # Views would keep the whole batch's features alive.
    return [part.clone().view(own.shape) for part, own in zip(parts, tensors, strict=True)]


class VisionCache:
    """Features of images that a FROZEN tower has seen, least recently used thrown out first.

    The key is the image's content and the arithmetic of the pass. In memory the features of one
    tower are kept, whose weights must not change; on disk each tower has a folder of its own, named
    by its weights and configuration. On a CPU images go through the tower one by one, so that an
    image's features are the same bits whatever batch it first came in; on an accelerator those of a
    batch together.

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
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0
        self._folders: dict[str, Path] = {}

    def encode(self, model: nn.Module, prompts: PromptBatch) -> VisionFeatures:
        """Features of all B prompts' images; only those not known go through the tower.

        Where `rows_are_kept`, the connector runs at every call, with gradients as recorded by the
        caller; where not, no gradients are recorded.

        Raises:
            ModelError: the vision tower is trained, so that kept features would be stale.
        """
        parts, family, by_rows = parts_of(model), family_of(model), rows_are_kept(model)
        tower = family.tower_rows if isinstance(family, TowerRows) and by_rows else None
        if not by_rows and _trained(parts.vision):
            raise ModelError(
                "vision cache: weights of the vision tower or after it are trained, so features "
                "change at every step; set model.freeze_vision=true or use encode_images"
            )
        device = next(parts.vision.parameters()).device
        start = self._begin(model, device.type, by_rows)
        keys = [[f"{start}-{key.hex()}" for key in group] for group in image_keys(model, prompts)]
        images = dict(zip(chain(*keys), prompts.flat_images, strict=True))
        known = {key: self._load(key) for key in images}
        found = {k: to_device(embed, device) for k, embed in known.items() if embed is not None}
        unknown = [key for key in images if key not in found]
        nothing = torch.empty(0, dtype=torch.int64)
        with torch.no_grad():
            # An accelerator would wait for the launches of one image after the other.
            together = len(unknown) if device.type != "cpu" else 1
            for first in range(0, len(unknown), max(together, 1)):
                part = unknown[first : first + together]
                shown = tuple((images[key],) for key in part)
                # Without keys the pixels would be fetched from the device, to be compared.
                names = tuple((key.encode(),) for key in part)
                prompts_of = PromptBatch((nothing,) * len(part), shown, names)
                encoded = _through(tower or family.image_features, model, prompts_of)
                found |= dict(zip(part, encoded.flat, strict=True))
        self._keep(unknown, [found[key] for key in unknown])
        self.misses += len(unknown)
        self.hits += len(images) - len(unknown)
        if isinstance(family, TowerRows) and by_rows:
            # In the batch's order, whatever was known: an order of sums belongs to it.
            rows = [found[key] for key in images]
            found = dict(zip(images, family.connect(parts, rows), strict=True))
        return VisionFeatures(tuple(tuple(found[key] for key in group) for group in keys))

    def _begin(self, model: nn.Module, device: str, by_rows: bool) -> str:
        """Beginning of the keys of what one kind of pass gives; makes its folder."""
        lower = str(torch.get_autocast_dtype(device)).removeprefix("torch.")
        kind = lower if torch.is_autocast_enabled(device) else "plain"
        start = f"rows-{kind}" if by_rows else kind
        if self.folder is not None and start not in self._folders:
            parts, settings = parts_of(model), configuration_text(model, text_model=False)
            digest = weights_digest(parts.vision, settings, parts.connector if by_rows else None)
            self._folders[start] = self.folder / digest
            self._folders[start].mkdir(parents=True, exist_ok=True)
        return start

    def forget(self) -> None:
        """Keep nothing of the tower that was encoded with so far: its weights have changed."""
        self._kept.clear()
        self._bytes = 0
        self._folders.clear()

    def _load(self, key: str) -> Tensor | None:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            embed = load_file(path)["embed"]
        except SafetensorError:
            # Cut short by a full disk or a crash: computed again and written anew.
            return None
        self._remember(key, embed)
        return embed

    def _keep(self, keys: Sequence[str], embeds: Sequence[Tensor]) -> None:
        for key, kept in zip(keys, _on_host(embeds), strict=True):
            self._remember(key, kept)
            path = self._path(key)
            if path is not None:
                with replacing(path) as aside:
                    save_file({"embed": kept.contiguous()}, aside)

    def _remember(self, key: str, embed: Tensor) -> None:
        if key in self._kept:
            return
        self._kept[key] = embed
        self._bytes += embed.nbytes
        while self._bytes > self.max_bytes and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes

    def _path(self, key: str) -> Path | None:
        folder = self._folders.get(key.rpartition("-")[0])
        return None if folder is None else folder / f"{key}.safetensors"
