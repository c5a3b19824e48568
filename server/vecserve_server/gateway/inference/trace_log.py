"""The trace extension: where the time of every n-th request went, as records of the server's log.

Owns the settings, for all models and for single ones, and which requests are traced. Must not
know how requests are computed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tritonclient.grpc import service_pb2

from vecserve_server.errors import InvalidArgument, Unsupported
from vecserve_server.observability.logging import log_event
from vecserve_server.services.tensor_model import StageTimes

LEVEL, RATE, COUNT = "trace_level", "trace_rate", "trace_count"
FREQUENCY, FILE, MODE = "log_frequency", "trace_file", "trace_mode"
OFF, TIMESTAMPS = "OFF", "TIMESTAMPS"
UNLIMITED = "-1"
DEFAULTS: Mapping[str, tuple[str, ...]] = {
    LEVEL: (OFF,),
    RATE: ("1000",),
    COUNT: (UNLIMITED,),
    FREQUENCY: ("0",),
    FILE: ("",),
    MODE: ("triton",),
}
# Records go to the server's log at once: nothing else can be chosen.
FIXED = (FREQUENCY, FILE, MODE)
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

    def __init__(self, *, logger: logging.Logger) -> None:
        self._logger = logger
        self._global = _Scope({})
        # One for each model that had settings of its own; the caller checks the names.
        self._models: dict[str, _Scope] = {}

    def settings(self, model: str) -> dict[str, Values]:
        """Return what is in force for a model, or for all that have nothing of their own."""
        own = self._models[model].changed if model in self._models else {}
        return {**DEFAULTS, **self._global.changed, **own}

    def update(self, model: str, settings: Mapping[str, Sequence[str]]) -> None:
        """Set what has values, clear what has none: all of it or, on an error, nothing.

        A setting that is cleared falls back from the model's to that for all models, and from
        there to its default. Raises InvalidArgument or Unsupported that names the setting.
        """
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
        times: StageTimes,
        started_ns: int,
    ) -> None:
        """Log an answered request if it is its turn."""
        if self._is_due(response.model_name):
            log_event(
                self._logger,
                logging.INFO,
                "trace",
                model=response.model_name,
                version=response.model_version,
                request_id=request.id[:128],
                started_ns=started_ns,
                queue_ns=times.queue_ns,
                compute_input_ns=times.compute_input_ns,
                compute_infer_ns=times.compute_infer_ns,
                compute_output_ns=times.compute_output_ns,
            )

    def _is_due(self, model: str) -> bool:
        if not self._models and not self._global.changed:
            return False
        settings = self.settings(model)
        if settings[LEVEL] != (TIMESTAMPS,):
            return False
        scope = self._models.get(model, self._global)
        count = int(settings[COUNT][0])
        if 0 <= count <= scope.traced:
            return False
        scope.seen += 1
        if scope.seen % int(settings[RATE][0]):
            return False
        scope.traced += 1
        return True


def _check(name: str, values: Values) -> None:
    if name not in DEFAULTS:
        known = ", ".join(DEFAULTS)
        raise InvalidArgument("settings", f"{name!r} is unknown; there are {known}")
    if not values:
        return
    if name in FIXED and values != DEFAULTS[name]:
        raise Unsupported(f"settings: {name!r} cannot be changed: traces go to the server's log")
    if name == LEVEL:
        _check_level(values)
    if name in (RATE, COUNT):
        low = 1 if name == RATE else -1
        if len(values) != 1 or not _is_number(values[0], low=low):
            raise InvalidArgument(
                "settings", f"{name!r} must be one whole number from {low} to {MAX_NUMBER}"
            )


def _check_level(values: Values) -> None:
    if "TENSORS" in values:
        raise Unsupported(f"settings: {LEVEL!r}: the log never holds tensors")
    if values not in ((OFF,), (TIMESTAMPS,)):
        raise InvalidArgument("settings", f"{LEVEL!r} must be {OFF} or {TIMESTAMPS}")


def _is_number(text: str, *, low: int) -> bool:
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 10:
        return False
    return low <= int(text) <= MAX_NUMBER
