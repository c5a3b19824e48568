"""The HTTP door that the metrics are read through.

Owns the text that a scrape gets, and the server's thread. Must not know what is measured.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, generate_latest

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_UNTYPED = re.compile(rb"^# TYPE (\S+) untyped$", re.MULTILINE)


def exposition(registry: CollectorRegistry) -> bytes:
    """Render all metrics in Prometheus' text format.

    The library lets no counter keep a name without `_total`, as Triton's have: these are collected
    as metrics of an unknown type, and get theirs here.
    """
    return _UNTYPED.sub(rb"# TYPE \1 counter", generate_latest(registry))


def serve_metrics(
    registry: CollectorRegistry, *, host: str, port: int
) -> tuple[int, Callable[[], None]]:
    """Answer scrapes over HTTP; return the bound port and what stops it. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    kind = _Server6 if family == socket.AF_INET6 else _Server
    server = make_server(
        str(address[0]), port, _application(registry), kind, handler_class=_Handler
    )
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)

    return server.server_port, stop


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind; the library's own asks the name server what the address is called."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log no scrapes."""


def _application(registry: CollectorRegistry) -> WSGIApplication:
    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Allow", "GET, HEAD")])
            return [b""]
        body = exposition(registry)
        headers = [("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(body)))]
        start_response("200 OK", headers)
        return [body if environ["REQUEST_METHOD"] == "GET" else b""]

    return answer
