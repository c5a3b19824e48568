"""grpc.health.v1.Health.

Owns what health checks are told. Must not know why.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from grpc_health.v1 import health_pb2, health_pb2_grpc

from vecserve_server.errors import NotFound
from vecserve_server.gateway.common.callers import CallContext as Context

Reply = health_pb2.HealthCheckResponse
OVERALL = ""


class HealthServicer(health_pb2_grpc.HealthServicer):
    """One status for the server and all of its services. Loop only."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset((OVERALL, *services))
        self._serving = False
        self._changed = asyncio.Event()

    def set(self, *, serving: bool) -> None:
        """Change the status and tell all who watch."""
        self._serving = serving
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Reply:
        """Tell the status of a service, or of the server."""
        if request.service not in self._services:
            raise NotFound(f"service: {request.service[:128]!r} is not offered by this server")
        return self._reply()

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[Reply]:
        """Tell the status, and again whenever it changes."""
        known = request.service in self._services
        while True:
            changed = self._changed
            yield self._reply() if known else Reply(status=Reply.SERVICE_UNKNOWN)
            await changed.wait()

    def _reply(self) -> Reply:
        return Reply(status=Reply.SERVING if self._serving else Reply.NOT_SERVING)
