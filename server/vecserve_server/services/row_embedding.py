"""Making a generation's rows: with a model from their texts, or with the vectors that they have.

Owns the order of embedding and the wait for a busy model. Must not know generations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from vecserve_server.collections.rebuilding import MakeRows, copy_row
from vecserve_server.domain.embedding import EmbedOptions, Truncate
from vecserve_server.domain.inputs import Embeddable, Text
from vecserve_server.domain.rows import NewRow, Row, Source
from vecserve_server.domain.vectors import Vectors
from vecserve_server.errors import CapacityError, Draining, FailedPrecondition
from vecserve_server.serving.embedder import Embedder, shorten
from vecserve_server.serving.model_versions import ServedModel

TRIES = 60
WAIT_S = 0.5


def rows_with(embedder: Embedder, served: ServedModel | None, *, dim: int) -> MakeRows:
    """Make rows with a model's vectors of `dim` components; None keeps those that they have."""

    async def copy(rows: Sequence[Row], sources: Mapping[int, Source]) -> Mapping[int, NewRow]:
        return {row.seq: copy_row(row, sources.get(row.seq)) for row in rows}

    async def embed(rows: Sequence[Row], sources: Mapping[int, Source]) -> Mapping[int, NewRow]:
        assert served is not None
        by_options: dict[EmbedOptions, list[Row]] = {}
        for row in rows:
            by_options.setdefault(_options(row, sources), []).append(row)
        vectors: dict[int, Vectors] = {}
        for options, alike in by_options.items():
            for at in range(0, len(alike), embedder.max_inputs):
                some = alike[at : at + embedder.max_inputs]
                inputs = [_input(row, sources[row.seq]) for row in some]
                found = await _patiently(embedder, served, inputs, options, some)
                vectors |= zip((row.seq for row in some), shorten(found, dim), strict=True)
        return {
            row.seq: NewRow(
                id=row.id,
                vector=vectors[row.seq],
                payload_json=row.payload_json,
                source=sources[row.seq],
            )
            for row in rows
        }

    return copy if served is None else embed


_TRUNCATE: Mapping[str, Truncate] = MappingProxyType({"left": "left", "right": "right"})


def _options(row: Row, sources: Mapping[int, Source]) -> EmbedOptions:
    source = sources.get(row.seq)
    if source is None:
        raise FailedPrecondition(
            f"row {row.id!r} keeps no text that another model could embed: it was written as a "
            "vector, or before texts were kept"
        )
    return EmbedOptions(
        prompt_name=source.prompt_name,
        prompt_text=source.prompt_text,
        normalise=True,
        truncate=_TRUNCATE.get(source.truncate),
    )


def _input(row: Row, source: Source) -> Embeddable:
    if source.reference is None:
        return Text(source.text)
    raise FailedPrecondition(
        f"row {row.id!r} was made of {source.reference.modality} that is kept elsewhere"
    )


async def _patiently(
    embedder: Embedder,
    served: ServedModel,
    inputs: Sequence[Embeddable],
    options: EmbedOptions,
    rows: Sequence[Row],
) -> Vectors:
    """Embed inputs; a model that is busy with other calls is asked again for a while."""
    for left in reversed(range(TRIES)):
        try:
            embedded = await embedder.embed(served, inputs, options)
        except CapacityError as error:
            if not left or isinstance(error, Draining):
                raise
            await asyncio.sleep(WAIT_S)
            continue
        for index, problem in embedded.errors.items():
            raise FailedPrecondition(f"row {rows[index].id!r}: {problem}")
        return embedded.vectors
    raise AssertionError("the last try returns or raises")
