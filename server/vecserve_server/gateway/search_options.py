"""What a search request asks for beside its queries.

Owns the reading of SearchOptions. Must not know how searches are done.
"""

from __future__ import annotations

from collections.abc import Mapping

from vecserve.v1 import search_pb2
from vecserve_server.errors import InvalidArgument
from vecserve_server.gateway.filters import read_filter
from vecserve_server.services.fusion import Fusion, ReciprocalRank, WeightedSum
from vecserve_server.services.retrieval import Mode
from vecserve_server.services.searching import SearchOptions

MODES: Mapping[int, Mode] = {
    search_pb2.SEARCH_MODE_UNSPECIFIED: Mode.DENSE,
    search_pb2.SEARCH_MODE_DENSE: Mode.DENSE,
    search_pb2.SEARCH_MODE_LEXICAL: Mode.LEXICAL,
    search_pb2.SEARCH_MODE_HYBRID: Mode.HYBRID,
}
MAX_RANK_CONSTANT = 1000
MAX_WEIGHT = 1000


def read_search_options(message: search_pb2.SearchOptions) -> SearchOptions:
    """Read the options; raise InvalidArgument that names the field and the limit."""
    if message.mode not in MODES:
        raise InvalidArgument("options.mode", f"{message.mode} is not a SearchMode")
    mode = MODES[message.mode]
    if message.HasField("fusion") and mode is not Mode.HYBRID:
        raise InvalidArgument("options.fusion", "goes only with SEARCH_MODE_HYBRID")
    condition = None
    if message.HasField("filter"):
        condition = read_filter("options.filter", message.filter)
    return SearchOptions(
        k=message.k,
        min_score=message.min_score if message.HasField("min_score") else None,
        with_payload=not message.exclude_payload,
        mode=mode,
        condition=condition,
        exact=message.exact,
        group_by=message.group_by,
        fusion=_read_fusion(message.fusion),
        explain=message.explain,
    )


def _read_fusion(message: search_pb2.Fusion) -> Fusion:
    if message.WhichOneof("method") == "weighted_sum":
        return _read_weights(message.weighted_sum)
    constant = message.reciprocal_rank.rank_constant
    if constant > MAX_RANK_CONSTANT:
        raise InvalidArgument(
            "options.fusion.reciprocal_rank.rank_constant",
            f"is {constant}; the limit is {MAX_RANK_CONSTANT}",
        )
    return ReciprocalRank(constant) if constant else ReciprocalRank()


def _read_weights(message: search_pb2.WeightedSum) -> WeightedSum:
    weights = {"dense": message.dense_weight, "lexical": message.lexical_weight}
    for name, weight in weights.items():
        if not 0 <= weight <= MAX_WEIGHT:
            raise InvalidArgument(
                f"options.fusion.weighted_sum.{name}_weight",
                f"is {weight}; 0 to {MAX_WEIGHT} are allowed",
            )
    if not any(weights.values()):
        raise InvalidArgument(
            "options.fusion.weighted_sum", "has no weight above 0; at least one must be"
        )
    return WeightedSum(**weights)
