"""A small HTTP server that implements the chat protocol as a test asks; it keeps what it got."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image


@dataclass
class Scripted:
    """What the server answers to one request."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Answer = Callable[[dict[str, Any], int], Scripted]
"""From a request's JSON body and its number, from 0, to what is stated."""


@dataclass
class ChatLog:
    """Address of a running server, and the bodies of the requests so far."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


def completion(text: str, tokens: list[tuple[str, dict[str, float]]] | None = None) -> Scripted:
    """A chat completion; `tokens` are its tokens with the log-probabilities in their place."""
    choice: dict[str, Any] = {
        "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text},
    }  # fmt: skip
    if tokens is not None:
        choice["logprobs"] = {
            "content": [
                {
                    "token": token,
                    "logprob": places[token],
                    "bytes": list(token.encode()),
                    "top_logprobs": [{"token": t, "logprob": p} for t, p in places.items()],
                }
                for token, places in tokens
            ]
        }
    return Scripted({"id": "1", "object": "chat.completion", "model": "m", "choices": [choice]})


def image_in(body: dict[str, Any]) -> np.ndarray:
    """The one image of a request's body, as pixels [H, W, 3]."""
    (image,) = images_in(body)
    return image


def images_in(body: dict[str, Any]) -> list[np.ndarray]:
    """The images of a request's body in order, as pixels [H, W, 3]."""
    found = []
    for part in body["messages"][-1]["content"]:
        if part["type"] == "image_url":
            kind, data = part["image_url"]["url"].split(",", 1)
            assert kind == "data:image/png;base64"
            found.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))
    return found


@contextmanager
def chat_server(answer: Answer, model: str = "m", **stated: str) -> Iterator[ChatLog]:
    """Serve until the block ends, a model of that name; `stated` is listed of it besides."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(log.bodies)
                log.bodies.append(body)
                log.keys.append(self.headers["Authorization"])
            self._say(answer(body, number))

        def do_GET(self) -> None:
            self._say(
                Scripted({"object": "list", "data": [{"id": model, "object": "model", **stated}]})
            )

        def _say(self, printed: Scripted) -> None:
            text = printed.body if isinstance(printed.body, str) else json.dumps(printed.body)
            kind = "text/html" if isinstance(printed.body, str) else "application/json"
            self.send_response(printed.status)
            for name, value in {"Content-Type": kind, **printed.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        # A client that was killed in between is what some tests are about.
        handle_error = lambda self, *_: None  # noqa: E731

    server = Server(("127.0.0.1", 0), Handler)
    log = ChatLog(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield log
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
