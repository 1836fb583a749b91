"""On-disk cache of resized images, shared by epochs and runs.

An entry is the [H, W, 3] uint8 image after decoding and resizing, in one safetensors file: what
a batch carries, an eighth of the size of the float patches that follow from it. Its name
is a hash over everything that decides its content: the file (real path, size, modification time in
nanoseconds), the short edge, the resizing rule, and the versions of the decoder and of this format.
Entries are replaced as a whole (`vqr1.durable`), so that processes can share a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import PIL
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vqr1.data.prompts import ResizeRule
from vqr1.durable import replacing

_FORMAT = 1
"""Raise it when decoding or resizing changes its result."""


class ImageCache:
    """Resized images below one folder.

    Args:
        folder: where entries lie; made when the first one is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def key(self, image: Path, short_edge: int | None, rule: ResizeRule) -> str:
        """Name of the entry for an image: 64 hexadecimal digits.

        Raises:
            FileNotFoundError: the image does not exist.
        """
        status = image.stat()
        content = {
            "path": os.path.realpath(image),
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "short_edge": short_edge,
            **rule.identity(),
            "pillow": PIL.__version__,
            "format": _FORMAT,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> Tensor | None:
        """[H, W, 3] uint8 entry, or None if there is none that can be read."""
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            return load_file(path)["pixels"]
        except (SafetensorError, KeyError):
            return None  # cut off by a crash or a full disk: made anew and replaced

    def put(self, key: str, pixels: Tensor) -> None:
        """Keep a resized image."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as aside:
            save_file({"pixels": pixels.contiguous()}, aside)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.safetensors"
