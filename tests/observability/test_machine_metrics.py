"""The machine's metrics have Triton's names, and say what /proc says."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry

from vecserve_server.observability.machine_metrics import MachineMetrics
from vecserve_server.observability.model_metrics import ModelMetrics
from vecserve_server.observability.model_statistics import StatisticsTable


def read(registry: CollectorRegistry) -> dict[str, float]:
    return {sample.name: sample.value for family in registry.collect() for sample in family.samples}


def test_utilisation_is_that_since_the_scrape_before(tmp_path: Path) -> None:
    stat, memory = tmp_path / "stat", tmp_path / "meminfo"
    stat.write_text("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3\n")
    memory.write_text("MemTotal:     1000 kB\nMemFree:  1 kB\nMemAvailable:  400 kB\n")
    registry = CollectorRegistry()
    registry.register(MachineMetrics(stat=stat, memory=memory))
    stat.write_text("cpu  150 0 125 715 110 0 0 0 90 0\ncpu0 1 2 3\n")
    found = read(registry)
    assert found.pop("vecserve_threads") >= 1
    assert found == {
        "nv_cpu_utilization": 0.75,
        "nv_cpu_memory_total_bytes": 1000 * 1024,
        "nv_cpu_memory_used_bytes": 600 * 1024,
        "nv_pinned_memory_pool_total_bytes": 0,
        "nv_pinned_memory_pool_used_bytes": 0,
    }
    assert read(registry)["nv_cpu_utilization"] == 0


def test_what_the_system_does_not_say_is_left_out(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    registry.register(MachineMetrics(stat=tmp_path / "none", memory=tmp_path / "none"))
    assert not {name for name in read(registry) if name.startswith("nv_cpu_")}


def test_the_caches_counters_are_there_only_with_a_cache() -> None:
    table = StatisticsTable(wall_clock_ms=int)
    table.of("m", "1")
    for with_cache in (True, False):
        registry = CollectorRegistry()
        registry.register(ModelMetrics(table, with_cache=with_cache))
        names = {name for name in read(registry) if name.startswith("nv_cache_")}
        assert bool(names) == with_cache
