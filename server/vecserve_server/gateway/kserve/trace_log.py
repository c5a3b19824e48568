"""The trace extension: where the time of every n-th request went, as records of the server's log.

Owns the settings, for all models and for single ones, which requests are traced, and what of their
tensors is told. Values may be personal data: they are written only where the server's operator
allows it and the level asks for it. Must not know how requests are computed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from vecserve.inference import service_pb2
from vecserve_server.domain.tensors import Tensors
from vecserve_server.domain.timings import Timings
from vecserve_server.errors import InvalidArgument, Unsupported
from vecserve_server.gateway.kserve.tensors import BYTES
from vecserve_server.observability.logging import log_event

LEVEL, RATE, COUNT = "trace_level", "trace_rate", "trace_count"
FREQUENCY, FILE, MODE = "log_frequency", "trace_file", "trace_mode"
OFF, TIMESTAMPS, TENSORS = "OFF", "TIMESTAMPS", "TENSORS"
UNLIMITED = "-1"
DEFAULTS: Mapping[str, tuple[str, ...]] = {
    LEVEL: (OFF,),
    RATE: ("1000",),
    COUNT: (UNLIMITED,),
    FREQUENCY: ("0",),
    FILE: ("",),
    MODE: ("triton",),
}
# Records go to the server's log, and at once: there is nothing to write so often.
FIXED = (FILE, MODE)
LEAST: Mapping[str, int] = {RATE: 1, COUNT: -1, FREQUENCY: 0}
MAX_VALUES = 64
"""Of one tensor, in a record."""
MAX_VALUE_CHARACTERS = 256
MAX_NUMBER = 2**31 - 1

Values = tuple[str, ...]


@dataclass(slots=True)
class _Scope:
    """Settings of all models, or of one, and how far they were used up."""

    changed: dict[str, Values]
    seen: int = 0
    traced: int = 0


class TraceLog:
    """Settings of the trace extension, and the records that they ask for. Loop only."""

    def __init__(self, *, logger: logging.Logger, with_values: bool = False) -> None:
        """Write the values of tensors, for the level TENSORS, only `with_values`."""
        self._logger = logger
        self._with_values = with_values
        self._global = _Scope({})
        # One for each model that had settings of its own; the caller checks the names.
        self._models: dict[str, _Scope] = {}

    def settings(self, model: str) -> dict[str, Values]:
        """Return what is in force for a model, or for all that have nothing of their own."""
        own = self._models[model].changed if model in self._models else {}
        return {**DEFAULTS, **self._global.changed, **own}

    def update(self, model: str, settings: Mapping[str, Sequence[str]]) -> None:
        """Set what has values, clear what has none: all of it or, on an error, nothing.

        Names that are not known here are passed over, as Triton does. A setting that is cleared
        falls back from the model's to that for all models, and from there to its default. Raises
        InvalidArgument or Unsupported that names the setting.
        """
        settings = {name: values for name, values in settings.items() if name in DEFAULTS}
        for name, values in settings.items():
            _check(name, tuple(values))
        if not settings:
            return
        scope = self._models.setdefault(model, _Scope({})) if model else self._global
        for name, values in settings.items():
            scope.changed.pop(name, None)
            if values:
                scope.changed[name] = tuple(values)
        scope.seen = scope.traced = 0
        if model and not scope.changed:
            del self._models[model]

    def record(
        self,
        request: service_pb2.ModelInferRequest,
        response: service_pb2.ModelInferResponse,
        times: Timings,
        started_ns: int,
        inputs: Tensors,
        outputs: Tensors,
    ) -> None:
        """Log an answered request if it is its turn."""
        levels = self._due(response.model_name)
        whose: dict[str, object] = {
            "model": response.model_name,
            "version": response.model_version,
            "request_id": request.id[:128],
        }
        if TIMESTAMPS in levels:
            log_event(
                self._logger,
                logging.INFO,
                "trace",
                **whose,
                started_ns=started_ns,
                queue_ns=times.queue_ns,
                compute_input_ns=times.compute_input_ns,
                compute_infer_ns=times.compute_infer_ns,
                compute_output_ns=times.compute_output_ns,
            )
        if TENSORS in levels:
            for side, tensors in (("input", inputs), ("output", outputs)):
                for name, array in tensors.items():
                    facts = self._described(array)
                    log_event(
                        self._logger, logging.INFO, "trace_tensor", **whose, **{side: name}, **facts
                    )

    def _described(self, array: NDArray[Any]) -> dict[str, object]:
        """Tell a tensor's type and shape, and its first values where that is allowed."""
        kind = BYTES if array.dtype == object else str(array.dtype)
        facts: dict[str, object] = {"datatype": kind, "shape": list(array.shape)}
        if self._with_values:
            facts["values"] = [_shown(value) for value in array.reshape(-1)[:MAX_VALUES].tolist()]
        return facts

    def _due(self, model: str) -> Values:
        """Return what to record of a request that was answered now."""
        if not self._models and not self._global.changed:
            return ()
        settings = self.settings(model)
        if settings[LEVEL] == (OFF,):
            return ()
        scope = self._models.get(model, self._global)
        count = int(settings[COUNT][0])
        if 0 <= count <= scope.traced:
            return ()
        scope.seen += 1
        if scope.seen % int(settings[RATE][0]):
            return ()
        scope.traced += 1
        return settings[LEVEL]


def _shown(value: object) -> object:
    """Return what a record holds of one value."""
    if not isinstance(value, bytes):
        return value
    return value[:MAX_VALUE_CHARACTERS].decode(errors="backslashreplace")


def _check(name: str, values: Values) -> None:
    if not values:
        return
    if name in FIXED and values != DEFAULTS[name]:
        raise Unsupported(f"settings: {name!r} cannot be changed: traces go to the server's log")
    if name == LEVEL:
        _check_level(values)
    if name in LEAST:
        low = LEAST[name]
        if len(values) != 1 or not _is_number(values[0], low=low):
            raise InvalidArgument(
                "settings", f"{name!r} must be one whole number from {low} to {MAX_NUMBER}"
            )


def _check_level(values: Values) -> None:
    if values != (OFF,) and not set(values) <= {TIMESTAMPS, TENSORS}:
        problem = f"{LEVEL!r} must be {OFF} alone, or {TIMESTAMPS}, {TENSORS} or both"
        raise InvalidArgument("settings", problem)


def _is_number(text: str, *, low: int) -> bool:
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 10:
        return False
    return low <= int(text) <= MAX_NUMBER
