"""Queries in, hits out.

Owns the search use case: embed what is text, look up what is a row's id, search once for all.
Must not know protocols.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain import Hit, Vectors
from vecserve_server.errors import InvalidArgument, NotFound, RequestError
from vecserve_server.services.catalog import Catalog
from vecserve_server.services.collection import Collection
from vecserve_server.services.collections import Collections
from vecserve_server.services.embedding import EmbeddingService, EmbedOptions, shorten
from vecserve_server.services.indexing import check_dimensions, model_of
from vecserve_server.services.validation import check_count, check_k, check_vector
from vecserve_server.settings import LimitSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryInput:
    """What to look for: a text, a ready vector, or a row to find the like of; or a problem."""

    name: str
    """The field that it stands in, for messages."""
    text: str | None = None
    vector: NDArray[np.generic] | None = None
    row_id: str | None = None
    problem: RequestError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """Which hits to return: see SearchOptions of search.proto."""

    k: int
    min_score: float | None
    with_payload: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """Hits for each query that could be answered, an error for each other one."""

    hits: Mapping[int, Sequence[Hit]]
    errors: Mapping[int, RequestError]
    queue_us: int
    tokenise_us: int
    encode_us: int
    search_us: int


@dataclass(slots=True, kw_only=True)
class _Resolved:
    """Queries as unit vectors, by their index."""

    vectors: dict[int, Vectors]
    errors: dict[int, RequestError]
    queue_us: int = 0
    tokenise_us: int = 0
    encode_us: int = 0


class SearchingService:
    """Search collections. Loop only."""

    def __init__(
        self,
        *,
        collections: Collections,
        embedding: EmbeddingService,
        catalog: Catalog,
        limits: LimitSettings,
    ) -> None:
        self._collections = collections
        self._embedding = embedding
        self._catalog = catalog
        self._limits = limits

    async def search(
        self,
        collection_name: str,
        queries: Sequence[QueryInput],
        options: SearchOptions,
        embed_options: EmbedOptions,
        *,
        deadline_ns: int | None = None,
    ) -> Searched:
        """Answer the queries; a bad one fails alone.

        Raises NotFound for the collection, InvalidArgument for the batch or an option,
        FailedPrecondition if texts would be embedded by another model than the rows were.
        """
        self._collections.get(collection_name)
        check_count("queries", len(queries), limit=self._limits.max_items_per_call)
        k = check_k("options.k", options.k, limit=self._limits.max_k)
        if len(queries) * k > self._limits.max_hits_per_call:
            raise InvalidArgument(
                "options.k",
                f"times {len(queries)} queries is {len(queries) * k}; "
                f"the limit is {self._limits.max_hits_per_call}",
            )
        _check_min_score(options.min_score)
        return await self._collections.using(
            collection_name,
            lambda collection: self._search(
                collection, queries, replace(options, k=k), embed_options, deadline_ns
            ),
        )

    async def _search(
        self,
        collection: Collection,
        queries: Sequence[QueryInput],
        options: SearchOptions,
        embed_options: EmbedOptions,
        deadline_ns: int | None,
    ) -> Searched:
        resolved = await self._resolve(collection, queries, embed_options, deadline_ns)
        hits: dict[int, Sequence[Hit]] = {}
        search_us = 0
        order = sorted(resolved.vectors)
        if order:
            found = await collection.search(
                np.stack([resolved.vectors[index] for index in order]),
                options.k,
                min_score=options.min_score,
                with_payload=options.with_payload,
                leave_out=[queries[index].row_id for index in order],
            )
            hits = dict(zip(order, found.hits, strict=True))
            search_us = found.search_us
        return Searched(
            hits=hits,
            errors=resolved.errors,
            queue_us=resolved.queue_us,
            tokenise_us=resolved.tokenise_us,
            encode_us=resolved.encode_us,
            search_us=search_us,
        )

    async def _resolve(
        self,
        collection: Collection,
        queries: Sequence[QueryInput],
        options: EmbedOptions,
        deadline_ns: int | None,
    ) -> _Resolved:
        resolved = _Resolved(vectors={}, errors={})
        texts = {i: query.text for i, query in enumerate(queries) if query.text is not None}
        if texts:
            names = [f"{queries[index].name}.text" for index in texts]
            await self._embed(collection, texts, names, options, deadline_ns, resolved)
        dim = collection.spec.dim
        for index, query in enumerate(queries):
            try:
                if query.problem is not None:
                    raise query.problem
                if query.vector is not None:
                    name = f"{query.name}.vector"
                    resolved.vectors[index] = check_vector(name, query.vector, dim=dim)
                elif query.row_id is not None:
                    resolved.vectors[index] = await _row_vector(collection, query)
            except RequestError as error:
                resolved.errors[index] = error
        return resolved

    async def _embed(
        self,
        collection: Collection,
        texts: Mapping[int, str],
        names: Sequence[str],
        options: EmbedOptions,
        deadline_ns: int | None,
        resolved: _Resolved,
    ) -> None:
        served = model_of(collection.spec, self._catalog)
        check_dimensions(options, collection.spec)
        embedded = await self._embedding.embed_with(
            served,
            list(texts.values()),
            replace(options, normalise=True),  # collections hold unit vectors
            names=names,
            deadline_ns=deadline_ns,
        )
        vectors = shorten(embedded.vectors, collection.spec.dim)
        for position, index in enumerate(texts):
            if position in embedded.errors:
                resolved.errors[index] = embedded.errors[position]
            else:
                resolved.vectors[index] = vectors[position]
        resolved.queue_us = embedded.queue_us
        resolved.tokenise_us = embedded.tokenise_us
        resolved.encode_us = embedded.encode_us


async def _row_vector(collection: Collection, query: QueryInput) -> Vectors:
    row_id = query.row_id or ""
    row = (await collection.get([row_id], with_vectors=True)).get(row_id)
    if row is None or row.vector is None:
        raise NotFound(f"{query.name}.row_id: {row_id!r} does not exist")
    return check_vector(f"{query.name}.row_id", row.vector, dim=collection.spec.dim)


def _check_min_score(min_score: float | None) -> None:
    if min_score is not None and not -1 <= min_score <= 1:
        raise InvalidArgument("options.min_score", f"is {min_score}; -1 to 1 are allowed")
