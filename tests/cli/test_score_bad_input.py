"""Each bad input of scoring gets one clear line, and odd images that are sound get a score."""

from __future__ import annotations

import csv
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Command
from tests.support.chat_server import Scripted, chat_server, completion
from tests.support.images import noise_image
from vqr1.cli.score import main
from vqr1.policy.packaged import tiny_policy_folder

COLOURS = np.array([[200, 30, 60], [20, 180, 90], [40, 60, 220]], dtype=np.uint8)


def stripes(shift: int = 0) -> np.ndarray:
    """[64, 64, 3] few colours, which a palette holds exactly."""
    y, x = np.mgrid[0:64, 0:64]
    return COLOURS[((x + y) // 9 + shift) % 3]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int, path: Path) -> None:
    """A greyscale PNG with a lying or monstrous header and little data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def animation(path: Path) -> None:
    frames = [Image.fromarray(stripes(n)) for n in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)


SOUND: dict[str, Callable[[Path], None]] = {
    "stripes.png": lambda path: Image.fromarray(stripes()).save(path),
    "animated.gif": animation,
    "grey.png": lambda path: Image.fromarray(stripes()[..., 0]).save(path),
    "16bit.png": lambda path: Image.fromarray(stripes()[..., 0].astype(np.uint16) * 257).save(path),
    "cmyk.jpg": lambda path: Image.fromarray(stripes()).convert("CMYK").save(path),
}
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "zero.png": (lambda path: png_of_size(0, 7, path), "does not decode"),
    "bomb.png": (lambda path: png_of_size(10_000, 10_000, path), "10000 x 10000 pixels; more than"),
    "huge.png": (lambda path: png_of_size(100_000, 100_000, path), "100000 x 100000 pixels"),
    "text.jpg": (lambda path: path.write_text("no image"), "does not decode"),
    "empty.png": (lambda path: path.touch(), "empty (0 bytes)"),
    "narrow.png": (lambda path: Image.new("RGB", (900, 2)).save(path), "too narrow"),
    "float.tiff": (lambda path: Image.new("F", (20, 20)).save(path), "floating-point pixels"),
}


def test_odd_and_broken_images(run: Command, tmp_path: Path) -> None:
    for name, write in SOUND.items():
        write(tmp_path / name)
    for name, (write, _) in BROKEN.items():
        write(tmp_path / name)
    outcome = run(main, ".", "mode=greedy", "prompt=non_thinking", "format=csv", "batch_size=32")
    assert outcome.code == 1
    rows = {row["path"]: row for row in csv.DictReader(outcome.out.splitlines())}
    for name, (_, words) in BROKEN.items():
        error = rows[name]["error"]
        assert words in error, error
        assert error.startswith(f"{name}: ")
        assert (rows[name]["score"], rows[name]["valid"]) == ("", "false")
        assert f"unreadable: {error}\n" in outcome.err
    for name in SOUND:
        assert rows[name]["error"] == "", rows[name]
    # An animation is evaluated by its first frame, and 16 bits are scaled, not cut.
    assert rows["animated.gif"]["score"] == rows["stripes.png"]["score"]
    assert rows["16bit.png"]["score"] == rows["grey.png"]["score"]
    assert len(outcome.err.splitlines()) == len(BROKEN) + 1


def test_unreadable_folders(run: Command, tmp_path: Path, locked: Path) -> None:
    listed = run(main, str(locked), "mode=greedy")
    assert (listed.code, listed.out) == (2, "")
    assert listed.err == f"error: {locked}: the folder cannot be listed (Permission denied)\n"
    named = run(main, str(locked / "a.png"), "mode=greedy")
    assert named.err == f"error: {locked / 'a.png'}: cannot be read (Permission denied)\n"


def test_a_model_without_processor(run: Command, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_policy_folder(), folder)
    (folder / "preprocessor_config.json").unlink()
    noise_image(0).save(tmp_path / "a.png")
    outcome = run(main, "a.png", f"model.path={folder}")
    assert outcome.code == 2
    assert outcome.err == (
        f"error: model.path={folder}: no preprocessor_config.json in this folder; copy the "
        "processor and tokenizer files of the base model into it\n"
    )


@pytest.mark.medium
@pytest.mark.parametrize(
    ("printed", "code", "words"),
    [
        (completion("quite good"), 0, "0 scored, 0 unreadable, 1 invalid"),
        (completion("<answer>between 2 and 3</answer>"), 0, "1 invalid"),
        (Scripted("%PDF garbage"), 2, "the server's answer is no chat completion ('%PDF garbage')"),
        (Scripted({"error": {"message": "Incorrect API key"}}, 401), 2,
         "refuses the key (HTTP 401: Incorrect API key); put the right one into the environment"),
    ],
    ids=["no number", "two numbers", "garbage", "wrong key"],
)  # fmt: skip
def test_replies_of_a_server(
    run: Command, tmp_path: Path, printed: Scripted, code: int, words: str
) -> None:
    noise_image(0).save(tmp_path / "a.png")
    with chat_server(lambda *_: printed) as log:
        outcome = run(main, "a.png", "mode=greedy", "backend=openai", f"backend.url={log.url}",
                      "format=csv")  # fmt: skip
    assert outcome.code == code
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1
    if code == 0:
        (row,) = csv.DictReader(outcome.out.splitlines())
        assert (row["score"], row["valid"], row["error"]) == ("", "false", "")
    else:
        assert outcome.out == ""
