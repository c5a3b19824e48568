"""The doors of the gRPC port, by kind of call.

Owns which bounds a method stands under. Health and admin calls have a door of their own, so that
no number of other calls shuts them out. Must not know what the methods do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from vecserve_server.gateway.common.arrivals import Arrivals
from vecserve_server.gateway.common.departures import Departures
from vecserve_server.gateway.common.open_calls import Bound, OpenCalls
from vecserve_server.gateway.common.unpacking import Unpacking
from vecserve_server.observability.metrics import Metrics
from vecserve_server.observability.process import resident_bytes
from vecserve_server.settings.server_settings import ServerSettings
from vecserve_server.settings.settings import LimitSettings

HEALTH_SERVICE = "/grpc.health.v1.Health/"
VITAL_SERVICES = (HEALTH_SERVICE, "/vecserve.v1.AdminService/")
VITAL_METHODS = frozenset(
    f"/inference.GRPCInferenceService/{name}"
    for name in ("ServerLive", "ServerReady", "ModelReady")
)
FIELDS_PER_ITEM = 128
"""Fields of a message for each item that a call may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Where calls come in."""

    arrivals: Arrivals
    unpacking: Unpacking
    departures: Departures
    calls: OpenCalls
    vital: OpenCalls
    streams: OpenCalls
    watches: OpenCalls
    max_fields: int
    """Fields that one message may have."""

    def of_unary(self, method: str) -> OpenCalls:
        """Return the door of a method with one request."""
        if method in VITAL_METHODS or method.startswith(VITAL_SERVICES):
            return self.vital
        return self.calls


def make_doors(
    settings: ServerSettings,
    *,
    limits: LimitSettings,
    unpack_pool: Executor,
    metrics: Metrics,
    clock_s: Callable[[], float] = time.monotonic,
) -> Doors:
    """Set up the doors with nobody inside; `unpack_pool` has one thread."""
    arrivals = Arrivals(
        max_bytes=settings.max_arriving_bytes,
        timeout_s=settings.receive_timeout_s,
        resident_bytes=resident_bytes,
        clock_s=clock_s,
        metrics=metrics,
    )

    def door(
        kind: str,
        limit: str,
        connection_limit: str | None,
        make_room: Callable[[], bool] = _no_room,
    ) -> OpenCalls:
        return OpenCalls(
            kind=kind,
            total=Bound(setting=f"server.{limit}", limit=getattr(settings, limit)),
            by_connection=Bound(
                setting=f"server.{connection_limit}",
                limit=getattr(settings, connection_limit) if connection_limit else None,
            ),
            make_room=make_room,
            metrics=metrics,
        )

    return Doors(
        arrivals=arrivals,
        unpacking=Unpacking(
            max_bytes=settings.max_message_bytes,
            max_waiting_bytes=limits.max_pending_bytes,
            pool=unpack_pool,
            metrics=metrics,
        ),
        departures=Departures(
            max_bytes=settings.max_unread_bytes,
            max_replies=settings.max_connection_calls,
            metrics=metrics,
        ),
        calls=door("calls", "max_concurrent_calls", "max_connection_calls", arrivals.make_room),
        vital=door("health and admin calls", "max_concurrent_calls", None, arrivals.make_room),
        streams=door("streams", "max_streams", "max_connection_streams"),
        watches=door("watches", "max_watches", "max_connection_watches"),
        max_fields=FIELDS_PER_ITEM * limits.max_items_per_call,
    )


def _no_room() -> bool:
    return False
