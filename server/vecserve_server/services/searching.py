"""Queries in, hits out.

Owns the search use case: embed what is text, look up what is a row's id, search once for all.
Must not know protocols.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vecserve_server.collections.collection import Collection
from vecserve_server.collections.collections import Collections
from vecserve_server.collections.hits.retrieval import Asked
from vecserve_server.domain.caller import Caller
from vecserve_server.domain.collections import CollectionSpec
from vecserve_server.domain.embedding import EmbedOptions
from vecserve_server.domain.inputs import Input, ReadyVector, Text
from vecserve_server.domain.searching import Mode, QueryHits, Searched, Wanted
from vecserve_server.domain.timings import Timings
from vecserve_server.domain.validation import check_count, check_field_name, check_k, check_vector
from vecserve_server.domain.vectors import Vectors
from vecserve_server.errors import (
    FailedPrecondition,
    FieldPath,
    InvalidArgument,
    NotFound,
    RequestError,
)
from vecserve_server.services.collection_vectors import CollectionEmbedder, NamedInput
from vecserve_server.settings.settings import LimitSettings

MAX_LEXICAL_TEXT_BYTES = 4096
MAX_ROW_IDS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryInput:
    """What to look for: an input, or rows to find the like of; or a problem."""

    name: FieldPath
    """The field that it stands in, for messages."""
    content: Input | None = None
    row_ids: tuple[str, ...] = ()
    lexical_text: str = ""
    """Words for the lexical side, where they are not the text."""
    problem: RequestError | None = None

    @property
    def words(self) -> str:
        """What the lexical side looks for. Empty: nothing."""
        text = self.content.text if isinstance(self.content, Text) else ""
        return self.lexical_text or text


@dataclass(slots=True, kw_only=True)
class _Resolved:
    """Queries as unit vectors, by their index."""

    vectors: dict[int, Vectors] = field(default_factory=dict)
    errors: dict[int, RequestError] = field(default_factory=dict)
    timings: Timings = field(default_factory=Timings)


class SearchingService:
    """Search collections. Loop only."""

    def __init__(
        self,
        *,
        collections: Collections,
        embedder: CollectionEmbedder,
        limits: LimitSettings,
    ) -> None:
        self._collections = collections
        self._embedder = embedder
        self._limits = limits

    async def search(
        self,
        collection_name: str,
        queries: Sequence[QueryInput],
        wanted: Wanted,
        embed_options: EmbedOptions,
        caller: Caller,
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
            lambda collection: self._search(collection, queries, wanted, embed_options, caller),
        )

    async def _search(
        self,
        collection: Collection,
        queries: Sequence[QueryInput],
        wanted: Wanted,
        embed_options: EmbedOptions,
        caller: Caller,
    ) -> Searched:
        resolved = await self._resolve(collection, queries, wanted.mode, embed_options, caller)
        asked = {
            index: Asked(
                vector=resolved.vectors.get(index),
                text=query.words,
                leave_out=frozenset(query.row_ids),
            )
            for index, query in enumerate(queries)
            if index not in resolved.errors
        }
        answers: Mapping[int, QueryHits] = {}
        search_ns = 0
        if asked:
            found = await collection.retrieve(
                list(asked.values()), wanted, deadline_ns=caller.deadline_ns
            )
            answers = dict(zip(asked, found.answers.values(), strict=True))
            search_ns = found.timings.search_ns
        return Searched(
            answers=answers,
            errors=resolved.errors,
            timings=resolved.timings._replace(search_ns=search_ns),
        )

    def _checked(self, wanted: Wanted, spec: CollectionSpec, query_count: int) -> Wanted:
        check_count("queries", query_count, limit=self._limits.max_items_per_call)
        k = check_k(("options", "k"), wanted.k, limit=self._limits.max_k)
        if query_count * k > self._limits.max_hits_per_call:
            raise InvalidArgument(
                ("options", "k"),
                f"times {query_count} queries is {query_count * k}; "
                f"the limit is {self._limits.max_hits_per_call}",
            )
        _check_min_score(wanted)
        if wanted.group_by:
            check_field_name(("options", "group_by"), wanted.group_by)
        if wanted.mode is not Mode.DENSE and not spec.has_text_fields:
            raise FailedPrecondition(
                f"collection {spec.name!r} declares no field of type TEXT; "
                "only DENSE can be searched",
                field=("options", "mode"),
            )
        return replace(wanted, k=k)

    async def _resolve(
        self,
        collection: Collection,
        queries: Sequence[QueryInput],
        mode: Mode,
        embed_options: EmbedOptions,
        caller: Caller,
    ) -> _Resolved:
        resolved = _Resolved()
        for index, query in enumerate(queries):
            try:
                _check_query(query, mode)
            except RequestError as error:
                resolved.errors[index] = error
        good = {i: query for i, query in enumerate(queries) if i not in resolved.errors}
        inputs = {i: item for i, query in good.items() if (item := _to_embed(query, mode))}
        if inputs:
            embedded = await self._embedder.embed(collection.spec, inputs, embed_options, caller)
            resolved.vectors |= embedded.vectors
            resolved.errors |= embedded.errors
            resolved.timings = embedded.timings
        if mode is Mode.LEXICAL:
            return resolved
        for index, query in good.items():
            if index not in inputs:
                try:
                    resolved.vectors[index] = await _ready_vector(collection, query)
                except RequestError as error:
                    resolved.errors[index] = error
        return resolved


def _to_embed(query: QueryInput, mode: Mode) -> NamedInput | None:
    content = query.content
    if content is None or isinstance(content, ReadyVector):
        return None
    if mode is Mode.LEXICAL and isinstance(content, Text):
        return None  # its words are all that is looked for
    return NamedInput(name=(*query.name, content.modality.value), content=content)


async def _ready_vector(collection: Collection, query: QueryInput) -> Vectors:
    dim = collection.spec.dim
    if isinstance(query.content, ReadyVector):
        return check_vector((*query.name, "vector"), query.content.values, dim=dim)
    name = (*query.name, "row_id" if len(query.row_ids) == 1 else "row_ids")
    rows = await collection.get(query.row_ids, with_vectors=True)
    if missing := [row_id for row_id in query.row_ids if row_id not in rows]:
        raise NotFound(f"{missing[0]!r} does not exist", field=name)
    vectors = [row.vector for row in rows.values() if row.vector is not None]
    return check_vector(name, np.asarray(np.mean(vectors, axis=0, dtype=np.float64)), dim=dim)


def _check_query(query: QueryInput, mode: Mode) -> None:
    if query.problem is not None:
        raise query.problem
    size_bytes = len(query.lexical_text.encode())
    if size_bytes > MAX_LEXICAL_TEXT_BYTES:
        raise InvalidArgument(
            (*query.name, "lexical_text"),
            f"has {size_bytes} bytes; the limit is {MAX_LEXICAL_TEXT_BYTES}",
        )
    if mode is Mode.DENSE and query.lexical_text:
        raise InvalidArgument((*query.name, "lexical_text"), "is not allowed in mode DENSE")
    if mode is not Mode.DENSE and not query.words:
        raise InvalidArgument(
            (*query.name, "lexical_text"), f"is empty, and so is text; mode {mode.name} needs words"
        )
    if query.content is None:
        count = len(query.row_ids)
        if not 1 <= count <= MAX_ROW_IDS or count != len(set(query.row_ids)):
            raise InvalidArgument(
                (*query.name, "row_ids"),
                f"has {count}; 1 to {MAX_ROW_IDS} different ids are allowed",
            )


def _check_min_score(wanted: Wanted) -> None:
    score = wanted.min_score
    if score is None:
        return
    if wanted.mode is Mode.DENSE and not -1 <= score <= 1:
        raise InvalidArgument(("options", "min_score"), f"is {score}; -1 to 1 are allowed")
    if not math.isfinite(score):
        raise InvalidArgument(("options", "min_score"), f"is {score}; it must be finite")
