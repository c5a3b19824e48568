"""Which fields of a `ModelConfig` an ONNX model may set.

Owns the list. What is not on it is refused by name, never ignored. Must not know what fields mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.protobuf.message import Message

from vecserve.inference import model_config_pb2
from vecserve_server.model_files.config_file import refused

_FIELDS = frozenset(
    {
        "name",
        "platform",
        "backend",
        "runtime",
        "version_policy",
        "max_batch_size",
        "input.name",
        "input.data_type",
        "input.format",
        "input.dims",
        "input.reshape",
        "input.optional",
        "output.name",
        "output.data_type",
        "output.dims",
        "output.reshape",
        "output.label_filename",
        "dynamic_batching",
        "instance_group.name",
        "instance_group.kind",
        "instance_group.count",
        "instance_group.gpus",
        "optimization.graph.level",
        "optimization.execution_accelerators",
        "default_model_filename",
        "model_warmup",
        "response_cache.enable",
        "parameters",
        "metric_tags",
    }
)
# Triton's ONNX Runtime backend takes these and computes the same with and without them.
_WITHOUT_EFFECT = frozenset(
    {
        "optimization.priority",
        "optimization.cuda",
        "optimization.input_pinned_memory",
        "optimization.output_pinned_memory",
        "optimization.gather_kernel_buffer_threshold",
        "optimization.eager_batching",
        "model_metrics",
    }
)
_ACCEPTED = _FIELDS | _WITHOUT_EFFECT
_PARENTS = frozenset(path.rpartition(".")[0] for path in _ACCEPTED) | {
    "optimization.graph",
    "model_transaction_policy",  # nothing but `decoupled: false` fits
}


def check_fields(config: model_config_pb2.ModelConfig) -> None:
    """Refuse the first field that is set and not supported; raises `ModelError` naming it."""
    for shown in _unsupported(config, path="", shown=""):
        raise refused(config, shown, "is not supported")


def _unsupported(message: Message, *, path: str, shown: str) -> Iterator[str]:
    for field, value in message.ListFields():
        here = f"{path}{field.name}"
        if here in _ACCEPTED:
            continue
        if here not in _PARENTS:
            yield f"{shown}{field.name}"
            continue
        repeated = isinstance(value, Sequence)
        for index, child in enumerate(value if repeated else (value,)):
            place = f"{field.name}[{index}]" if repeated else field.name
            yield from _unsupported(child, path=f"{here}.", shown=f"{shown}{place}.")
