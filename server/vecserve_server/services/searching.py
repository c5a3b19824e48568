"""Queries in, hits out.

Owns the search use case: embed what is text, look up what is a row's id, search once for all.
Must not know protocols.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vecserve_server.collections.collection import Collection
from vecserve_server.collections.collections import Collections
from vecserve_server.collections.retrieval import Answer, Asked, Mode, Wanted
from vecserve_server.domain.collections import CollectionSpec
from vecserve_server.domain.validation import check_count, check_field_name, check_k, check_vector
from vecserve_server.domain.vectors import Vectors
from vecserve_server.errors import FailedPrecondition, InvalidArgument, NotFound, RequestError
from vecserve_server.services.indexing import check_dimensions, model_of
from vecserve_server.serving.catalog import Catalog
from vecserve_server.serving.embedding import EmbeddingService, EmbedOptions, shorten
from vecserve_server.settings.settings import LimitSettings

MAX_LEXICAL_TEXT_BYTES = 4096
MAX_ROW_IDS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryInput:
    """What to look for: a text, a ready vector, or rows to find the like of; or a problem."""

    name: str
    """The field that it stands in, for messages."""
    text: str | None = None
    vector: NDArray[np.generic] | None = None
    row_ids: tuple[str, ...] = ()
    lexical_text: str = ""
    """Words for the lexical side, where they are not the text."""
    problem: RequestError | None = None

    @property
    def words(self) -> str:
        """What the lexical side looks for. Empty: nothing."""
        return self.lexical_text or self.text or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """An answer for each query that could be answered, an error for each other one."""

    answers: Mapping[int, Answer]
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
        wanted: Wanted,
        embed_options: EmbedOptions,
        *,
        deadline_ns: int | None = None,
    ) -> Searched:
        """Answer the queries; a bad one fails alone. A `k` of 0 asks for the default.

        Raises NotFound for the collection, InvalidArgument for the batch or an option,
        FailedPrecondition if texts would be embedded by another model than the rows were, or if
        the collection has no words to search.
        """
        found = self._collections.get(collection_name)
        wanted = self._checked(wanted, found.spec, len(queries))
        return await self._collections.using(
            collection_name,
            lambda collection: self._search(
                collection, queries, wanted, embed_options, deadline_ns
            ),
        )

    async def _search(
        self,
        collection: Collection,
        queries: Sequence[QueryInput],
        wanted: Wanted,
        embed_options: EmbedOptions,
        deadline_ns: int | None,
    ) -> Searched:
        resolved = await self._resolve(collection, queries, wanted.mode, embed_options, deadline_ns)
        asked = {
            index: Asked(
                vector=resolved.vectors.get(index),
                text=query.words,
                leave_out=frozenset(query.row_ids),
            )
            for index, query in enumerate(queries)
            if index not in resolved.errors
        }
        answers: Sequence[Answer] = ()
        search_us = 0
        if asked:
            found = await collection.retrieve(list(asked.values()), wanted, deadline_ns=deadline_ns)
            answers, search_us = found.answers, found.search_us
        return Searched(
            answers=dict(zip(asked, answers, strict=True)),
            errors=resolved.errors,
            queue_us=resolved.queue_us,
            tokenise_us=resolved.tokenise_us,
            encode_us=resolved.encode_us,
            search_us=search_us,
        )

    def _checked(self, wanted: Wanted, spec: CollectionSpec, query_count: int) -> Wanted:
        check_count("queries", query_count, limit=self._limits.max_items_per_call)
        k = check_k("options.k", wanted.k, limit=self._limits.max_k)
        if query_count * k > self._limits.max_hits_per_call:
            raise InvalidArgument(
                "options.k",
                f"times {query_count} queries is {query_count * k}; "
                f"the limit is {self._limits.max_hits_per_call}",
            )
        _check_min_score(wanted)
        if wanted.group_by:
            check_field_name("options.group_by", wanted.group_by)
        if wanted.mode is not Mode.DENSE and not spec.has_text_fields:
            raise FailedPrecondition(
                f"options.mode: collection {spec.name!r} declares no field of type TEXT; "
                "only DENSE can be searched"
            )
        return replace(wanted, k=k)

    async def _resolve(
        self,
        collection: Collection,
        queries: Sequence[QueryInput],
        mode: Mode,
        embed_options: EmbedOptions,
        deadline_ns: int | None,
    ) -> _Resolved:
        resolved = _Resolved(vectors={}, errors={})
        for index, query in enumerate(queries):
            try:
                _check_query(query, mode)
            except RequestError as error:
                resolved.errors[index] = error
        if mode is Mode.LEXICAL:
            return resolved
        texts = {
            index: query.text
            for index, query in enumerate(queries)
            if query.text is not None and index not in resolved.errors
        }
        if texts:
            names = [f"{queries[index].name}.text" for index in texts]
            await self._embed(collection, texts, names, embed_options, deadline_ns, resolved)
        for index, query in enumerate(queries):
            if query.text is None and index not in resolved.errors:
                try:
                    resolved.vectors[index] = await _ready_vector(collection, query)
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


async def _ready_vector(collection: Collection, query: QueryInput) -> Vectors:
    dim = collection.spec.dim
    if query.vector is not None:
        return check_vector(f"{query.name}.vector", query.vector, dim=dim)
    name = f"{query.name}.row_id" if len(query.row_ids) == 1 else f"{query.name}.row_ids"
    rows = await collection.get(query.row_ids, with_vectors=True)
    if missing := [row_id for row_id in query.row_ids if row_id not in rows]:
        raise NotFound(f"{name}: {missing[0]!r} does not exist")
    vectors = [row.vector for row in rows.values() if row.vector is not None]
    return check_vector(name, np.asarray(np.mean(vectors, axis=0, dtype=np.float64)), dim=dim)


def _check_query(query: QueryInput, mode: Mode) -> None:
    if query.problem is not None:
        raise query.problem
    size_bytes = len(query.lexical_text.encode())
    if size_bytes > MAX_LEXICAL_TEXT_BYTES:
        raise InvalidArgument(
            f"{query.name}.lexical_text",
            f"has {size_bytes} bytes; the limit is {MAX_LEXICAL_TEXT_BYTES}",
        )
    if mode is Mode.DENSE and query.lexical_text:
        raise InvalidArgument(f"{query.name}.lexical_text", "is not allowed in mode DENSE")
    if mode is not Mode.DENSE and not query.words:
        raise InvalidArgument(
            f"{query.name}.lexical_text", f"is empty, and so is text; mode {mode.name} needs words"
        )
    if query.text is None and query.vector is None:
        count = len(query.row_ids)
        if not 1 <= count <= MAX_ROW_IDS or count != len(set(query.row_ids)):
            raise InvalidArgument(
                f"{query.name}.row_ids",
                f"has {count}; 1 to {MAX_ROW_IDS} different ids are allowed",
            )


def _check_min_score(wanted: Wanted) -> None:
    score = wanted.min_score
    if score is None:
        return
    if wanted.mode is Mode.DENSE and not -1 <= score <= 1:
        raise InvalidArgument("options.min_score", f"is {score}; -1 to 1 are allowed")
    if not math.isfinite(score):
        raise InvalidArgument("options.min_score", f"is {score}; it must be finite")
