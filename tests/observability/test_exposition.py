"""What a scrape gets."""

from __future__ import annotations

import http.client
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from vecserve_server.observability.cache_metrics import CacheMetrics, CacheStatistics
from vecserve_server.observability.exposition import exposition, serve_metrics
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


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_scrape_is_answered_until_the_door_closes(host: str) -> None:
    metrics = make_metrics()
    metrics.rejected.labels(reason="overloaded").inc(2)
    port, stop = serve_metrics(metrics.registry, host=host, port=0)
    try:
        connection = http.client.HTTPConnection(host, port, timeout=10)
        connection.request("GET", "/metrics")
        reply = connection.getresponse()
        assert reply.status == 200
        assert b'vecserve_rejected_total{reason="overloaded"} 2.0' in reply.read()
        connection.request("POST", "/metrics")
        assert connection.getresponse().status == 405
        connection.close()
    finally:
        stop()
    with pytest.raises(OSError, match="refused"):
        http.client.HTTPConnection(host, port, timeout=10).request("GET", "/")


def test_a_port_in_use_is_an_error() -> None:
    metrics = make_metrics()
    port, stop = serve_metrics(metrics.registry, host="127.0.0.1", port=0)
    try:
        with pytest.raises(OSError, match="in use"):
            serve_metrics(metrics.registry, host="127.0.0.1", port=port)
    finally:
        stop()
