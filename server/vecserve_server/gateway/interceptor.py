"""What happens around every call: decoding, errors to statuses, metrics, the log.

Owns the boundary that no stack trace crosses. Must not know any single method.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from grpc import aio

from vecserve_server.errors import Starting, Unsupported
from vecserve_server.gateway.decoding import Undecodable, tolerant
from vecserve_server.gateway.failures import Failures
from vecserve_server.gateway.status_table import Dialect
from vecserve_server.observability.metrics import Metrics

TRITON_SERVICE = "/inference."
HEALTH_SERVICE = "/grpc.health.v1.Health/"
Handler = Any  # grpc's RpcMethodHandler: a named tuple without useful types


class CallInterceptor(aio.ServerInterceptor):
    """Wrap each method once; the wrapped handlers are kept.

    Until `open` is called every method but the health checks answers UNAVAILABLE.
    """

    def __init__(
        self, *, metrics: Metrics, failures: Failures, clock_ns: Callable[[], int]
    ) -> None:
        self._metrics = metrics
        self._failures = failures
        self._clock_ns = clock_ns
        # One entry for each method of the services; unknown methods are not kept.
        self._wrapped: dict[str, Handler] = {}
        self._is_open = False

    def open(self) -> None:
        """Let calls through: all services are registered."""
        self._is_open = True

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return the wrapped handler of the method."""
        method = handler_call_details.method
        # The label is not the method's name: before the services are known it could be anything.
        if not self._is_open and not method.startswith(HEALTH_SERVICE):
            return grpc.stream_stream_rpc_method_handler(self._stream("any", _starting))
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Handler) -> Handler:
        decode = tolerant(handler.request_deserializer)
        if handler.unary_unary:
            known = _is_ours(handler.unary_unary)
            behaviour = handler.unary_unary if known else _unsupported(method)
            return grpc.unary_unary_rpc_method_handler(
                self._unary(method, behaviour), decode, handler.response_serializer
            )
        if handler.stream_stream:
            known = _is_ours(handler.stream_stream)
            behaviour = handler.stream_stream if known else _unsupported_stream(method)
            return grpc.stream_stream_rpc_method_handler(
                self._stream(method, behaviour), decode, handler.response_serializer
            )
        return handler  # health's Watch: it has no error of ours to map

    def _unary(self, method: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        async def call(request: object, context: aio.ServicerContext[Any, Any]) -> object:
            async with _Observed(self, method, context):
                if isinstance(request, Undecodable):
                    raise request.error
                return await behaviour(request, context)

        return call

    def _stream(self, method: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        async def call(
            requests: AsyncIterator[object], context: aio.ServicerContext[Any, Any]
        ) -> AsyncIterator[object]:
            async with _Observed(self, method, context):
                async for reply in behaviour(_decoded(requests), context):
                    yield reply

        return call

    async def fail(
        self, method: str, context: aio.ServicerContext[Any, Any], error: Exception
    ) -> NoReturn:
        """End the call with the status of an error."""
        dialect = Dialect.TRITON if method.startswith(TRITON_SERVICE) else Dialect.VECSERVE
        status = self._failures.wire_status(method, error, dialect)
        await context.abort(status.code, status.message, status.trailing_metadata)

    def observe(self, method: str, code: str, seconds: float) -> None:
        """Count one answered call."""
        self._metrics.requests.labels(method=method, code=code).inc()
        self._metrics.request_seconds.labels(method=method).observe(seconds)

    @property
    def clock_ns(self) -> Callable[[], int]:
        """Monotonic nanoseconds."""
        return self._clock_ns


class _Observed:
    """One call, from arrival to answer: maps its errors and counts it."""

    def __init__(
        self, owner: CallInterceptor, method: str, context: aio.ServicerContext[Any, Any]
    ) -> None:
        self._owner = owner
        self._method = method
        self._context = context
        self._started_ns = 0

    async def __aenter__(self) -> None:
        self._started_ns = self._owner.clock_ns()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        try:
            if isinstance(error, Exception) and not isinstance(error, aio.AbortError):
                await self._owner.fail(self._method, self._context, error)
        finally:
            seconds = (self._owner.clock_ns() - self._started_ns) / 1e9
            self._owner.observe(self._method, self._code(error), seconds)

    def _code(self, error: BaseException | None) -> str:
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            return "CANCELLED"
        code = self._context.code()
        if not code:
            return "OK"
        return code.name if isinstance(code, grpc.StatusCode) else str(code)


def _is_ours(behaviour: Callable[..., Any]) -> bool:
    # The methods of the generated base classes are plain functions.
    return inspect.iscoroutinefunction(behaviour) or inspect.isasyncgenfunction(behaviour)


async def _starting(requests: object, context: object) -> AsyncIterator[object]:  # noqa: ARG001
    raise Starting("the server is starting; its health says when it serves")
    yield


def _unsupported(method: str) -> Callable[..., Any]:
    async def unsupported(request: object, context: object) -> object:  # noqa: ARG001
        raise Unsupported(f"{method.rpartition('/')[2]} is not offered by this server")

    return unsupported


def _unsupported_stream(method: str) -> Callable[..., Any]:
    async def unsupported(requests: object, context: object) -> AsyncIterator[object]:
        yield await _unsupported(method)(requests, context)

    return unsupported


async def _decoded(requests: AsyncIterator[object]) -> AsyncIterator[object]:
    async for request in requests:
        if isinstance(request, Undecodable):
            raise request.error
        yield request
