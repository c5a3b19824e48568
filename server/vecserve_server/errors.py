"""Every failure that vecserve reports, as one tree without status codes.

Owns the kinds of failure. Must not know gRPC: `gateway/common/status_table.py` maps each kind to
a status.

    VecserveError
    ├── RequestError          the caller can mend it
    │   ├── InvalidArgument
    │   ├── NotFound
    │   │   └── UnknownModel
    │   ├── AlreadyExists
    │   ├── FailedPrecondition
    │   └── Unsupported
    ├── CapacityError         the same call may succeed later
    │   ├── Overloaded
    │   ├── QueueTimeout
    │   ├── Starting
    │   ├── ModelUnavailable
    │   ├── Superseded
    │   └── Draining
    ├── DeadlineExceeded
    ├── EngineError           the engine that runs a model failed
    ├── LoadFailed            a model that a caller brought or named cannot be loaded
    ├── ConfigError           the operator can mend it; the server refuses to start
    │   └── ModelError
    │       └── ModelLimit
    └── StorageError          the disk or a file failed
        ├── CorruptData
        └── StoreGone
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeGuard

FieldPath: TypeAlias = tuple[str | int, ...]
"""Where in a request something is: names of fields, and places in lists."""


class VecserveError(Exception):
    """Any failure; `is_for_caller` tells whether the caller may read its message."""


class RequestError(VecserveError):
    """A failure that the caller can mend by changing the request."""

    def __init__(self, problem: str, *, field: str | FieldPath = ()) -> None:
        """Say what is wrong, and with which field, by its parts: `("rows", 3, "text")`."""
        path = (field,) if isinstance(field, str) else field
        super().__init__(sentence(path, problem))
        self.path = path
        """The field at fault; empty: it is none."""
        self.problem = problem


class InvalidArgument(RequestError):
    """A field of the request is malformed or outside its limit."""

    def __init__(self, field: str | FieldPath, problem: str) -> None:
        """Name the field, and say what is wrong with it."""
        super().__init__(problem, field=field)

    @property
    def field(self) -> str:
        """The field at fault, as protocol buffers spell it."""
        return spelled(self.path)


class NotFound(RequestError):
    """The named resource does not exist."""


class UnknownModel(NotFound):
    """There is no such model, or no such version of it."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"model {name!r}: {reason}")
        self.name = name
        self.reason = reason


class AlreadyExists(RequestError):
    """The named resource exists already."""


class FailedPrecondition(RequestError):
    """The request is well-formed but the state of the resource forbids it."""


class Unsupported(RequestError):
    """The request asks for something that this server does not offer."""


class CapacityError(VecserveError):
    """The server cannot take the request now; the same call may succeed later."""


class Overloaded(CapacityError):
    """A bounded queue is full."""

    def __init__(self, message: str, *, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class QueueTimeout(CapacityError):
    """The request waited in the queue for longer than it or the model's queue policy allows."""


class Starting(CapacityError):
    """The server is not ready yet."""


class ModelUnavailable(CapacityError):
    """The model is known, but the version asked for does not serve now."""

    def __init__(self, name: str, version: str, state: str) -> None:
        super().__init__(f"model {name!r}: version {version} does not serve: it is {state}")
        self.name = name
        self.version = version
        self.state = state


class Superseded(CapacityError):
    """Another generation of the collection serves by now; the same call finds it."""


class Draining(CapacityError):
    """The server is shutting down and takes no new work."""


class DeadlineExceeded(VecserveError):
    """The request's deadline passed before its work was done."""


class EngineError(VecserveError):
    """The engine that runs a model failed, in words that are for the log."""


class ConfigError(VecserveError):
    """A setting or a file that the operator owns is wrong."""


class ModelError(ConfigError):
    """A model's files are missing, damaged or not supported."""


class ModelLimit(ModelError):
    """Loading a model takes more than a bound allows."""

    def __init__(self, message: str, *, bound: str) -> None:
        super().__init__(message)
        self.bound = bound
        """Which one, in one word for a metric."""


class LoadFailed(VecserveError):
    """A model that a caller asked to load cannot be loaded, in words that are for the caller."""


class StorageError(VecserveError):
    """The disk or a file on it failed."""


class CorruptData(StorageError):
    """Stored bytes do not match their checksum or their schema."""


class StoreGone(StorageError):
    """A file that is served was removed, or another one lies in its place."""

    def __init__(self, message: str, *, replaced: bool = False) -> None:
        super().__init__(message)
        self.replaced = replaced
        """Whether another one has its name."""


def is_for_caller(error: Exception) -> TypeGuard[VecserveError]:
    """Tell whether a message may go to the caller, since it names no file and quotes no engine."""
    kept = (ConfigError, StorageError, EngineError)
    return isinstance(error, VecserveError) and not isinstance(error, kept)


def spelled(path: FieldPath) -> str:
    """Spell a path as the log does, and protocol buffers: `rows[3].text`."""
    first, *rest = path
    return str(first) + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest
    )


def sentence(path: FieldPath, problem: str, spell: Callable[[FieldPath], str] = spelled) -> str:
    """Join a field, as a protocol spells it, with what is wrong with it."""
    return f"{spell(path)}: {problem}" if path else problem
