"""What was counted of a version, as the `statistics` extension has it.

Owns the message. Pure.
"""

from __future__ import annotations

from vecserve.inference import service_pb2
from vecserve_server.observability.model_statistics import Duration, VersionStatistics


def statistics_message(version: VersionStatistics) -> service_pb2.ModelStatistics:
    """Write a version's counters."""
    counted = version.counted
    return service_pb2.ModelStatistics(
        name=version.name,
        version=version.version,
        last_inference=counted.last_inference_ms,
        inference_count=counted.inference_count,
        execution_count=counted.execution_count,
        inference_stats=service_pb2.InferStatistics(
            success=_duration(counted.success),
            fail=_duration(counted.failed_in_all()),
            queue=_duration(counted.queue),
            compute_input=_duration(counted.compute.input),
            compute_infer=_duration(counted.compute.infer),
            compute_output=_duration(counted.compute.output),
            cache_hit=_duration(counted.cache_hit),
            cache_miss=_duration(counted.cache_miss),
        ),
        batch_stats=[
            service_pb2.InferBatchStatistics(
                batch_size=rows,
                compute_input=_duration(runs.input),
                compute_infer=_duration(runs.infer),
                compute_output=_duration(runs.output),
            )
            for rows, runs in counted.runs()
        ],
    )


def _duration(counted: Duration) -> service_pb2.StatisticDuration:
    return service_pb2.StatisticDuration(count=counted.count, ns=counted.ns)
