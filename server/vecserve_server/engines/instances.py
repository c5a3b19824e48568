"""Where the instances of a model run.

Owns the reading of `instance_group`. Must not know sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from vecserve.inference import model_config_pb2
from vecserve_server.engines.onnxruntime.providers import CUDA_PROVIDER
from vecserve_server.model_files.config_file import MAX_INSTANCES, refused

Group: TypeAlias = model_config_pb2.ModelInstanceGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Instances that share one session."""

    count: int
    device_id: int | None = None
    """The GPU; None: the CPU."""


def with_instance_groups(
    config: model_config_pb2.ModelConfig, *, cuda: bool, cpu_instances: int
) -> model_config_pb2.ModelConfig:
    """Return a copy whose groups all have a name, a kind, a count and GPUs, as far as they apply.

    No group is one on the CPU. A group on the CPU has `cpu_instances` unless it says otherwise
    (Triton's ONNX Runtime backend: 2), one on a GPU has 1. KIND_AUTO is KIND_GPU where `cuda` is
    available or GPUs are named. Raises `ModelError` where a GPU is asked for and there is none.
    """
    made = model_config_pb2.ModelConfig()
    made.CopyFrom(config)
    if not made.instance_group:
        made.instance_group.add()
    for index, group in enumerate(made.instance_group):
        group.name = group.name or f"{made.name}_{index}"
        _fill(made, group, cuda=cuda, cpu_instances=cpu_instances)
    total = sum(place.count for place in placements(made))
    if total > MAX_INSTANCES:
        problem = f"makes {total} instances, the limit is {MAX_INSTANCES}"
        raise refused(made, "instance_group", problem)
    return made


def placements(config: model_config_pb2.ModelConfig) -> Sequence[Placement]:
    """Return where each session of the completed configuration runs; those on the CPU share one."""
    on_cpu = sum(group.count for group in config.instance_group if group.kind == Group.KIND_CPU)
    return [
        *([Placement(count=on_cpu)] if on_cpu else []),
        *(
            Placement(count=group.count, device_id=device_id)
            for group in config.instance_group
            for device_id in group.gpus
        ),
    ]


def _fill(
    config: model_config_pb2.ModelConfig, group: Group, *, cuda: bool, cpu_instances: int
) -> None:
    where = f'instance_group "{group.name}"'
    if group.kind == Group.KIND_AUTO:
        group.kind = Group.KIND_GPU if group.gpus or cuda else Group.KIND_CPU
    if group.kind == Group.KIND_CPU:
        if group.gpus:
            raise refused(config, f"{where} gpus", "are named beside KIND_CPU")
    elif group.kind != Group.KIND_GPU:
        raise refused(config, f"{where} kind", "must be KIND_CPU, KIND_GPU or KIND_AUTO")
    elif not cuda:
        problem = f"KIND_GPU needs ONNX Runtime's {CUDA_PROVIDER}, which this server lacks"
        raise refused(config, f"{where} kind", problem)
    elif not group.gpus:
        group.gpus.append(0)
    group.count = group.count or (cpu_instances if group.kind == Group.KIND_CPU else 1)
    if not 1 <= group.count <= MAX_INSTANCES:
        raise refused(config, f"{where} count", f"must be 1 to {MAX_INSTANCES}")
