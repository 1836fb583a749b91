"""The process: listens; on SIGTERM, SIGINT or SIGHUP stops accepting, finishes, ends with 0.

On SIGUSR1 it loads the model again (`Service.reload`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from vqr1.config import LimitsConfig
from vqr1.distributed.stop_signals import takes
from vqr1.errors import ConfigError
from vqr1.inference.service.connections import Connections, Listener, limited
from vqr1.process_memory import only_new_objects_collected

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

BACKLOG = 4096
"""Connections that the kernel holds until they are accepted; it may allow fewer."""

ACCEPTED_TOGETHER = 64
"""Connections accepted before other events have their turn."""

SPARE_FILES = 256
"""Open files beside connections: libraries, the model's, temporary files of large uploads."""


def bind(host: str, port: int) -> Listener:
    """A listening socket, before a model is loaded.

    Raises:
        ConfigError: the address is taken or not one of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = Listener(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            [f"host={host}, port={port}: cannot listen there ({error.strerror or error})"]
        ) from error
    return listener


@contextmanager
def reloads_ignored() -> Iterator[None]:
    """Within it SIGUSR1, which asks for the model to be loaded again, ends no process.

    A `Server` that has started answers it; one that still loads the model would be ended by it.
    """
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before or signal.SIG_DFL)


class Server(uvicorn.Server):
    """A server that accepts in small turns from a long queue, and loads the model again.

    Args:
        config: uvicorn's.
        app: the application.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app
        self._reloads: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn; asyncio takes `backlog` for both, so that the queue's is set again."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._reload)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        self._app.state.service.begin_stop()
        await super().shutdown(sockets)

    def _reload(self) -> None:
        task = asyncio.ensure_future(self._app.state.service.reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)


def configuration(
    app: Any,
    limits: LimitsConfig,
    trusted_proxies: Sequence[str] = (),
    connections: Connections | None = None,
) -> uvicorn.Config:
    """How uvicorn serves: its limits, and ours where it has none.

    Args:
        app: the application.
        limits: of time and connections.
        trusted_proxies: whose X-Forwarded-For is believed.
        connections: those that are open; None makes a table.
    """
    return uvicorn.Config(
        app,
        http=limited(connections or table_of(limits)),
        ws="none",
        # A line for each bad request would let anybody fill the log.
        log_level="error",
        access_log=False,
        backlog=ACCEPTED_TOGETHER,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=[*trusted_proxies, *_mapped(trusted_proxies)],
        timeout_graceful_shutdown=math.ceil(2 * limits.timeout_s),
    )


def _mapped(proxies: Sequence[str]) -> list[str]:
    """IPv4 addresses and networks as a service with an IPv6 host is given them."""
    mapped = []
    for proxy in proxies:
        with suppress(ValueError):
            network = ipaddress.IPv4Network(proxy)
            mapped.append(f"::ffff:{network.network_address}/{96 + network.prefixlen}")
    return mapped


def serve(
    app: FastAPI, listener: Listener, limits: LimitsConfig, trusted_proxies: Sequence[str] = ()
) -> None:
    """Serve until a signal; what is in flight then is still answered.

    Args:
        app: the application.
        listener: where to listen.
        limits: of time and connections.
        trusted_proxies: whose X-Forwarded-For is believed.
    """
    for number in STOP_SIGNALS:
        # uvicorn raises a signal again once it has stopped; by then there is nothing left to end.
        signal.signal(number, lambda *_: None)
    # Beyond a line for each: what an image was decoded at is in its answer.
    logging.getLogger("vqr1.data.images").setLevel(logging.ERROR)
    connections = table_of(limits)
    listener.refuses = connections.refuses
    server = Server(configuration(app, limits, trusted_proxies, connections), app)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    # Whoever waits for the line connects at once: a socket that is only bound would refuse.
    listener.listen(BACKLOG)
    sys.stderr.write(f"serving on http://{shown}:{port} (page /, endpoints /docs)\n")
    sys.stderr.flush()

    def end(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    if takes(signal.SIGHUP):
        # The terminal was closed; uvicorn takes the other two itself.
        signal.signal(signal.SIGHUP, end)
    # A look at the million objects of the libraries would keep everybody waiting.
    with only_new_objects_collected():
        server.run(sockets=[listener])


def table_of(limits: LimitsConfig) -> Connections:
    """The open connections of a service; raises the limit of open files where it may.

    Args:
        limits: time limits, and most connections.
    """
    most = _connections(limits.connections)
    return Connections(most, limits.head_timeout_s, limits.send_timeout_s)


def _connections(wanted: int) -> int:
    """Most connections for which the process may open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        wanted = min(wanted, max(soft - SPARE_FILES, soft // 2))
    return wanted
