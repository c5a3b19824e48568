"""What a collection is.

Owns plain, frozen data. Must not know how rows are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vecserve_server.domain.vectors import ModelRef


class FieldType(StrEnum):
    """What the values of a declared payload field are."""

    KEYWORD = "keyword"
    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATETIME = "datetime"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSpec:
    """A payload field that has an index: its dotted name and the type of its values."""

    name: str
    type: FieldType


class Tokeniser(StrEnum):
    """How texts are cut into terms."""

    WORDS = "words"
    TRIGRAM = "trigram"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextAnalysis:
    """How a collection's text fields are searched."""

    tokeniser: Tokeniser = Tokeniser.WORDS
    porter: bool = False
    """Cut off English endings."""


class CollectionState(StrEnum):
    """What may be done with a collection."""

    SERVING = "serving"
    DEGRADED = "degraded"
    """It is read and written, but something must be mended."""
    DOWN = "down"
    """Nothing is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSpec:
    """What a collection is. A re-index changes its model and dim, nothing else changes."""

    name: str
    model: ModelRef
    dim: int
    created_unix_ms: int
    fields: tuple[FieldSpec, ...] = ()
    text_analysis: TextAnalysis = TextAnalysis()
    keep_text: bool = True
    """Whether rows keep the text that they were made of, without which none can be re-indexed."""

    @property
    def has_text_fields(self) -> bool:
        """True if lexical search has something to search."""
        return any(field.type is FieldType.TEXT for field in self.fields)
