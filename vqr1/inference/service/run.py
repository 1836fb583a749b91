"""The process: listens; on SIGTERM, SIGINT or SIGHUP stops accepting, finishes, ends with 0."""

from __future__ import annotations

import math
import signal
import socket
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from vqr1.distributed.stop_signals import takes
from vqr1.errors import ConfigError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, before a model is loaded.

    Raises:
        ConfigError: the address is taken or not one of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            [f"host={host}, port={port}: cannot listen there ({error.strerror or error})"]
        ) from error
    return listener


def serve(app: FastAPI, listener: socket.socket, timeout_s: float) -> None:
    """Serve until a signal; what is in flight then is still answered.

    Args:
        app: the application.
        listener: where to listen.
        timeout_s: most seconds that reading, and again answering, a request may take.
    """
    for number in STOP_SIGNALS:
        # uvicorn raises a signal again once it has stopped; by then there is nothing left to end.
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=math.ceil(2 * timeout_s),
    )
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    # Whoever waits for the line connects at once: a socket that is only bound would refuse.
    listener.listen()
    sys.stderr.write(f"serving on http://{shown}:{port} (page /, endpoints /docs)\n")
    sys.stderr.flush()
    server = uvicorn.Server(config)

    def end(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    if takes(signal.SIGHUP):
        # The terminal was closed; uvicorn takes the other two itself.
        signal.signal(signal.SIGHUP, end)
    server.run(sockets=[listener])
