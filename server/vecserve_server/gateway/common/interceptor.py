"""What happens around every call: its door, decoding, its caller, errors to statuses, metrics.

Owns the boundary that no stack trace crosses. Must not know any single method.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from traceback import clear_frames
from typing import Any, NoReturn

import grpc
from grpc import aio

from vecserve_server.errors import Starting, Unsupported
from vecserve_server.gateway.common.callers import CallContext, GrpcContext
from vecserve_server.gateway.common.decoding import Deserialise, Undecodable, tolerant
from vecserve_server.gateway.common.doors import HEALTH_SERVICE, Doors
from vecserve_server.gateway.common.failures import Failures
from vecserve_server.gateway.common.status_table import Dialect
from vecserve_server.observability.metrics import Metrics

TRITON_SERVICE = "/inference."
MAX_CAUSES = 16
Handler = Any  # grpc's RpcMethodHandler: a named tuple without useful types


class CallInterceptor(aio.ServerInterceptor):
    """Wrap each method once; the wrapped handlers are kept. Servicers get a `CallContext`.

    Until `open` is called every method but the health checks answers UNAVAILABLE.
    """

    def __init__(
        self,
        *,
        metrics: Metrics,
        failures: Failures,
        clock_ns: Callable[[], int],
        doors: Doors,
    ) -> None:
        self._metrics = metrics
        self._failures = failures
        self._clock_ns = clock_ns
        self._doors = doors
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
            return grpc.stream_stream_rpc_method_handler(self._refused("any"))
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Handler) -> Handler:
        """Make the handler read its messages itself, after the call was let in.

        gRPC reads the request of a unary method before anybody is asked. On the wire a method with
        one request looks like one with a stream of them, of which we read the first.
        """
        decode = tolerant(handler.request_deserializer, max_fields=self._doors.max_fields)
        behaviour = handler.unary_unary or handler.unary_stream or handler.stream_stream
        serialise = handler.response_serializer
        if handler.unary_unary:
            behaviour = behaviour if _is_ours(behaviour) else _unsupported(method)
            unary = self._unary(method, behaviour, decode, serialise)
            return grpc.stream_unary_rpc_method_handler(unary, None, None)
        behaviour = behaviour if _is_ours(behaviour) else _unsupported_stream(method)
        if handler.unary_stream:
            stream = self._watch(method, behaviour, decode)
            return grpc.stream_stream_rpc_method_handler(stream, None, serialise)
        stream = self._stream(method, behaviour, decode, serialise)
        return grpc.stream_stream_rpc_method_handler(stream, None, None)

    def _refused(self, method: str) -> Callable[..., Any]:
        async def call(_requests: object, context: GrpcContext) -> AsyncIterator[object]:
            async with _Observed(self, method, context):
                raise Starting("the server is starting; its health says when it serves")
                yield

        return call

    def _unary(
        self,
        method: str,
        behaviour: Callable[..., Any],
        decode: Deserialise,
        serialise: Callable[[Any], bytes],
    ) -> Callable[..., Any]:
        door, arrivals, unpacking = (
            self._doors.of_unary(method),
            self._doors.arrivals,
            self._doors.unpacking,
        )

        async def call(_requests: object, context: GrpcContext) -> bytes:
            async with _Observed(self, method, context):
                with door.admit(context.peer()):
                    reply = serialise(await answer(context))
                self._doors.departures.hold(context, len(reply))
                return reply

        async def answer(context: GrpcContext) -> object:
            # In a frame of its own, which is cleared when it has failed.
            request = _checked(await unpacking.decoded(await arrivals.message(context), decode))
            return await behaviour(request, CallContext(context, clock_ns=self._clock_ns))

        return call

    def _watch(
        self, method: str, behaviour: Callable[..., Any], decode: Deserialise
    ) -> Callable[..., Any]:
        """Wrap the one kind of method with one request and a stream of replies: health checks."""

        async def call(_requests: object, context: GrpcContext) -> AsyncIterator[object]:
            async with _Observed(self, method, context):
                with self._doors.watches.admit(context.peer()):
                    message = await self._doors.arrivals.message(context)
                    request = _checked(await self._doors.unpacking.decoded(message, decode))
                    given = CallContext(context, clock_ns=self._clock_ns)
                    async for reply in behaviour(request, given):
                        yield reply

        return call

    def _stream(
        self,
        method: str,
        behaviour: Callable[..., Any],
        decode: Deserialise,
        serialise: Callable[[Any], bytes],
    ) -> Callable[..., Any]:
        async def messages(context: GrpcContext) -> AsyncIterator[object]:
            while (message := await self._doors.arrivals.next_message(context)) is not None:
                yield _checked(await self._doors.unpacking.decoded(message, decode))

        async def call(_requests: object, context: GrpcContext) -> AsyncIterator[bytes]:
            async with _Observed(self, method, context):
                with self._doors.streams.admit(context.peer()):
                    given = CallContext(context, clock_ns=self._clock_ns)
                    async for made in behaviour(messages(context), given):
                        reply = serialise(made)
                        with self._doors.departures.holding(context, len(reply)):
                            yield reply

        return call

    async def fail(self, method: str, context: GrpcContext, error: Exception) -> NoReturn:
        """End the call with the status of an error."""
        dialect = Dialect.TRITON if method.startswith(TRITON_SERVICE) else Dialect.VECSERVE
        status = self._failures.wire_status(method, error, dialect)
        try:
            await context.abort(status.code, status.message, status.trailing_metadata)
        except aio.InternalError:
            # The client left at this very moment; gRPC would log that it cannot be told.
            raise asyncio.CancelledError from None

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

    def __init__(self, owner: CallInterceptor, method: str, context: GrpcContext) -> None:
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
            if error is not None:
                _let_go(error)
            seconds = (self._owner.clock_ns() - self._started_ns) / 1e9
            self._owner.observe(self._method, self._code(error), seconds)

    def _code(self, error: BaseException | None) -> str:
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            return "CANCELLED"
        code = self._context.code()
        if not code:
            return "OK"
        return code.name if isinstance(code, grpc.StatusCode) else str(code)


def _let_go(error: BaseException) -> None:
    """Clear the frames of a failure and of all that caused it: they hold the request.

    gRPC keeps the failure in a cycle, which lives until the garbage collector comes by.
    """
    cause: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if cause is None:
            return
        clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__


def _is_ours(behaviour: Callable[..., Any]) -> bool:
    # The methods of the generated base classes are plain functions.
    return inspect.iscoroutinefunction(behaviour) or inspect.isasyncgenfunction(behaviour)


def _unsupported(method: str) -> Callable[..., Any]:
    async def unsupported(request: object, context: object) -> object:  # noqa: ARG001
        raise Unsupported(f"{method.rpartition('/')[2]} is not offered by this server")

    return unsupported


def _unsupported_stream(method: str) -> Callable[..., Any]:
    async def unsupported(requests: object, context: object) -> AsyncIterator[object]:
        yield await _unsupported(method)(requests, context)

    return unsupported


def _checked(request: object) -> object:
    if isinstance(request, Undecodable):
        raise request.error
    return request
