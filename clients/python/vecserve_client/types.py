"""What callers hand to the client and get back: plain, frozen data.

Owns the client's nouns. Must not know gRPC, protobuf or how anything travels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecserve_client.errors import VecserveError

Vectors: TypeAlias = NDArray[np.float32]
"""Row vectors, float32 [N, D], or one vector, float32 [D]."""

Payload: TypeAlias = Mapping[str, Any]
"""A JSON object."""

Encoding: TypeAlias = Literal["f32", "f16", "int8", "binary"]
"""Layout of vectors on the wire."""

Truncation: TypeAlias = Literal["right", "left", "error"]
"""What to do with a text that is too long: keep its beginning, keep its end, or fail."""


FieldType: TypeAlias = Literal["keyword", "text", "integer", "number", "boolean", "datetime"]
"""Type of the values of a declared payload field."""

FieldTypes: TypeAlias = Mapping[str, FieldType]
"""Types of payload fields, by their dotted names."""

Tokeniser: TypeAlias = Literal["words", "trigram"]
"""How texts are cut into terms for lexical search."""

Stemming: TypeAlias = Literal["none", "porter"]
"""Which word endings are removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """How to embed; at most one of `prompt_name` and `prompt_text` is set."""

    prompt_name: str | None = None
    prompt_text: str | None = None
    dimensions: int = 0
    """Components to keep; 0: all."""
    skip_normalise: bool = False
    truncation: Truncation | None = None
    """What to do with a text that is too long; None: as the model is configured."""
    encoding: Encoding = "f32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A row to write: an id, one of `text`, `vector`, `image` and `audio`, and a payload."""

    id: str
    text: str | None = None
    vector: Vectors | None = None
    image: bytes | None = None
    audio: bytes | None = None
    payload: Payload = field(default_factory=dict)
    expected_seq: int | None = None
    """Write only if the row's current seq is this one; 0: only if the row does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """How long each stage of a request took inside the server, in microseconds."""

    queue_us: int = 0
    tokenise_us: int = 0
    encode_us: int = 0
    search_us: int = 0
    write_us: int = 0
    total_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """The weights that produced a vector; compare vectors only within one `ModelRef`."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResult:
    """The vectors of a list of texts, in the order of the texts."""

    vectors: Vectors
    """float32 [N, D]; NaN in the rows of `errors`. Binary vectors come as -1 and 1."""
    tokens: NDArray[np.int64]
    """Tokens encoded for each text, special tokens included, int64 [N]."""
    errors: Mapping[int, VecserveError]
    """Why a text failed, by its position."""
    model: ModelRef
    timings: tuple[Timings, ...]
    """One for each request that the list was split into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpsertResult:
    """The results for the rows of one upsert."""

    seqs: tuple[int, ...]
    """Sequence numbers in the order of the rows; 0 for the rows of `errors`."""
    errors: Mapping[int, VecserveError]
    """Why a row failed, by its position."""
    timings: tuple[Timings, ...]
    """One for each request that the rows were split into."""
    unchanged: frozenset[int] = frozenset()
    """Positions of rows that `skip_unchanged` skipped; `seqs` has their current seqs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpsertBatch:
    """An acknowledged part of a longer upsert; its rows are on disk."""

    start: int
    """Position of the batch's first row among all rows."""
    ids: tuple[str, ...]
    result: UpsertResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row as stored; `vector` is float32 [D] if `include_vector` was set."""

    id: str
    seq: int
    payload: dict[str, Any] | None
    vector: Vectors | None
    text: str | None = None
    """The row's text, if `with_text` was set and the row keeps its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetResult:
    """The rows that exist, in the order of the ids, and the ids that do not."""

    rows: tuple[Row, ...]
    missing_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A row that answers a query.

    `score` is the cosine, -1 to 1, in mode "dense"; BM25, above 0, in "lexical"; the fused score
    in "hybrid".
    """

    id: str
    score: float
    seq: int
    payload: dict[str, Any] | None
    text: str | None = None
    """The row's text, if `with_text` was set and the row keeps its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The hits of one query, best first."""

    hits: tuple[Hit, ...]
    timings: Timings
    """Of the request, which may contain other queries too."""
    explain: dict[str, Any] | None = None
    error: VecserveError | None = None
    """Why this query of a batch failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """The payload fields that a collection has indexes for."""

    types: Mapping[str, FieldType] = field(default_factory=dict)
    """By the field's dotted name."""
    tokeniser: Tokeniser = "words"
    """For the fields of type "text"."""
    stemming: Stemming = "none"
    """For the fields of type "text"; "porter" removes English endings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScore:
    """How well one label fits, 0 to 1; the sum over a query's labels is at most 1."""

    label: str
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """The label of a query, its scores and the rows that voted."""

    label: str | None
    """None: out of scope."""
    scores: tuple[LabelScore, ...]
    """Best first."""
    neighbours: tuple[Hit, ...]
    """The rows that voted, best first."""
    timings: Timings

    @property
    def out_of_scope(self) -> bool:
        """True if no label reaches `min_confidence`."""
        return self.label is None


CollectionState: TypeAlias = Literal["serving", "degraded", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A collection as it is now."""

    name: str
    model: ModelRef
    dim: int
    row_count: int
    last_seq: int
    created_unix_ms: int
    disk_bytes: int
    memory_bytes: int
    fields: Fields = field(default_factory=Fields)
    keeps_text: bool = True
    generation: int = 0
    reindex_id: str = ""
    state: CollectionState = "serving"
    """down: the files were removed or replaced, and nothing is written."""
    state_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that the server has loaded."""

    ref: ModelRef
    dim: int
    max_tokens: int
    precision: str
    engine: str
    instance_count: int
    is_default: bool
    prompt_names: tuple[str, ...]


ReindexState: TypeAlias = Literal["running", "evaluating", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reindex:
    """The progress of a re-index."""

    collection: str
    model: ModelRef
    """The model of the new generation."""
    state: ReindexState
    done_rows: int
    total_rows: int
    message: str
    """Why the re-index failed."""
    self_hit_rate: float
    """Share of the sampled rows that a search with their own new vector finds."""
    overlap_at_10: float
    """Share of common rows among the ten nearest before and after, mean over the sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A consistent copy of a collection on the server's disk."""

    name: str
    collection: str
    size_bytes: int
    last_seq: int
    """Highest sequence number in the snapshot."""
    problem: str = ""
    """Why the server cannot restore the snapshot, and what to do. Empty: it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a check of a whole collection found."""

    row_count: int
    problems: tuple[str, ...]
    """One sentence for each problem. After a repair: the problems that remain."""
    repaired: tuple[str, ...] = ()
    """Problems that the repair fixed."""
    has_damaged_rows: bool = False
    """True if rows or their texts differ from what was written; then nothing is repaired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """A second name of a collection."""

    name: str
    collection: str
