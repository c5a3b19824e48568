"""The synchronous client.

Owns the channel and blocking waits. Must not know how requests are made and replies read (`calls`),
nor when to try again (`retry`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

import grpc

from vecserve.v1.index_pb2 import UpsertRequest
from vecserve_client import batching, calls, classify_calls, exchange, search_calls, wire
from vecserve_client.admin import Admin
from vecserve_client.arguments import AnyRecord
from vecserve_client.channel import (
    DEFAULT_DEADLINE_S,
    DEFAULT_TARGET,
    HEALTH_POLL_S,
    Patience,
    closed_as_cancelled,
    options_for,
    serialise,
)
from vecserve_client.conditions import Where
from vecserve_client.errors import DeadlineExceeded, Unavailable, from_rpc
from vecserve_client.exchange import Answered, Exchange, StreamMethod
from vecserve_client.retry import RetryPolicy
from vecserve_client.searches import AnyQuery, SearchOptions
from vecserve_client.stream import pipeline
from vecserve_client.types import (
    Classification,
    Collection,
    EmbedOptions,
    EmbedResult,
    Fields,
    FieldTypes,
    GetResult,
    Model,
    Row,
    SearchResult,
    UpsertBatch,
    UpsertResult,
)

T = TypeVar("T")
Q = TypeVar("Q", bound=exchange.Numbered)
R = TypeVar("R")
NO_FIELDS: Final = Fields()


class Client:
    """A connection to one server; safe to share between threads.

    A call that fails raises a `VecserveError`. `timeout_s` limits the time of a call, retries
    included, and replaces the client's `deadline_s`. If a call uses a stream, `timeout_s` limits
    the wait for the next reply.
    """

    def __init__(
        self,
        *,
        target: str = DEFAULT_TARGET,
        deadline_s: float = DEFAULT_DEADLINE_S,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._patience = Patience(deadline_s=deadline_s, retry=retry or RetryPolicy())
        self._channel = grpc.insecure_channel(target, options=options_for(target))
        self.admin = Admin(self._invoke)
        """Aliases, re-indexing, snapshots and upkeep."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; running calls fail."""
        self._channel.close()

    def embed(
        self,
        texts: Sequence[str],
        *,
        model: str = "",
        options: EmbedOptions | None = None,
        window: int = batching.WINDOW_REQUESTS,
        timeout_s: float | None = None,
    ) -> EmbedResult:
        """Embed texts; a long list is sent in several requests, at most `window` at a time.

        Returns vectors float32 [N, D] in the order of the texts. A bad text fails
        alone: see `EmbedResult.errors`.
        """
        requests = list(calls.embed_requests(texts, model=model, options=options))
        if len(requests) == 1:
            return self._invoke(calls.embed(requests[0]), timeout_s)
        answers = self._stream(exchange.EMBED, iter(requests), window, timeout_s)
        responses = {answer.request.request_id: answer.response for answer in answers}
        return wire.embed_result_from_proto(
            [responses[request.request_id] for request in requests],
            text_count=len(texts),
            method=exchange.EMBED.name,
        )

    def upsert(
        self,
        collection: str,
        rows: Iterable[AnyRecord],
        *,
        options: EmbedOptions | None = None,
        skip_unchanged: bool = False,
        timeout_s: float | None = None,
    ) -> UpsertResult:
        """Write rows and wait until all are on disk; a long list is sent in several requests.

        With `skip_unchanged`, rows that are already stored with the same content are neither
        embedded nor written.
        """
        requests = list(
            calls.upsert_requests(
                collection,
                rows,
                options=options,
                batch_rows=batching.UPSERT_ROWS,
                skip_unchanged=skip_unchanged,
            )
        )
        if len(requests) == 1:
            return self._invoke(calls.upsert(requests[0]), timeout_s)
        return wire.join_upserts(
            self._upsert_stream(iter(requests), batching.WINDOW_REQUESTS, timeout_s)
        )

    def upsert_many(
        self,
        collection: str,
        rows: Iterable[AnyRecord],
        *,
        options: EmbedOptions | None = None,
        batch_rows: int = batching.UPSERT_ROWS,
        window: int = batching.WINDOW_REQUESTS,
        skip_unchanged: bool = False,
        timeout_s: float | None = None,
    ) -> Iterator[UpsertBatch]:
        """Write rows of any number over one stream, and yield each batch once it is on disk.

        Batches are yielded in the order of their acknowledgement. Rows are read only as fast as the
        server accepts them. A lost stream is opened again and unacknowledged rows are sent again,
        unless a row has an `expected_seq`.
        """
        requests = calls.upsert_requests(
            collection, rows, options=options, batch_rows=batch_rows, skip_unchanged=skip_unchanged
        )
        return self._upsert_stream(requests, window, timeout_s)

    def delete(
        self,
        collection: str,
        ids: Sequence[str] = (),
        *,
        where: Where | None = None,
        expected_seqs: Mapping[str, int] = calls.NO_SEQS,
        timeout_s: float | None = None,
    ) -> int:
        """Delete rows by id, or all rows that match a filter; return the number of deleted rows.

        An id in `expected_seqs` is deleted only if its row has that seq. If a row has another seq,
        the other rows of the request are deleted and FailedPrecondition is raised. Many ids are
        sent in several requests. `timeout_s` limits each request. If a request fails, the rows of
        the requests before it stay deleted.
        """
        deletes = calls.delete(collection, ids=ids, where=where, expected_seqs=expected_seqs)
        return sum([self._invoke(call, timeout_s) for call in deletes])

    def get(
        self,
        collection: str,
        ids: Sequence[str],
        *,
        include_vector: bool = False,
        include_payload: bool = True,
        with_text: bool = False,
        timeout_s: float | None = None,
    ) -> GetResult:
        """Read rows by id. Many ids are sent in several requests; `timeout_s` limits each."""
        gets = calls.get(
            collection,
            ids,
            include_vector=include_vector,
            include_payload=include_payload,
            with_text=with_text,
        )
        return wire.join_gets([self._invoke(call, timeout_s) for call in gets])

    def scan(
        self,
        collection: str,
        *,
        where: Where | None = None,
        include_vector: bool = False,
        include_payload: bool = True,
        with_text: bool = False,
        page_size: int = 100,
        timeout_s: float | None = None,
    ) -> Iterator[Row]:
        """Yield all rows in the order they were written; each page is read when it is needed."""
        token, is_last = "", False
        while not is_last:
            call = calls.scan_page(
                collection,
                page_size=page_size,
                page_token=token,
                where=where,
                include_vector=include_vector,
                include_payload=include_payload,
                with_text=with_text,
            )
            rows, token = self._invoke(call, timeout_s)
            yield from rows
            is_last = not token

    def count(
        self,
        collection: str,
        *,
        where: Where | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Count rows."""
        return self._invoke(calls.count(collection, where=where), timeout_s)

    def search(
        self,
        collection: str,
        query: AnyQuery,
        *,
        embed_options: EmbedOptions | None = None,
        timeout_s: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> SearchResult:
        """Find the rows nearest to a text, a vector float [D], or a `Query`."""
        call = search_calls.search(collection, query, options=options, embed_options=embed_options)
        return self._invoke(call, timeout_s)

    def search_batch(
        self,
        collection: str,
        queries: Sequence[AnyQuery],
        *,
        embed_options: EmbedOptions | None = None,
        timeout_s: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[SearchResult]:
        """Answer many queries, in their order. `timeout_s` limits each request."""
        batches = search_calls.search_batch(
            collection, queries, options=options, embed_options=embed_options
        )
        return [result for call in batches for result in self._invoke(call, timeout_s)]

    def classify(
        self,
        collection: str,
        query: AnyQuery,
        *,
        label_field: str,
        k: int = 10,
        min_confidence: float | None = None,
        with_text: bool = False,
        embed_options: EmbedOptions | None = None,
        timeout_s: float | None = None,
    ) -> Classification:
        """Find the label of a text or a vector by the vote of its `k` nearest rows."""
        call = classify_calls.classify(
            collection,
            query,
            label_field=label_field,
            k=k,
            min_confidence=min_confidence,
            embed_options=embed_options,
            with_text=with_text,
        )
        return self._invoke(call, timeout_s)

    def create_collection(
        self,
        name: str,
        *,
        model: str = "",
        dim: int = 0,
        fields: Fields | FieldTypes = NO_FIELDS,
        keep_text: bool = True,
        timeout_s: float | None = None,
    ) -> Collection:
        """Create an empty collection. Defaults: the server's default model, and the model's dim.

        `fields` declares the payload fields that get an index for filters or lexical search.
        Without `keep_text` the collection cannot be re-indexed with another model.
        """
        call = calls.create_collection(
            name, model=model, dim=dim, fields=fields, keep_text=keep_text
        )
        return self._invoke(call, timeout_s)

    def get_collection(self, name: str, *, timeout_s: float | None = None) -> Collection:
        """Describe a collection."""
        return self._invoke(calls.get_collection(name), timeout_s)

    def list_collections(self, *, timeout_s: float | None = None) -> list[Collection]:
        """List all collections by name."""
        collections, token = self._invoke(calls.list_collections_page(page_token=""), timeout_s)
        while token:
            page, token = self._invoke(calls.list_collections_page(page_token=token), timeout_s)
            collections += page
        return collections

    def drop_collection(self, name: str, *, timeout_s: float | None = None) -> int:
        """Delete a collection with all its rows; return the number of rows."""
        return self._invoke(calls.drop_collection(name), timeout_s)

    def list_models(self, *, timeout_s: float | None = None) -> list[Model]:
        """List the models that the server has loaded."""
        return self._invoke(calls.list_models(), timeout_s)

    def health(self, service: str = "", *, timeout_s: float | None = None) -> str:
        """Return the health of the server: "SERVING", "NOT_SERVING" or "UNKNOWN"."""
        return self._invoke(calls.health(service), timeout_s)

    def wait_ready(self, *, timeout_s: float) -> None:
        """Wait until the server is SERVING; raise DeadlineExceeded after `timeout_s`."""
        state = "never asked"
        deadline = time.monotonic() + timeout_s
        while (remaining_s := deadline - time.monotonic()) > 0:
            try:
                state = self.health(timeout_s=remaining_s)
            except (Unavailable, DeadlineExceeded) as failure:
                state = str(failure)
            if state == "SERVING":
                return
            time.sleep(min(HEALTH_POLL_S, remaining_s))
        raise DeadlineExceeded(f"not ready after {timeout_s:g} s: {state}")

    def _invoke(self, call: calls.Call[T], timeout_s: float | None) -> T:
        attempts = self._patience.for_call(timeout_s=timeout_s, idempotent=call.idempotent)
        request = serialise(call.request)
        invoke: grpc.UnaryUnaryMultiCallable[bytes, Any] = self._channel.unary_unary(
            call.path, response_deserializer=call.reply_type.FromString
        )
        while True:
            try:
                with closed_as_cancelled(call.method):
                    reply = invoke(request, timeout=attempts.remaining_s())
                return call.read(reply)
            except grpc.RpcError as error:
                failure = from_rpc(error, method=call.method)
            time.sleep(attempts.delay_after(failure))

    def _stream(
        self,
        method: StreamMethod[Q, R],
        requests: Iterator[Q],
        window: int,
        timeout_s: float | None,
    ) -> Iterator[Answered[Q, R]]:
        attempts = self._patience.for_stream(timeout_s=timeout_s)
        state = Exchange(method=method, window=window, attempts=attempts)
        return pipeline(self._channel, state, requests)

    def _upsert_stream(
        self,
        requests: Iterator[UpsertRequest],
        window: int,
        timeout_s: float | None,
    ) -> Iterator[UpsertBatch]:
        for answer in self._stream(exchange.UPSERT, requests, window, timeout_s):
            yield wire.upsert_batch_from_proto(
                answer.request, answer.response, method=exchange.UPSERT.name
            )
