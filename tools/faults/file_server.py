"""A real HTTP server on the loopback address that hands out files, with faults on request."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Faults:
    """What the server does wrong.

    Attributes:
        break_after: bytes of one answer after which the connection is closed; None: never.
        breaks: answers that are broken off before the rest are whole; None: all.
        wait: seconds before each chunk.
        status: HTTP status of the next answers, one each, before they are right again.
        ranges: whether ranges are honoured.
        redirect: paths that are answered with another path.
        tag: the ETag.
    """

    break_after: int | None = None
    breaks: int | None = None
    wait: float = 0.0
    status: list[int] = field(default_factory=list)
    ranges: bool = True
    redirect: dict[str, str] = field(default_factory=dict)
    tag: str = '"one"'


@dataclass
class FileServer:
    """The server's state.

    Attributes:
        port: where it listens.
        files: content by path.
        faults: what it does wrong.
        asked: the Range header of each request, in order ("" without one).
    """

    port: int
    files: dict[str, bytes]
    faults: Faults
    asked: list[str] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[FileServer]:
    """A server of these files."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.state = state = FileServer(server.server_address[1], files, Faults())
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    """Handlers find the state here."""

    state: FileServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *args: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        found, faults = self.server.state, self.server.state.faults
        asked = self.headers.get("Range", "")
        found.asked.append(asked)
        path = self.path.partition("?")[0]
        if path in faults.redirect:
            self._empty(302, {"Location": faults.redirect[path]})
        elif faults.status:
            self._empty(faults.status.pop(0), {})
        elif path not in found.files:
            self._empty(404, {})
        else:
            self._content(found.files[path], asked, faults)

    def _content(self, content: bytes, asked: str, faults: Faults) -> None:
        start, size = 0, len(content)
        if asked and faults.ranges and self.headers.get("If-Range") == faults.tag:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
        if start >= size:
            self._empty(416, {"Content-Range": f"bytes */{size}"})
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(size - start))
        self.send_header("ETag", faults.tag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        self._send(content[start:], faults)

    def _send(self, content: bytes, faults: Faults) -> None:
        end = len(content)
        if faults.break_after is not None and faults.breaks != 0:
            end = min(end, faults.break_after)
            faults.breaks = None if faults.breaks is None else faults.breaks - 1
        for begin in range(0, end, 65536):
            time.sleep(faults.wait)
            try:
                self.wfile.write(content[begin : min(begin + 65536, end)])
            except OSError:
                break  # the client was killed
        self.close_connection = True

    def _empty(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()
