"""The JavaScript that draws a page's charts: Vega, Vega-Lite and vega-embed, as one text.

Why these: the wheel `vl-convert-python` (by Vega's own maintainers, without dependencies) holds
them, so nothing is loaded from anywhere; they draw SVG, which follows the page's colours in dark
mode, has descriptions for screen readers, and escapes what a tooltip shows. They take 0.9 MB of a
page; plotly.min.js takes 4.8 MB, Bokeh 1.3 MB for a canvas that screen readers cannot read.

The wheel joins them into one text by running V8, which takes seconds and 150 MB. That is done once
for a version, in a process of its own, whose faults are no fault of the run; the text is kept in
the cache folder.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vqr1.data.demo import default_cache_dir
from vqr1.durable import write_file
from vqr1.errors import DataError, first_line

PACKAGE = "vl-convert-python"
_SECONDS = 300
_CODE = (
    "import sys, vl_convert; "
    "sys.stdout.buffer.write(vl_convert.javascript_bundle("
    "'window.vegaEmbed = vegaEmbed;').encode())"
)
_LAST = b"window.vegaEmbed"
"""Stands in the text's last line, so a text that has it is whole."""


def chart_library() -> str:
    """The text of the library, from the cache or from the wheel.

    Raises:
        DataError: the wheel is not installed, or does not give the text.
    """
    try:
        return _text(f"charts-{version(PACKAGE)}.js")
    except PackageNotFoundError as error:
        raise DataError(f"{PACKAGE} is not installed, which draws charts; install it") from error


@functools.cache
def _text(name: str) -> str:
    """The text, by the name of its file in the cache."""
    kept = default_cache_dir() / name
    if kept.is_file():
        content = kept.read_bytes()
        if _LAST in content[-500:]:
            return content.decode()
    content = _from_wheel()
    _keep(kept, content)
    return content.decode()


def _from_wheel() -> bytes:
    try:
        # In a folder without files that would hide packages, as with -P; no rank of a launcher.
        done = subprocess.run(
            [sys.executable, "-P", "-c", _CODE],
            capture_output=True, check=True, timeout=_SECONDS, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        printed = first_line(error, message=error.stderr.decode(errors="replace"))
        raise DataError(f"{PACKAGE} does not give the library of charts: {printed}") from error
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"{PACKAGE} does not give the library of charts within {_SECONDS} s"
        ) from error
    # Inside a page the text must not end its own element.
    content = done.stdout.replace(b"</script", b"<\\/script")
    if _LAST not in content[-500:]:
        raise DataError(f"{PACKAGE} gives a library of charts of an unknown form")
    return content


def _keep(path: Path, content: bytes) -> None:
    """Keep the text for the next page; a cache that takes nothing costs time only."""
    try:
        os.makedirs(path.parent, exist_ok=True)
        write_file(path, content)
    except OSError:
        return
