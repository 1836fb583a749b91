"""Clients that mean harm: one coroutine an attack, each repeated until it is cancelled.

They come from addresses of their own of the loopback network (127.0.1.1 and on), as far as the
system has them. What the service answers is counted by attack and status; `cut` is a connection
that it closed without an answer.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import numpy as np
from PIL import Image

CLIENTS = 8
"""Addresses that the attacks come from."""

Attack = Callable[["Target"], Awaitable[str]]
"""One attempt; what came of it."""


class Target:
    """The service under attack.

    Args:
        host: its address.
        port: its port.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._number = itertools.count()
        self.images = slow_images()

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection from the next of the clients' addresses."""
        own = f"127.0.1.{1 + next(self._number) % CLIENTS}"
        return await asyncio.open_connection(self.host, self.port, local_addr=(own, 0))

    async def send(self, *parts: bytes, pause: float = 0.0, read: bool = True) -> str:
        """Send parts with pauses, and read what comes back.

        Returns:
            The status of the first answer; `cut` where the connection ends without one.
        """
        reader, writer = await self.open()
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                if pause:
                    await asyncio.sleep(pause)
            if not read:
                return "vanished"
            line = await asyncio.wait_for(reader.readline(), 300)
            while await reader.read(65536):
                pass
            return line.split(b" ")[1].decode() if b" " in line else "cut"
        finally:
            writer.close()


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    """A request's head, after which the connection is to be closed."""
    return "\r\n".join(
        (f"{method} {path} HTTP/1.1", "Host: service", "Connection: close", *lines, "", "")
    ).encode()


def form(*files: bytes) -> bytes:
    """A whole request of images."""
    body = b"".join(
        b'--edge\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
        + file
        + b"\r\n"
        for file in files
    )
    body += b"--edge--\r\n"
    kind = "Content-Type: multipart/form-data; boundary=edge"
    return head("/score", kind, f"Content-Length: {len(body)}") + body


def slow_images() -> list[bytes]:
    """Files that take seconds to decode: many pixels, progressive, or in slow formats."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (400, 600, 3), dtype=np.uint8))
    large = noise.resize((6000, 4000), Image.Resampling.BICUBIC)
    files = []
    for kind, options, image in (
        ("JPEG", {"progressive": True, "quality": 60}, large),
        ("PNG", {"compress_level": 1}, large),
        ("JPEG2000", {"quality_mode": "rates", "quality_layers": [30]}, large.resize((1800, 1200))),
        ("WEBP", {"quality": 30, "method": 0}, large),
    ):
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        files.append(stream.getvalue())
    return files


async def half_open(target: Target) -> str:
    """A connection on which nothing is ever sent."""
    reader, writer = await target.open()
    try:
        return "answered" if await reader.read(1) else "cut"
    finally:
        writer.close()


async def slow_head(target: Target) -> str:
    """Headers that drip."""
    drips = (f"X-{n}: {n}\r\n".encode() for n in range(1000))
    return await target.send(b"GET /health HTTP/1.1\r\nHost: s\r\n", *drips, pause=1.0)


async def slow_body(target: Target) -> str:
    """A body of megabytes that drips."""
    kind = "Content-Type: multipart/form-data; boundary=edge"
    start = b'--edge\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    drips = (os.urandom(200) for _ in range(1000))
    lines = head("/score", kind, "Content-Length: 30000000")
    return await target.send(lines + start, *drips, pause=0.5)


async def slow_reader(target: Target) -> str:
    """Many answers are asked for, and none is read."""
    reader, writer = await target.open()
    try:
        request = b"GET /openapi.json HTTP/1.1\r\nHost: s\r\n\r\n"
        with suppress(TimeoutError):
            async with asyncio.timeout(120):
                for _ in range(1000):
                    writer.write(request)
                    await writer.drain()
                    await asyncio.sleep(0.1)
        return "held"
    finally:
        writer.transport.abort()
        del reader


async def header_flood(target: Target) -> str:
    """A head of a megabyte."""
    lines = [f"X-{n}: {'x' * 200}" for n in range(5000)]
    return await target.send(head("/health", *lines, method="GET"))


async def garbage(target: Target) -> str:
    """Bytes that are no HTTP."""
    return await target.send(os.urandom(4096))


async def many_parts(target: Target) -> str:
    """A form of thousands of fields."""
    part = b'--edge\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n'
    body = part * 20000 + b"--edge--\r\n"
    kind = "Content-Type: multipart/form-data; boundary=edge"
    return await target.send(head("/score", kind, f"Content-Length: {len(body)}") + body)


async def part_headers(target: Target) -> str:
    """A part with headers of megabytes."""
    body = b"--edge\r\n" + b"X-a: " + b"y" * 3_000_000 + b"\r\n\r\n1\r\n--edge--\r\n"
    kind = "Content-Type: multipart/form-data; boundary=edge"
    return await target.send(head("/score", kind, f"Content-Length: {len(body)}") + body)


async def endless_body(target: Target) -> str:
    """A chunked body without an end."""
    kind = "Content-Type: application/json"
    chunk = b"10000\r\n" + b"[" * 65536 + b"\r\n"
    lines = head("/score", kind, "Transfer-Encoding: chunked")
    return await target.send(lines, *itertools.repeat(chunk, 2000), pause=0.001)


async def deep_json(target: Target) -> str:
    """JSON of a million brackets."""
    body = b'{"images": ' + b"[" * 1_000_000
    kind = "Content-Type: application/json"
    return await target.send(head("/score", kind, f"Content-Length: {len(body)}") + body)


async def slow_pixels(target: Target) -> str:
    """An image that takes long to decode."""
    return await target.send(form(random.choice(target.images)))


async def vanishing(target: Target) -> str:
    """A client that closes once it has asked."""
    return await target.send(form(*target.images[2:]), read=False)


ATTACKS: dict[str, tuple[Attack, int, float]] = {
    "slow_head": (slow_head, 200, 1.0),
    "slow_body": (slow_body, 200, 1.0),
    "slow_reader": (slow_reader, 50, 1.0),
    "header_flood": (header_flood, 4, 0.2),
    "garbage": (garbage, 4, 0.2),
    "many_parts": (many_parts, 2, 0.5),
    "part_headers": (part_headers, 2, 0.5),
    "endless_body": (endless_body, 2, 1.0),
    "deep_json": (deep_json, 2, 0.5),
    "slow_pixels": (slow_pixels, 8, 0.5),
    "vanishing": (vanishing, 4, 1.0),
}
"""Each attack, how many do it at a time, and seconds between two attempts of each."""


async def attack(host: str, port: int, connections: int) -> None:
    """All attacks at once until cancelled; prints what came of them.

    Args:
        host: the service's address.
        port: its port.
        connections: half-open connections that are kept.
    """
    target = Target(host, port)
    seen: Counter[str] = Counter()

    async def repeat(name: str, one: Attack, pause: float) -> None:
        while True:
            try:
                seen[f"{name} {await one(target)}"] += 1
            except (OSError, EOFError, TimeoutError) as error:
                seen[f"{name} {type(error).__name__}"] += 1
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))

    tasks = [
        asyncio.create_task(repeat(name, one, pause))
        for name, (one, count, pause) in ATTACKS.items()
        for _ in range(count)
    ]
    try:
        for number in range(connections):
            # Each comes again ten seconds after it was cut: a thousand a second of ten thousand.
            tasks.append(asyncio.create_task(repeat("half_open", half_open, 10.0)))
            if number % 20 == 0:
                await asyncio.sleep(0.05)
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for name, count in sorted(seen.items()):
            print(f"  {name}: {count}", flush=True)
