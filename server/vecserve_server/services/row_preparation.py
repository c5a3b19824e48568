"""Rows as callers give them, made ready to be embedded and written.

Owns what a row may hold, and what is kept of what it was made of. Pure; must not know models or
files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vecserve_server.domain.collections import CollectionSpec
from vecserve_server.domain.embedding import EmbedOptions
from vecserve_server.domain.inputs import Embeddable, Input, ReadyVector, Reference, Text
from vecserve_server.domain.rows import NewRow, Source
from vecserve_server.domain.timings import Timings
from vecserve_server.domain.validation import check_id, check_payload, check_vector
from vecserve_server.errors import InvalidArgument, RequestError
from vecserve_server.settings.settings import LimitSettings

NO_VECTOR = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowInput:
    """A row as the caller gives it."""

    id: str
    content: Input | None
    payload_json: str
    reference: Reference | None = None
    """Where the content lies, if it is no text."""
    expected_seq: int | None = None
    """Write only if the row's seq is this one; 0: only if there is no such row."""
    problem: RequestError | None = None
    """Why the row could not be read; it fails with this."""


@dataclass(slots=True, kw_only=True)
class PreparedRows:
    """The rows of a call on their way to the writer, by their place."""

    rows: dict[int, NewRow] = field(default_factory=dict)
    errors: dict[int, RequestError] = field(default_factory=dict)
    inputs: dict[int, Embeddable] = field(default_factory=dict)
    payloads: dict[int, str] = field(default_factory=dict)
    """Of the rows in `inputs`."""
    unchanged: dict[int, int] = field(default_factory=dict)
    """The seq of each row that is left alone."""
    timings: Timings = field(default_factory=Timings)


def prepare(spec: CollectionSpec, rows: Sequence[RowInput], limits: LimitSettings) -> PreparedRows:
    """Check rows, and tell those that are to be embedded from those that are ready. Any thread."""
    prepared = PreparedRows()
    for index, row in enumerate(rows):
        try:
            payload = _check(index, row, limits)
            if isinstance(row.content, ReadyVector):
                name = ("rows", index, "vector")
                unit = check_vector(name, row.content.values, dim=spec.dim)
                prepared.rows[index] = NewRow(id=row.id, vector=unit, payload_json=payload)
            elif row.content is not None:
                prepared.inputs[index] = row.content
                prepared.payloads[index] = payload
        except RequestError as error:
            prepared.errors[index] = error
    return prepared


def _check(index: int, row: RowInput, limits: LimitSettings) -> str:
    if row.problem is not None:
        raise row.problem
    check_id(("rows", index, "id"), row.id, limit_bytes=limits.max_id_bytes)
    if row.content is None:
        raise InvalidArgument(("rows", index), "has no content; text or vector must be set")
    return check_payload(
        ("rows", index, "payload_json"),
        row.payload_json,
        limit_bytes=limits.max_payload_bytes,
    )


def by_their_sources(
    rows: Sequence[RowInput], options: EmbedOptions, prepared: PreparedRows
) -> Mapping[int, NewRow]:
    """Make of inputs what would be stored, but for the vectors."""
    return {
        index: NewRow(
            id=rows[index].id,
            vector=NO_VECTOR,
            payload_json=prepared.payloads[index],
            source=source,
        )
        for index in prepared.inputs
        if (source := source_of(rows[index], options)) is not None
    }


def source_of(row: RowInput, options: EmbedOptions) -> Source | None:
    """Tell what another model could embed the row of; None: there is nothing that is kept."""
    text = row.content.text if isinstance(row.content, Text) else ""
    if not isinstance(row.content, Text) and row.reference is None:
        return None
    return Source(
        text=text,
        reference=row.reference,
        prompt_name=options.prompt_name,
        prompt_text=options.prompt_text,
        truncate=options.truncate if options.truncate in ("left", "right") else "",
    )
