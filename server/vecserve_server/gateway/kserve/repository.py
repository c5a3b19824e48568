"""The model repository extension: its index, and what a request says of a model to load or unload.

Owns the names and types of the parameters. Must not know how models are loaded, nor which
configurations and files make one.
"""

from __future__ import annotations

from typing import Any

from vecserve.inference import service_pb2
from vecserve_server.domain.caller import Caller
from vecserve_server.domain.models import ModelEntry
from vecserve_server.errors import (
    InvalidArgument,
    LoadFailed,
    ModelError,
    NotFound,
    UnknownModel,
    Unsupported,
)
from vecserve_server.gateway.kserve.words import STATES, field_name
from vecserve_server.services.inference import InferenceService

CONFIG, FILE_PREFIX, DEPENDENTS = "config", "file:", "unload_dependents"


async def load(
    service: InferenceService, request: service_pb2.RepositoryModelLoadRequest, caller: Caller
) -> None:
    """Load a model, with the configuration and the files of the request if it brings them."""
    _check_names(request)
    name = request.model_name
    try:
        await service.load(name, *_contents(request), caller)
    except InvalidArgument as error:
        field = f"{_failed(name)}: {field_name(error.path)}"
        raise InvalidArgument(field, error.problem) from error
    except UnknownModel as error:
        problem = f"failed to poll from model repository: {error.reason}"
        raise NotFound(f"{_failed(name)}, {problem}") from error
    except ModelError as error:
        # Whoever loads models may know what is wrong with one.
        raise LoadFailed(f"{_failed(name)}: {error}") from error


def _failed(name: str) -> str:
    return f"failed to load {name!r}"


def _contents(
    request: service_pb2.RepositoryModelLoadRequest,
) -> tuple[str | None, dict[str, bytes]]:
    """Return the configuration and the files that a request brings."""
    config: str | None = None
    files: dict[str, bytes] = {}
    for name, parameter in request.parameters.items():
        if name == CONFIG:
            config = _typed(name, parameter, "string_param")
        elif name.startswith(FILE_PREFIX):
            files[name.removeprefix(FILE_PREFIX)] = _typed(name, parameter, "bytes_param")
        else:
            raise InvalidArgument("parameters", f"{name!r} is unknown")
    return config, files


async def unload(
    service: InferenceService, request: service_pb2.RepositoryModelUnloadRequest, caller: Caller
) -> None:
    """Unload a model."""
    _check_names(request)
    dependents = False
    for name, parameter in request.parameters.items():
        if name != DEPENDENTS:
            raise InvalidArgument("parameters", f"{name!r} is unknown")
        dependents = _typed(name, parameter, "bool_param")
    await service.unload(request.model_name, caller, unload_dependents=dependents)


def index_entry(entry: ModelEntry) -> service_pb2.RepositoryIndexResponse.ModelIndex:
    """Write a line of the index."""
    return service_pb2.RepositoryIndexResponse.ModelIndex(
        name=entry.name, version=entry.version, state=STATES[entry.state], reason=entry.reason
    )


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
