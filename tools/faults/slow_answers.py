"""A proxy before a server that is alive but slow: it takes every request and answers late."""

from __future__ import annotations

import socket
import socketserver
import threading
from types import TracebackType


class SlowAnswers:
    """Passes requests on at once, and holds the answers back while `slow` is set.

    Args:
        port: of the server on the loopback address.
        seconds: how long an answer is held back; None: until `slow` is cleared.
    """

    def __init__(self, port: int, seconds: float | None = None) -> None:
        self.port = port
        self.seconds = seconds
        self.held = 0
        self._fast = threading.Event()
        self._fast.set()
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                outer._relay(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def slow(self) -> None:
        """Hold back every answer from now on."""
        self._fast.clear()

    def fast(self) -> None:
        """Pass on what was held back, and everything from now on."""
        self._fast.set()

    def __enter__(self) -> SlowAnswers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.fast()
        self._server.shutdown()
        self._server.server_close()

    def _relay(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as server:
            threading.Thread(target=_pump, args=(client, server), daemon=True).start()
            try:
                while data := server.recv(65536):
                    if not self._fast.is_set():
                        self.held += 1
                        self._fast.wait(self.seconds)
                    client.sendall(data)
            except OSError:
                pass  # the client has given up


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one of them has given up
