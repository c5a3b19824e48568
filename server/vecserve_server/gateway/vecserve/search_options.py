"""What a search request asks for beside its queries.

Owns the reading of SearchOptions. Must not know how searches are done.
"""

from __future__ import annotations

from collections.abc import Mapping

from vecserve.v1 import search_pb2
from vecserve_server.domain.searching import Fusion, Mode, ReciprocalRank, Wanted, WeightedSum
from vecserve_server.errors import FieldPath, InvalidArgument
from vecserve_server.gateway.vecserve.filters import ANY_SIZE, FilterLimits, read_filter

MODES: Mapping[int, Mode] = {
    search_pb2.SEARCH_MODE_UNSPECIFIED: Mode.DENSE,
    search_pb2.SEARCH_MODE_DENSE: Mode.DENSE,
    search_pb2.SEARCH_MODE_LEXICAL: Mode.LEXICAL,
    search_pb2.SEARCH_MODE_HYBRID: Mode.HYBRID,
}
DEFAULT_RANK_CONSTANT = 60
MAX_RANK_CONSTANT = 1000
MAX_WEIGHT = 1000


def read_search_options(
    message: search_pb2.SearchOptions, filter_limits: FilterLimits = ANY_SIZE
) -> Wanted:
    """Read the options; raise InvalidArgument that names the field and the limit."""
    if message.mode not in MODES:
        raise InvalidArgument(("options", "mode"), f"{message.mode} is not a SearchMode")
    mode = MODES[message.mode]
    if message.HasField("fusion") and mode is not Mode.HYBRID:
        raise InvalidArgument(("options", "fusion"), "goes only with SEARCH_MODE_HYBRID")
    condition = None
    if message.HasField("filter"):
        condition = read_filter(("options", "filter"), message.filter, filter_limits)
    return Wanted(
        k=message.k,
        min_score=message.min_score if message.HasField("min_score") else None,
        with_payload=not message.exclude_payload,
        mode=mode,
        condition=condition,
        exact=message.exact,
        group_by=message.group_by,
        fusion=_read_fusion(message.fusion),
        explain=message.explain,
        with_text=message.with_text,
    )


def _read_fusion(message: search_pb2.Fusion) -> Fusion:
    if message.WhichOneof("method") == "weighted_sum":
        sums, field = message.weighted_sum, ("options", "fusion", "weighted_sum")
        _check_weights(field, dense=sums.dense_weight, lexical=sums.lexical_weight)
        return WeightedSum(sums.dense_weight, sums.lexical_weight)
    ranks, field = message.reciprocal_rank, ("options", "fusion", "reciprocal_rank")
    if ranks.rank_constant > MAX_RANK_CONSTANT:
        raise InvalidArgument(
            (*field, "rank_constant"),
            f"is {ranks.rank_constant}; the limit is {MAX_RANK_CONSTANT}",
        )
    dense = ranks.dense_weight if ranks.HasField("dense_weight") else 1.0
    lexical = ranks.lexical_weight if ranks.HasField("lexical_weight") else 1.0
    _check_weights(field, dense=dense, lexical=lexical)
    return ReciprocalRank(ranks.rank_constant or DEFAULT_RANK_CONSTANT, dense, lexical)


def _check_weights(field: FieldPath, **weights: float) -> None:
    for name, weight in weights.items():
        if not 0 <= weight <= MAX_WEIGHT:
            raise InvalidArgument(
                (*field, f"{name}_weight"), f"is {weight}; 0 to {MAX_WEIGHT} are allowed"
            )
    if not any(weights.values()):
        raise InvalidArgument(field, "has no weight above 0; at least one must be")
