"""Statistics as Triton counts them, on the wire and for Prometheus."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from vecserve_server.domain.tensors import TensorReply
from vecserve_server.domain.timings import Timings
from vecserve_server.gateway.kserve.statistics import statistics_message
from vecserve_server.observability.model_metrics import ModelMetrics
from vecserve_server.observability.model_statistics import (
    Failure,
    ModelStatistics,
    StatisticsTable,
    VersionStatistics,
)

NS = st.integers(0, 10**9)
RUNS = st.lists(st.tuples(st.integers(1, 64), NS, NS, NS), max_size=10)
REPLIES = st.lists(st.tuples(st.booleans(), NS, NS, NS, NS, NS), max_size=10)
FAILURES = st.lists(st.tuples(st.sampled_from(Failure), NS), max_size=10)


def counted(
    statistics: ModelStatistics,
    runs: list[tuple[int, int, int, int]],
    replies: list[tuple[bool, int, int, int, int, int]],
    failures: list[tuple[Failure, int]],
) -> None:
    for run in runs:
        statistics.executed(*run)
    for hit, queue, first, second, third, total in replies:
        times = Timings(
            queue_ns=queue, compute_input_ns=first, compute_infer_ns=second, compute_output_ns=third
        )
        reply = TensorReply(outputs={}, times=times, cache_hit=hit)
        (statistics.hit if hit else statistics.missed)(5)
        statistics.succeeded(reply, total)
    for reason, total in failures:
        statistics.failed(total, reason)


@given(RUNS, REPLIES, FAILURES)
def test_perf_analyzer_finds_what_it_requires(
    runs: list[tuple[int, int, int, int]],
    replies: list[tuple[bool, int, int, int, int, int]],
    failures: list[tuple[Failure, int]],
) -> None:
    statistics = ModelStatistics(wall_clock_ms=lambda: 77)
    counted(statistics, runs, replies, failures)
    proto = statistics_message(VersionStatistics("m", "1", statistics))
    stats = proto.inference_stats
    computed = [reply for reply in replies if not reply[0]]
    assert proto.inference_count == sum(rows for rows, *_ in runs)
    assert proto.execution_count == len(runs)
    assert stats.success.count == stats.queue.count == len(replies)
    assert stats.success.ns == sum(reply[5] for reply in replies)
    for stage, at in (
        (stats.compute_input, 2),
        (stats.compute_infer, 3),
        (stats.compute_output, 4),
    ):
        assert (stage.count, stage.ns) == (len(computed), sum(reply[at] for reply in computed))
    assert stats.cache_hit.count == len(replies) - len(computed)
    assert stats.cache_miss.count == len(computed)
    assert (stats.fail.count, stats.fail.ns) == (len(failures), sum(ns for _, ns in failures))
    assert sum(batch.compute_infer.count for batch in proto.batch_stats) == len(runs)
    assert [b.batch_size for b in proto.batch_stats] == sorted({rows for rows, *_ in runs})
    assert proto.last_inference == (77 if runs or len(computed) < len(replies) else 0)


@given(RUNS, REPLIES, FAILURES)
def test_prometheus_reads_the_same_numbers_under_triton_s_names(
    runs: list[tuple[int, int, int, int]],
    replies: list[tuple[bool, int, int, int, int, int]],
    failures: list[tuple[Failure, int]],
) -> None:
    table = StatisticsTable(wall_clock_ms=int)
    statistics = table.of("m", "3")
    counted(statistics, runs, replies, failures)
    statistics.loaded(seconds=0, queued=lambda: 4)
    registry = CollectorRegistry()
    registry.register(ModelMetrics(table, with_cache=True))
    proto = statistics_message(VersionStatistics("m", "3", statistics))
    stats = proto.inference_stats
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            assert {"model": "m", "version": "3"}.items() <= sample.labels.items()
            found[sample.name] = found.get(sample.name, 0) + sample.value
    assert found == {
        "nv_inference_request_success": stats.success.count,
        "nv_inference_request_failure": stats.fail.count,
        "nv_inference_count": proto.inference_count,
        "nv_inference_exec_count": proto.execution_count,
        "nv_inference_request_duration_us": stats.success.ns // 1000,
        "nv_inference_queue_duration_us": stats.queue.ns // 1000,
        "nv_inference_compute_input_duration_us": stats.compute_input.ns // 1000,
        "nv_inference_compute_infer_duration_us": stats.compute_infer.ns // 1000,
        "nv_inference_compute_output_duration_us": stats.compute_output.ns // 1000,
        "nv_cache_num_hits_per_model": stats.cache_hit.count,
        "nv_cache_num_misses_per_model": stats.cache_miss.count,
        "nv_cache_hit_duration_per_model": stats.cache_hit.ns // 1000,
        "nv_cache_miss_duration_per_model": stats.cache_miss.ns // 1000,
        "nv_inference_pending_request_count": 4,
        "nv_model_load_duration_secs": 0,
    }
    text = generate_openmetrics(registry)  # type: ignore[no-untyped-call]
    assert b"nv_inference_count" in text


def test_a_version_that_is_loaded_again_counts_on_until_it_is_forgotten() -> None:
    table = StatisticsTable(wall_clock_ms=int)
    table.of("m", "1").executed(2, 0, 0, 0)
    table.of("m", "1").executed(3, 0, 0, 0)
    assert table.of("m", "1").inference_count == 5
    table.forget("m", "1")
    assert table.of("m", "1").inference_count == 0
    assert table.of("m", "2") is not table.of("m", "1")
