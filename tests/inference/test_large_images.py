"""Peak memory of scoring images of 120 megapixels, in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Command, run  # noqa: F401 - a fixture
from tests.support.images import noise_image
from vqr1.cli import score

WIDTH, HEIGHT = 12_000, 10_000

MAKE = """
import sys
from PIL import Image
folder, width, height = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
small = Image.effect_noise((600, 500), 60).convert("RGB")
large = small.resize((width, height), Image.Resampling.NEAREST)
large.save(f"{folder}/large.jpg", quality=85)
large.save(f"{folder}/large.png", compress_level=1)
small.save(f"{folder}/small.jpg")
"""

SCORE = """
import json, resource, sys
import vqr1
folder = sys.argv[1]
scorer = vqr1.create_metric("tiny", mode="greedy", prompt="non_thinking").scorer
found = {}
for name in ("small.jpg", "large.png", "large.jpg"):
    (result,) = scorer.score(f"{folder}/{name}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found[name] = (peak, result.score, result.decoded_at, result.error)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_memory_is_bounded(tmp_path: Path) -> None:
    def child(script: str, *arguments: object) -> str:
        command = [sys.executable, "-c", script, str(tmp_path), *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    child(MAKE, WIDTH, HEIGHT)
    found = json.loads(child(SCORE))
    small, png, jpeg = (found[name] for name in ("small.jpg", "large.png", "large.jpg"))
    print(f"peak [MiB]: small {small[0]:.0f}, PNG {png[0]:.0f}, JPEG {jpeg[0]:.0f}")
    assert jpeg[1] is not None
    assert jpeg[2:] == ["6000x5000", None]
    # 6000 x 5000 pixels: 114 MiB in Pillow, 4 bytes each, and as many again while it is resized.
    assert jpeg[0] - png[0] < 300
    assert png[1] is None
    assert "12000 x 10000 pixels; more than 89478485 are not decoded, and PNG" in png[3]
    assert png[0] - small[0] < 20


@pytest.mark.medium
def test_every_row_of_the_command_states_it(
    run: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("VQR1_MAX_IMAGE_PIXELS", "20000")
    noise_image(0, 640, 480).save(tmp_path / "large.jpg")
    noise_image(1, 640, 480).save(tmp_path / "large.png")
    cheap = ("mode=greedy", "prompt=non_thinking")
    outcome = run(score.main, "large.jpg", "large.png", *cheap, "format=jsonl")
    assert outcome.code == 1
    jpeg, png = map(json.loads, outcome.out.splitlines())
    assert (jpeg["decoded_at"], png["decoded_at"]) == ("160x120", None)
    assert jpeg["score"] is not None
    assert png["error"] == (
        "large.png: 640 x 480 pixels; more than 20000 are not decoded, and PNG cannot be decoded "
        "smaller, as JPEG can (the environment variable VQR1_MAX_IMAGE_PIXELS raises the limit)"
    )
    assert "large.jpg: 640 x 480 pixels, more than 20000: decoded at 160 x 120" in caplog.text
    table = run(score.main, "large.jpg", *cheap).out
    assert table.splitlines()[1].endswith("large.jpg  (decoded at 160x120)")
