"""The HTTP door that the metrics are read through.

Owns the text that a scrape gets, and the thread that answers. Must not know what is measured. All
connections are served by one thread with an event loop of its own: who sends half a request, or
does not read, costs a socket for a while and nothing else.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

from prometheus_client import CollectorRegistry, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PATH = "/metrics"
METHODS = ("GET", "HEAD")
MAX_REQUEST_BYTES = 8192
STOP_TIMEOUT_S = 5.0
_UNTYPED = re.compile(rb"^# TYPE (\S+) untyped$", re.MULTILINE)


def exposition(registry: CollectorRegistry) -> bytes:
    """Render all metrics in Prometheus' text format.

    The library lets no counter keep a name without `_total`, as Triton's have: these are collected
    as metrics of an unknown type, and get theirs here.
    """
    return _UNTYPED.sub(rb"# TYPE \1 counter", generate_latest(registry))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeLimits:
    """What scrapes may take."""

    max_connections: int
    """One more takes the place of the oldest."""
    timeout_s: float
    """From the connection to the last byte of the reply."""


def serve_metrics(
    registry: CollectorRegistry,
    *,
    host: str,
    port: int,
    limits: ScrapeLimits,
    on_pushed_out: Callable[[], None],
) -> tuple[int, Callable[[], None]]:
    """Answer scrapes over HTTP; return the bound port and what stops it. Raises OSError.

    `on_pushed_out` is called in the thread for each connection that gave way to another.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.create_server((str(address[0]), port), family=family)
    door = _Door(registry, limits, on_pushed_out)
    loop = asyncio.new_event_loop()
    ended = loop.create_future()
    thread = threading.Thread(
        target=_run, args=(loop, door, listener, ended), name="metrics", daemon=True
    )
    thread.start()

    def stop() -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.cancel)
        thread.join(STOP_TIMEOUT_S)

    return int(listener.getsockname()[1]), stop


def _run(
    loop: asyncio.AbstractEventLoop,
    door: _Door,
    listener: socket.socket,
    ended: asyncio.Future[None],
) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner, suppress(asyncio.CancelledError):
        runner.run(door.serve(listener, ended))


class _Door:
    """The open connections, oldest first."""

    def __init__(
        self, registry: CollectorRegistry, limits: ScrapeLimits, on_pushed_out: Callable[[], None]
    ) -> None:
        self._registry = registry
        self._limits = limits
        self._on_pushed_out = on_pushed_out
        self._open: dict[asyncio.Task[None], None] = {}

    async def serve(self, listener: socket.socket, ended: asyncio.Future[None]) -> None:
        """Serve until the future ends."""
        server = await asyncio.start_server(self._admit, sock=listener, limit=MAX_REQUEST_BYTES)
        try:
            await ended
        finally:
            server.close()
            left = list(self._open)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await asyncio.sleep(0)  # sockets are closed in the next round of the loop

    def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._connection(reader, writer))
        if len(self._open) >= self._limits.max_connections:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.cancel()
            self._on_pushed_out()
        self._open[task] = None

        def end(_: asyncio.Task[None]) -> None:
            self._open.pop(task, None)
            if not writer.is_closing():
                writer.transport.abort()

        task.add_done_callback(end)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whoever drains waits until the system has taken all of it.
        writer.transport.set_write_buffer_limits(0)
        with suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
            async with asyncio.timeout(self._limits.timeout_s):
                writer.write(await self._reply(reader))
                await writer.drain()
                writer.close()

    async def _reply(self, reader: asyncio.StreamReader) -> bytes:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        method, _, rest = request.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        target, _, version = rest.rpartition(" ")
        if not version.startswith("HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST)
        if target.partition("?")[0] != PATH:
            return _response(HTTPStatus.NOT_FOUND)
        if method not in METHODS:
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, f"Allow: {', '.join(METHODS)}")
        body = exposition(self._registry)
        return _response(HTTPStatus.OK, f"Content-Type: {CONTENT_TYPE}", body, method=method)


def _response(
    status: HTTPStatus,
    header: str = "Content-Type: text/plain",
    body: bytes = b"",
    *,
    method: str = "",
) -> bytes:
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        header,
        f"Content-Length: {len(body)}",
        "Connection: close",
        "",
        "",
    )
    return "\r\n".join(lines).encode() + (b"" if method == "HEAD" else body)
