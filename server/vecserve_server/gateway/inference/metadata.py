"""What the server and its models say of themselves.

Owns the messages of the metadata calls. Must not know how models are found.
"""

from __future__ import annotations

from collections.abc import Iterable

from tritonclient.grpc import model_config_pb2, service_pb2

from vecserve_server.gateway.inference.contract import TensorConfig, wire_datatype, wire_shape
from vecserve_server.services.tensor_model import TensorModel

EXTENSIONS = (
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)


def model_metadata(
    model: TensorModel, versions: Iterable[str]
) -> service_pb2.ModelMetadataResponse:
    """Describe a model's tensors."""
    config = model.config
    return service_pb2.ModelMetadataResponse(
        name=model.name,
        versions=versions,
        platform=config.platform or config.backend,
        inputs=[_tensor_metadata(tensor, config) for tensor in config.input],
        outputs=[_tensor_metadata(tensor, config) for tensor in config.output],
    )


def _tensor_metadata(
    tensor: TensorConfig, config: model_config_pb2.ModelConfig
) -> service_pb2.ModelMetadataResponse.TensorMetadata:
    return service_pb2.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=wire_datatype(tensor), shape=wire_shape(tensor, config)
    )
