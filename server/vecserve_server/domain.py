"""The nouns that every layer shares.

Owns plain, frozen data. Must not know protocols, threads, files or any library but NumPy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Names of collections and aliases; fit for a folder."""

MODEL_NAME_PATTERN = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")
"""Names of models, at import, at load and in the index; fit for a folder."""

MODEL_NAME_RULE = "a model's name is 1 to 128 of A-Z a-z 0-9 . _ -, the first not a dot"

MODEL_CONFIG_FILE = "config.pbtxt"
"""What a model's folder calls its configuration: Triton's ModelConfig as text."""

SHIPPED_MODEL = "all-MiniLM-L6-v2"
"""The text encoder that `vecserve models add default` brings, and that is served by default."""

Vectors: TypeAlias = NDArray[np.float32]
"""Row vectors, float32 [N, D]."""

Codes: TypeAlias = NDArray[np.int8]
"""Quantised row vectors, int8 [N, D]."""

TokenIds: TypeAlias = NDArray[np.int64]
"""The token ids of one sequence, special tokens included, int64 [T]."""

Norms: TypeAlias = NDArray[np.float32]
"""Lengths of vectors, float32 [N]."""


class Encodings(NamedTuple):
    """Unit vectors [N, D] and the lengths [N] that they had before they were scaled."""

    vectors: Vectors
    norms: Norms


Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Payload: TypeAlias = Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """Which weights made a vector: vectors compare only within one `ModelRef`."""

    name: str
    version: str
    digest: str
    """Hex sha256 of the model file that runs; of the files' digests where there are two."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a row's vector was made of: a text, and how it was embedded."""

    text: str
    prompt_name: str = ""
    prompt_text: str = ""
    truncate: str = ""
    """The end that a text loses that is too long: `left` or `right`; empty: as the model says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRow:
    """A row to write: `vector` is float32 [D] with norm 1."""

    id: str
    vector: Vectors
    payload_json: str
    """A JSON object, UTF-8, already validated."""
    source: Source | None = None
    """None if the caller gave a vector, or the collection keeps no texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row as stored: `vector` is float16 [D], or None when it was not asked for."""

    seq: int
    id: str
    vector: NDArray[np.float16] | None
    payload_json: str
    source: Source | None = None
    """None when it was not asked for, or the row keeps none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One answer of a search; `score` is the true cosine in [-1, 1], BM25, or both fused."""

    id: str
    seq: int
    score: float
    payload_json: str | None
    text: str | None = None
    """None when it was not asked for, or the row keeps none."""
