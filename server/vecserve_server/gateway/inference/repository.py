"""The model repository extension: what a request says of the model to load or unload.

Owns the names and types of the parameters. Must not know how models are loaded, nor which
configurations and files make one.
"""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import service_pb2

from vecserve_server.errors import FailedPrecondition, InvalidArgument, ModelError, Unsupported
from vecserve_server.services.control import ModelControl

CONFIG, FILE_PREFIX, DEPENDENTS = "config", "file:", "unload_dependents"


async def load(control: ModelControl, request: service_pb2.RepositoryModelLoadRequest) -> None:
    """Load a model, with the configuration and the files of the request if it brings them."""
    _check_names(request)
    config: str | None = None
    files: dict[str, bytes] = {}
    for name, parameter in request.parameters.items():
        if name == CONFIG:
            config = _typed(name, parameter, "string_param")
        elif name.startswith(FILE_PREFIX):
            files[name.removeprefix(FILE_PREFIX)] = _typed(name, parameter, "bytes_param")
        else:
            raise InvalidArgument("parameters", f"{name!r} is unknown")
    try:
        await control.load(request.model_name, config, files)
    except ModelError as error:
        # Whoever loads models may know what is wrong with one.
        raise FailedPrecondition(f"failed to load {request.model_name!r}: {error}") from error


async def unload(control: ModelControl, request: service_pb2.RepositoryModelUnloadRequest) -> None:
    """Unload a model."""
    _check_names(request)
    dependents = False
    for name, parameter in request.parameters.items():
        if name != DEPENDENTS:
            raise InvalidArgument("parameters", f"{name!r} is unknown")
        dependents = _typed(name, parameter, "bool_param")
    await control.unload(request.model_name, dependents)


def check_repository_name(name: str) -> None:
    """Refuse a repository by name: there is one, and it has none."""
    if name:
        raise Unsupported("repository_name: repositories cannot be chosen by name")


def _check_names(
    request: service_pb2.RepositoryModelLoadRequest | service_pb2.RepositoryModelUnloadRequest,
) -> None:
    check_repository_name(request.repository_name)
    if not request.model_name:
        raise InvalidArgument("model_name", "is empty")


def _typed(name: str, parameter: service_pb2.ModelRepositoryParameter, kind: str) -> Any:
    if parameter.WhichOneof("parameter_choice") != kind:
        raise InvalidArgument("parameters", f"{name!r} must be a {kind}")
    return getattr(parameter, kind)
