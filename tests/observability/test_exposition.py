"""What a scrape gets."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from vecserve_server.observability.cache_metrics import CacheMetrics, CacheStatistics
from vecserve_server.observability.exposition import ScrapeLimits, exposition, serve_metrics
from vecserve_server.observability.metrics import make_metrics
from vecserve_server.observability.model_metrics import ModelMetrics
from vecserve_server.observability.model_statistics import StatisticsTable

GAUGES = {"nv_inference_pending_request_count", "nv_model_load_duration_secs"}


def types(registry: CollectorRegistry) -> dict[str, str]:
    lines = exposition(registry).decode().splitlines()
    return dict(line.split()[2:] for line in lines if line.startswith("# TYPE "))


def test_triton_s_series_have_triton_s_types_and_names() -> None:
    table = StatisticsTable(wall_clock_ms=int)
    table.of("m", "1").executed(3, 0, 0, 0)
    registry = CollectorRegistry()
    registry.register(ModelMetrics(table, with_cache=True))
    found = {name: kind for name, kind in types(registry).items() if name.startswith("nv_")}
    assert {name for name, kind in found.items() if kind == "gauge"} == GAUGES
    assert {found[name] for name in found.keys() - GAUGES} == {"counter"}
    text = exposition(registry).decode().splitlines()
    assert 'nv_inference_count{model="m",version="1"} 3.0' in text
    assert any(line.startswith("# HELP nv_inference_count ") for line in text)


def test_the_cache_is_described_as_a_whole() -> None:
    registry = CollectorRegistry()
    statistics = CacheStatistics(max_bytes=200, size_bytes=50, entries=2, hits=4, lookup_ns=9000)
    registry.register(CacheMetrics(statistics))
    text = exposition(registry).decode().splitlines()
    for line in (
        "nv_cache_util 0.25",
        "nv_cache_num_entries 2.0",
        "nv_cache_num_hits 4.0",
        "nv_cache_lookup_duration 9.0",
        "# TYPE nv_cache_num_evictions gauge",
    ):
        assert line in text


def test_every_metric_is_documented() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "OPERATIONS.md").read_text("utf-8")
    names = {name for name in types(make_metrics().registry) if name.startswith("vecserve_")}
    assert len(names) > 10
    for name in names:
        if not name.endswith("_created"):
            assert f"`{name}`" in documented


LIMITS = ScrapeLimits(max_connections=3, timeout_s=30.0)
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Door:
    """Where the metrics of a server with two refusals are read, and how many were pushed out."""

    host: str = "127.0.0.1"
    limits: ScrapeLimits = LIMITS
    port: int = 0
    pushed_out: int = 0

    @contextmanager
    def open(self) -> Iterator[Door]:
        metrics = make_metrics()
        metrics.rejected.labels(reason="overloaded").inc(2)
        self.port, stop = serve_metrics(
            metrics.registry,
            host=self.host,
            port=self.port,
            limits=self.limits,
            on_pushed_out=self.count,
        )
        try:
            yield self
        finally:
            stop()

    def count(self) -> None:
        self.pushed_out += 1

    def ask(self, method: str, path: str) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        connection.request(method, path)
        reply = connection.getresponse()
        body = reply.read()
        connection.close()
        return reply.status, body, reply.headers

    def connect(self, sent: bytes) -> socket.socket:
        made = socket.create_connection((self.host, self.port), 10)
        made.sendall(sent)
        return made


@pytest.fixture
def door() -> Iterator[Door]:
    with Door().open() as opened:
        yield opened


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_scrape_is_answered_until_the_door_closes(host: str) -> None:
    with Door(host).open() as door:
        status, body, _ = door.ask("GET", "/metrics?name=x")
        assert status == 200
        assert b'vecserve_rejected_total{reason="overloaded"} 2.0' in body
        head = door.ask("HEAD", "/metrics")
        assert head[:2] == (200, b"")
        assert int(head[2]["Content-Length"]) > 1000
    with pytest.raises(OSError, match="refused"):
        door.ask("GET", "/metrics")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/metrics", 405),
        ("DELETE", "/metrics", 405),
        ("GET", "/", 404),
        ("GET", "/metrics/", 404),
        ("POST", "/anything", 404),
    ],
)
def test_nothing_else_is_offered(door: Door, method: str, path: str, status: int) -> None:
    found, body, headers = door.ask(method, path)
    assert (found, body) == (status, b"")
    assert headers["Allow"] == ("GET, HEAD" if status == 405 else None)


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"nonsense\r\n\r\n", b"400"), (b"GET /metrics HTTP/1.1\r\n" + b"x" * 9000, b"431")],
)
def test_what_is_no_request_is_answered_too(door: Door, sent: bytes, status: bytes) -> None:
    with door.connect(sent) as asker:
        assert asker.recv(100).startswith(b"HTTP/1.1 " + status)


def test_half_sent_requests_take_one_thread_and_give_way_to_whole_ones(door: Door) -> None:
    threads = set(threading.enumerate())
    half_sent = [door.connect(REQUEST[:-2]) for _ in range(50)]
    assert door.ask("GET", "/metrics")[0] == 200
    assert set(threading.enumerate()) <= threads
    # The last two still wait for the end of their request; all others were cut off.
    for number, asker in enumerate(half_sent):
        asker.settimeout(10)
        if number < 48:
            with suppress(ConnectionResetError):
                assert asker.recv(1) == b""
        else:
            asker.sendall(REQUEST[-2:])
            assert asker.recv(12) == b"HTTP/1.1 200"
        asker.close()
    assert door.pushed_out == 48


def test_who_takes_too_long_is_cut_off() -> None:
    with Door(limits=ScrapeLimits(max_connections=9, timeout_s=0.05)).open() as door:
        for sent in (b"", REQUEST[:-2]):
            with door.connect(sent) as asker, suppress(ConnectionResetError):
                assert asker.recv(1) == b""


def test_a_port_in_use_is_an_error(door: Door) -> None:
    with pytest.raises(OSError, match="in use"), Door(port=door.port).open():
        pass
