"""How Triton says what is wrong with a model, a tensor or a parameter.

Owns the words that its clients look for. Pure.
"""

from __future__ import annotations

from vecserve_server.domain.models import ModelState
from vecserve_server.errors import (
    CapacityError,
    FieldPath,
    InvalidArgument,
    ModelUnavailable,
    NotFound,
    UnknownModel,
    VecserveError,
    spelled,
)

STATES = {
    ModelState.READY: "READY",
    ModelState.LOADING: "LOADING",
    ModelState.UNLOADING: "UNLOADING",
    ModelState.UNAVAILABLE: "UNAVAILABLE",
    None: "",
}
UNKNOWN = "Request for unknown model"
REWORDED = (InvalidArgument, UnknownModel, ModelUnavailable)
"""The failures that `reworded` is for."""


def reworded(error: InvalidArgument | UnknownModel | ModelUnavailable) -> VecserveError:
    """Say the same as Triton does."""
    match error:
        case InvalidArgument():
            return InvalidArgument(field_name(error.path), error.problem)
        case UnknownModel():
            return NotFound(f"{UNKNOWN}: {error.name!r} {error.reason}")
        case ModelUnavailable():
            # The reason may name files; it stands in the index.
            return CapacityError(
                f"{UNKNOWN}: {error.name!r} version {error.version} is not at ready state: "
                f"it is {STATES[ModelState(error.state)]}"
            )


def field_name(path: FieldPath) -> str:
    """Spell where something is: `input 'text'[3]`, `parameters[config]`."""
    match path:
        case ("inputs", str(name), *places):
            return f"input {name!r}" + "".join(f"[{place}]" for place in places)
        case ("config",):
            return "parameters[config]"
        case ("files", key):
            return f"parameters[{f'file:{key}'!r}]"
        case ("files",):
            return "parameters"
        case _:
            return spelled(path)


def not_available(error: InvalidArgument, name: str) -> InvalidArgument:
    """Say which part of a model's name has no statistics."""
    if error.path == ("version",):
        problem = f"requested model version is not available for model {name!r}"
    else:
        problem = f"requested model {name!r} is not available"
    return InvalidArgument(error.path, problem)
