"""A query's label, by the vote of its nearest rows.

Owns the classify use case: search, read the labels, vote, decide what is out of scope. Must not
know protocols, nor how rows are found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from vecserve_server.domain.caller import Caller
from vecserve_server.domain.embedding import EmbedOptions
from vecserve_server.domain.rows import Hit, Json
from vecserve_server.domain.searching import Searched, Wanted
from vecserve_server.domain.validation import MAX_FIELD_BYTES, check_k
from vecserve_server.errors import InvalidArgument
from vecserve_server.services.searching import QueryInput, SearchingService
from vecserve_server.services.voting import Ballot, LabelScore, vote
from vecserve_server.settings.settings import ClassifySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified:
    """The labels of the neighbours, best first, and the neighbours that voted."""

    scores: Sequence[LabelScore]
    neighbours: Sequence[Hit]
    min_confidence: float
    searched: Searched
    """Where the time went."""

    @property
    def label(self) -> str | None:
        """The best label, None if the query is out of scope."""
        if not self.scores or self.scores[0].confidence < self.min_confidence:
            return None
        return self.scores[0].label


class ClassifyingService:
    """Label queries. Loop only."""

    def __init__(
        self, *, searching: SearchingService, settings: ClassifySettings, max_k: int
    ) -> None:
        self._searching = searching
        self._min_confidence = settings.min_confidence
        self._ballot = Ballot(temperature=settings.temperature, scope_cosine=settings.scope_cosine)
        self._max_k = max_k

    async def classify(
        self,
        collection: str,
        query: QueryInput,
        embed_options: EmbedOptions,
        caller: Caller,
        *,
        label_field: str,
        k: int,
        min_confidence: float | None,
        with_text: bool = False,
    ) -> Classified:
        """Let the `k` nearest rows vote, 0 asking for the default; rows without a label do not.

        Raises InvalidArgument, and what the search raises.
        """
        threshold = self._min_confidence if min_confidence is None else min_confidence
        _check(label_field, threshold)
        wanted = Wanted(k=check_k("k", k, limit=self._max_k), with_text=with_text)
        searched = await self._searching.search(collection, [query], wanted, embed_options, caller)
        if searched.errors:
            raise searched.errors[0]
        hits = searched.answers[0].hits
        labelled = [(hit, label_of(hit.payload_json, label_field)) for hit in hits]
        return Classified(
            scores=vote(
                [(label, hit.score) for hit, label in labelled if label is not None], self._ballot
            ),
            neighbours=[hit for hit, label in labelled if label is not None],
            min_confidence=threshold,
            searched=searched,
        )


def label_of(payload_json: str | None, field: str) -> str | None:
    """Read a label: a string, number or boolean; None if the field holds nothing of that kind.

    A dot in `field` reaches into an object, unless a key has that very name.
    """
    value: Json = json.loads(payload_json or "{}")
    if isinstance(value, dict) and field in value:
        value = value[field]
    else:
        for key in field.split("."):
            value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, bool | int | float) else None


def _check(label_field: str, min_confidence: float) -> None:
    size_bytes = len(label_field.encode())
    if not 1 <= size_bytes <= MAX_FIELD_BYTES:
        raise InvalidArgument(
            "label_field", f"has {size_bytes} bytes; 1 to {MAX_FIELD_BYTES} are allowed"
        )
    if not 0 <= min_confidence <= 1:
        raise InvalidArgument("min_confidence", f"is {min_confidence}; 0 to 1 are allowed")
