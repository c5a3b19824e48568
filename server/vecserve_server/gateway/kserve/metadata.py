"""What the server and its models say of themselves.

Owns the messages of the metadata calls. Must not know how models are found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vecserve.inference import service_pb2
from vecserve_server.gateway.kserve.contract import TensorTerms, make_contract
from vecserve_server.services.inference import TensorModel

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
    config, contract = model.config, make_contract(model.config)
    return service_pb2.ModelMetadataResponse(
        name=model.name,
        versions=versions,
        platform=config.platform or config.backend,
        inputs=_described(contract.inputs),
        outputs=_described(contract.outputs),
    )


def _described(
    tensors: Mapping[str, TensorTerms],
) -> list[service_pb2.ModelMetadataResponse.TensorMetadata]:
    return [
        service_pb2.ModelMetadataResponse.TensorMetadata(
            name=name, datatype=terms.datatype, shape=terms.shape
        )
        for name, terms in tensors.items()
    ]
