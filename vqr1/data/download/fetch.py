"""One file from an HTTP server: resumed where it was broken off, and checked at its end.

What has arrived lies in `NAME.part` beside the file, which grows by pieces that are committed
(`vqr1.durable.CommittedFile`), and the server's mark of the file's version (its ETag) in
`NAME.part.json`: bytes of two versions are never joined, and none that a power loss has cost. The
file gets its name only when its size and, where it is known, its SHA-256 are right.

Not here: what is fetched and from where (`catalogue.py`), and archives (`unpack.py`).
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import requests

from vqr1.durable import (
    CommittedFile,
    committed_size,
    place_file,
    remove_committed,
    remove_file,
    write_file,
)
from vqr1.errors import DataError, first_line

CHUNK = 1 << 16
"""Bytes that are read at once; so many at most are lost where a connection breaks."""
PIECE = 1 << 24
"""Bytes that are committed at once; so many at most are lost where the process is killed."""

_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_BROKEN = (
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)


@dataclass(frozen=True)
class Patience:
    """How long a server that does not answer is asked again.

    Attributes:
        tries: attempts in a row that bring no further byte, after which it is given up.
        wait: seconds before the second attempt; doubled for each further one.
        timeout: seconds without a byte after which an attempt has failed.
    """

    tries: int = 6
    wait: float = 1.0
    timeout: float = 30.0


@dataclass(frozen=True)
class Remote:
    """A file on a server.

    Attributes:
        url: its address.
        size: its bytes; None where they are not known beforehand.
        sha256: its digest in hexadecimal; None where it is not known beforehand.
    """

    url: str
    size: int | None = None
    sha256: str | None = None


class _BrokenOffError(Exception):
    """An attempt ended before the file did; the next one continues."""


def fetch(
    remote: Remote,
    path: Path,
    advance: Callable[[int, int | None], None] = lambda done, total: None,
    patience: Patience | None = None,
) -> Path:
    """Fetch a file, or what is missing of it.

    Args:
        remote: the file.
        path: where it goes; its folder exists. A file that is there already is checked only, and
            removed where it is another one.
        advance: called with the bytes that are here and, where known, of how many.
        patience: with a server that does not answer.

    Returns:
        `path`.

    Raises:
        DataError: the server refuses it, has another file, or does not answer; what has arrived of
            the right one is kept and continued by the next call.
        OSError: the disk does not take it.
    """
    if path.exists():
        _check(path, remote, remove_file)
        return path
    patience = patience or Patience()
    partial = path.with_name(f"{path.name}.part")
    failures = 0
    while True:
        before = _size(partial)
        try:
            _continue(remote, partial, advance, patience.timeout)
            break
        except (_BrokenOffError, *_BROKEN) as error:
            failures = 0 if _size(partial) > before else failures + 1
            if failures >= patience.tries:
                raise DataError(
                    f"{remote.url}: given up after {failures} attempts ({first_line(error)}); "
                    f"{_size(partial)} bytes are kept in {partial}: the same command continues"
                ) from error
            time.sleep(patience.wait * 2.0 ** max(failures - 1, 0))
    _check(partial, remote, _forget)
    place_file(partial, path)
    _forget(partial)
    return path


def _check(path: Path, remote: Remote, remove: Callable[[Path], None]) -> None:
    """Compare a file with what is known of it; another one is removed, so that it is fetched anew.

    Raises:
        DataError: its size or its digest is another.
    """
    difference = _difference(path, remote)
    if difference is None:
        return
    remove(path)
    raise DataError(
        f"{path}: {difference}; it is another version or was damaged on its way, and has been "
        "removed: run the command again, or fetch it by hand and give it with --from"
    )


def _difference(path: Path, remote: Remote) -> str | None:
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"{size} bytes, and the known file has {remote.size}"
    if remote.sha256 is None:
        return None
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found == remote.sha256:
        return None
    return f"SHA-256 {found[:16]}..., and that of the known file is {remote.sha256[:16]}..."


def _continue(
    remote: Remote,
    partial: Path,
    advance: Callable[[int, int | None], None],
    timeout: float,
) -> None:
    """One request for what is missing; returns when the server has sent the end."""
    have, version = _size(partial), _version(partial)
    if have and have == remote.size:
        advance(have, have)
        return  # stopped while it was checked
    headers = {"Accept-Encoding": "identity"}
    if have and version:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    else:
        have = 0
    with requests.get(remote.url, headers=headers, stream=True, timeout=timeout) as reply:
        if reply.status_code == requests.codes.requested_range_not_satisfiable:
            if reply.headers.get("Content-Range") == f"bytes */{have}":
                return  # the end is here
            _forget(partial)
            raise _BrokenOffError("the server has fewer bytes than were fetched")
        _check_status(reply, remote)
        start, total = _extent(reply)
        if start != have:
            have = 0
            if start:
                _forget(partial)
                raise _BrokenOffError(f"the server answered from byte {start}")
        if total is not None and remote.size is not None and total != remote.size:
            _forget(partial)
            raise DataError(
                f"{remote.url}: the server's file has {total} bytes, the known one {remote.size}; "
                "the owner changed it, or the mirror has another: give a file that was fetched by "
                "hand with --from"
            )
        if not have:
            _forget(partial)  # what is there is of another version, or counts for nothing
        _note_version(partial, reply)
        have = _append(partial, reply, lambda size: advance(size, total))
    if total is not None and have < total:
        raise _BrokenOffError(f"the connection ended at byte {have} of {total}")


def _append(partial: Path, reply: requests.Response, advance: Callable[[int], None]) -> int:
    """Add what arrives, until its end or that of the connection; the file's size."""
    piece = bytearray()
    with closing(CommittedFile(partial)) as file:
        try:
            for chunk in reply.iter_content(CHUNK):
                piece += chunk
                if len(piece) >= PIECE:
                    file.append(bytes(piece))
                    piece.clear()
                advance(file.size + len(piece))
        finally:
            if piece:
                file.append(bytes(piece))
        return file.size


def _check_status(reply: requests.Response, remote: Remote) -> None:
    status = reply.status_code
    if status in (requests.codes.ok, requests.codes.partial_content):
        return
    if status in _AGAIN:
        raise _BrokenOffError(f"HTTP {status}")
    reasons = {
        401: "a login is needed: `hf auth login`, or fetch it by hand and give it with --from",
        403: "not permitted: accept the owner's terms on the set's page, then fetch it by hand and "
        "give it with --from",
        404: "no such file there; it has moved: fetch it by hand and give it with --from",
    }
    reason = reasons.get(status, "fetch it by hand and give it with --from")
    raise DataError(f"{remote.url}: HTTP {status}; {reason}")


def _extent(reply: requests.Response) -> tuple[int, int | None]:
    """First byte of the answer, and bytes of the whole file where the server reports them."""
    found = _RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    if reply.status_code == requests.codes.partial_content and found:
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = reply.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _mark(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _version(partial: Path) -> str | None:
    """The server's mark of the version that the bytes here are of; None if there is none."""
    try:
        noted = json.loads(_mark(partial).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    version = noted.get("version") if isinstance(noted, dict) else None
    return version if isinstance(version, str) else None


def _note_version(partial: Path, reply: requests.Response) -> None:
    """Keep a strong ETag or the date: weak ETags may not be given with a range (RFC 9110)."""
    tag = reply.headers.get("ETag", "")
    version = reply.headers.get("Last-Modified") if not tag or tag.startswith("W/") else tag
    write_file(_mark(partial), json.dumps({"version": version}))


def _forget(partial: Path) -> None:
    remove_committed(partial)
    remove_file(_mark(partial))


def _size(path: Path) -> int:
    try:
        return committed_size(path)
    except DataError:
        _forget(path)  # changed by something else
        return 0
