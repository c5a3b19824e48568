"""Which candidates become hits: not left out, good enough, the best of their group.

Owns that choice. Pure: rows come in as an argument.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from vecserve_server.collections.hits.fusion import Candidate
from vecserve_server.domain.rows import Hit, Row
from vecserve_server.domain.searching import Wanted
from vecserve_server.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """Hits and the candidates that they were, best first."""

    hits: Sequence[Hit]
    candidates: Sequence[Candidate]
    looked_at: int
    vanished: bool
    """True if a candidate's row was not there any more."""
    reached_min_score: bool
    """True if candidates were left out for their score; all later ones would be."""


def pick(
    candidates: Sequence[Candidate],
    rows: Mapping[int, Row],
    wanted: Wanted,
    *,
    leave_out: Set[str] = frozenset(),
) -> Picked:
    """Choose the hits among candidates that come best first, but for the ids to `leave_out`."""
    hits: list[Hit] = []
    picked: list[Candidate] = []
    groups: set[tuple[str, object]] = set()
    vanished = reached_min_score = False
    for candidate in candidates:
        if len(hits) == wanted.k:
            break
        if wanted.min_score is not None and candidate.score < wanted.min_score:
            reached_min_score = True
            break
        row = rows.get(candidate.seq)
        vanished |= row is None
        if row is None or row.id in leave_out:
            continue
        if wanted.group_by:
            group = group_of(row.payload_json, wanted.group_by)
            if group is None or group in groups:
                continue
            groups.add(group)
        hits.append(_hit(candidate, row, with_payload=wanted.with_payload))
        picked.append(candidate)
    return Picked(
        hits=hits,
        candidates=picked,
        looked_at=len(candidates),
        vanished=vanished,
        reached_min_score=reached_min_score,
    )


def with_texts(picked: Picked, rows: Mapping[int, Row]) -> Picked:
    """Give the hits the texts of their rows, which came with their sources."""
    found = [(hit, rows.get(hit.seq)) for hit in picked.hits]
    hits = [
        replace(hit, text=row.source.text) if row is not None and row.source is not None else hit
        for hit, row in found
    ]
    vanished = picked.vanished or any(row is None for _, row in found)
    return replace(picked, hits=hits, vanished=vanished)


def check_text_bytes(answers: Sequence[Picked], *, limit_bytes: int) -> None:
    """Raise InvalidArgument if the texts of all hits are too large for one reply."""
    texts = (hit.text for picked in answers for hit in picked.hits)
    size_bytes = sum(len(text.encode()) for text in texts if text is not None)
    if size_bytes > limit_bytes:
        raise InvalidArgument(
            "with_text",
            f"the texts of the hits take {size_bytes} bytes; the limit is {limit_bytes}: ask for "
            "fewer hits or queries, or for no texts",
        )


def group_of(payload_json: str, field: str) -> tuple[str, object] | None:
    """Return the JSON scalar at a dotted field with its type, None if there is none."""
    value = json.loads(payload_json)
    for key in field.split("."):
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    if isinstance(value, dict | list):
        return None
    kind = "number" if type(value) in (int, float) else type(value).__name__
    return kind, value


def _hit(candidate: Candidate, row: Row, *, with_payload: bool) -> Hit:
    return Hit(
        id=row.id,
        seq=row.seq,
        score=candidate.score,
        payload_json=row.payload_json if with_payload else None,
    )
