"""Filters off the wire: what the client writes is what the server reads; the rest is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.storage.payloads import CONDITIONS
from vecserve.v1 import collection_pb2, search_pb2
from vecserve_client import Fields, declarations, filters
from vecserve_client.search_calls import options_to_proto
from vecserve_client.searches import WeightedSum as ClientWeights
from vecserve_server.domain.collections import CollectionSpec, FieldSpec, FieldType, Tokeniser
from vecserve_server.domain.conditions import (
    MAX_CONDITIONS,
    MAX_DEPTH,
    AllOf,
    AnyOf,
    Condition,
    Exists,
    InstantIn,
    Not,
    OneOf,
    StartsWith,
)
from vecserve_server.domain.searching import Mode, WeightedSum
from vecserve_server.domain.vectors import ModelRef
from vecserve_server.errors import InvalidArgument
from vecserve_server.gateway.vecserve.declarations import (
    read_fields,
    read_text_analysis,
    write_declaration,
)
from vecserve_server.gateway.vecserve.filters import read_filter
from vecserve_server.gateway.vecserve.search_options import read_search_options

UNSET: tuple[Any, Any] = ("words", "none")


def parsed(text: str) -> search_pb2.Filter:
    return text_format.Parse(text, search_pb2.Filter())


def written(condition: Condition) -> search_pb2.Filter:
    """Write a condition with the client."""
    if isinstance(condition, AllOf):
        return filters.all_of(*map(written, condition.parts))
    if isinstance(condition, AnyOf):
        return filters.any_of(*map(written, condition.parts))
    if isinstance(condition, Not):
        return filters.negate(written(condition.part))
    if isinstance(condition, OneOf):
        return filters.one_of(condition.field, *condition.values)
    if isinstance(condition, Exists):
        return filters.exists(condition.field, there=condition.there)
    if isinstance(condition, StartsWith):
        return filters.prefix(condition.field, condition.beginning)
    bounds: dict[str, Any] = {
        name: getattr(condition.bounds, name)
        for name in ("gt", "gte", "lt", "lte")
        if getattr(condition.bounds, name) is not None
    }
    if isinstance(condition, InstantIn):
        bounds = {name: as_text(bound) for name, bound in bounds.items()}
    return filters.between(condition.field, **bounds)


def as_text(instant_us: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=instant_us)).isoformat()


@given(CONDITIONS)
@settings(max_examples=100)
def test_what_a_client_writes_is_what_the_server_reads(condition: Condition) -> None:
    assert read_filter("filter", written(condition)) == condition


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "filter: is empty"),
        ("all_of {}", "filter.all_of.filters: has 0; 1 to 64"),
        ("any_of { filters {} }", "filter.any_of.filters[0]: is empty"),
        ("all_of {" + "filters { not {} }" * 65 + "}", "filter.all_of.filters: has 65; 1 to 64"),
        ("not { not {} }", "filter.not.not: is empty"),
        ("field { field: 'a' }", "filter.field: has no test"),
        ("field { exists: true }", "filter.field.field: has 0 bytes; 1 to 128"),
        ("field { field: 'a..b' exists: true }", "has an empty part"),
        ("field { field: 'a\"b' exists: true }", "filter.field.field: holds a quote"),
        ("field { field: 'a\\\\b' exists: true }", "filter.field.field: holds a quote"),
        ("field { field: 'a\\nb' exists: true }", "holds a quote, a backslash or a control"),
        ("field { field: 'a' equals_json: 'red' }", "equals_json: is not valid JSON"),
        ("field { field: 'a' equals_json: '' }", "equals_json: is not valid JSON"),
        ("field { field: 'a' equals_json: 'NaN' }", "equals_json: is not valid JSON"),
        ("field { field: 'a' equals_json: '1e999' }", "equals_json: is too large"),
        ("field { field: 'a' equals_json: '1" + "0" * 400 + "' }", "equals_json: is too large"),
        ("field { field: 'a' equals_json: '[1]' }", "equals_json: is no JSON scalar"),
        ("field { field: 'a' equals_json: '\"\\\\ud800\"' }", "holds a lone surrogate"),
        ("field { field: 'a' one_of {} }", "one_of.values_json: has 0; 1 to 1024"),
        ("field { field: 'a' one_of { values_json: '{' } }", "values_json[0]: is not"),
        ("field { field: 'a' range {} }", "filter.field.range: has no bound"),
        ("field { field: 'a' range { gt: 'x' } }", "range.gt: 'x' is neither a JSON number nor"),
        ("field { field: 'a' range { gt: 'true' } }", "range.gt: 'true' is neither"),
        ("field { field: 'a' range { gt: '2024-02-30' } }", "range.gt: '2024-02-30' is neither"),
        ("field { field: 'a' range { gt: '1e999' } }", "range.gt: is too large"),
        ("field { field: 'a' range { gt: '1' lt: '2024-01-01' } }", "must be of one kind"),
        ("field { field: 'a' prefix: '' }", "prefix: has 0 bytes; 1 to 1024"),
        ("field { field: 'a' prefix: '" + "x" * 1025 + "' }", "prefix: has 1025 bytes"),
    ],
)  # fmt: skip
def test_a_filter_that_is_wrong_is_refused_by_name(text: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read_filter("filter", parsed(text))
    assert problem in str(raised.value)


def test_depth_and_number_are_bounded() -> None:
    condition = filters.exists("a")
    for _ in range(MAX_DEPTH - 1):
        condition = filters.negate(condition)
    read_filter("filter", condition)
    with pytest.raises(InvalidArgument, match=f"nested deeper than {MAX_DEPTH} levels"):
        read_filter("filter", filters.negate(condition))
    wide = filters.any_of(*[filters.any_of(*[filters.exists("a")] * 50)] * 5)
    read_filter("filter", wide)
    with pytest.raises(InvalidArgument, match=f"{MAX_CONDITIONS} are allowed"):
        read_filter("filter", filters.any_of(wide, wide))
    many = filters.any_of(*[filters.one_of("a", *range(1024))] * 4)
    read_filter("filter", many)
    with pytest.raises(InvalidArgument, match="4096 are allowed"):
        read_filter("filter", filters.any_of(many, filters.equals("a", 1)))


def test_search_options_are_read_as_the_client_writes_them() -> None:
    plain = read_search_options(options_to_proto({}))
    assert (plain.k, plain.mode, plain.condition, plain.with_payload) == (
        10,
        Mode.DENSE,
        None,
        True,
    )
    full = read_search_options(
        options_to_proto(
            {
                "k": 3,
                "mode": "hybrid",
                "where": filters.exists("a"),
                "min_score": 0.5,
                "group_by": "doc",
                "fusion": ClientWeights(0.5, 2),
                "exact": True,
                "include_payload": False,
                "explain": True,
            }
        )
    )
    assert (full.mode, full.condition) == (Mode.HYBRID, Exists(field="a", there=True))
    assert (full.group_by, full.fusion) == ("doc", WeightedSum(0.5, 2))
    assert (full.min_score, full.exact, full.with_payload, full.explain) == (0.5, True, False, True)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mode: 9", "options.mode: 9 is not"),
        ("fusion { reciprocal_rank {} }", "options.fusion: goes only with SEARCH_MODE_HYBRID"),
        (
            "mode: SEARCH_MODE_HYBRID fusion { reciprocal_rank { rank_constant: 1001 } }",
            "rank_constant: is 1001; the limit is 1000",
        ),
        (
            "mode: SEARCH_MODE_HYBRID fusion { weighted_sum { dense_weight: -1 } }",
            "options.fusion.weighted_sum.dense_weight: is -1.0; 0 to 1000",
        ),
        (
            "mode: SEARCH_MODE_HYBRID fusion { reciprocal_rank { lexical_weight: 1001 } }",
            "options.fusion.reciprocal_rank.lexical_weight: is 1001.0; 0 to 1000",
        ),
        (
            "mode: SEARCH_MODE_HYBRID fusion { reciprocal_rank { dense_weight: 0 "
            "lexical_weight: 0 } }",
            "options.fusion.reciprocal_rank: has no weight above 0",
        ),
        (
            "mode: SEARCH_MODE_HYBRID fusion { weighted_sum { lexical_weight: nan } }",
            "lexical_weight: is nan; 0 to 1000",
        ),
        ("mode: SEARCH_MODE_HYBRID fusion { weighted_sum {} }", "has no weight above 0"),
    ],
)
def test_options_that_are_wrong_are_refused_by_name(text: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read_search_options(text_format.Parse(text, search_pb2.SearchOptions()))
    assert problem in str(raised.value)


@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,9}(\.[a-z]{1,9})?", fullmatch=True),
                    st.sampled_from(FieldType), max_size=8),
    st.sampled_from([("words", "none"), ("words", "porter"), ("trigram", "none")]),
)  # fmt: skip
def test_a_declaration_comes_back_as_it_was_made(
    types: dict[str, FieldType], analysis: tuple[Any, Any]
) -> None:
    has_text = FieldType.TEXT in types.values()
    tokeniser, stemming = analysis if has_text else UNSET
    declared = Fields(
        types={name: kind.value for name, kind in types.items()},
        tokeniser=tokeniser,
        stemming=stemming,
    )
    request = collection_pb2.CreateCollectionRequest()
    declarations.declare(request, declared)
    spec = CollectionSpec(
        name="c",
        model=ModelRef(name="m", version="1", digest="0f"),
        dim=1,
        created_unix_ms=0,
        fields=read_fields(request.fields),
        text_analysis=read_text_analysis(request),
    )
    assert spec.fields == tuple(FieldSpec(name=name, type=kind) for name, kind in types.items())
    assert (spec.text_analysis.tokeniser is Tokeniser.TRIGRAM) == (tokeniser == "trigram")
    described = collection_pb2.Collection()
    write_declaration(spec, described)
    assert declarations.from_proto(described) == declared


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("fields { name: 'a' }", "fields[0].type: 0 is not a type of field"),
        ("fields { type: FIELD_TYPE_TEXT }", "fields[0].name: has 0 bytes"),
        (
            "fields { name: 'a' type: FIELD_TYPE_TEXT } fields { name: 'a' type: FIELD_TYPE_TEXT }",
            "fields[1].name: 'a' comes twice",
        ),
        (
            "".join(f"fields {{ name: 'f{n}' type: FIELD_TYPE_TEXT }}" for n in range(65)),
            "fields: are too many; 64 are allowed",
        ),
        ("text_analysis {}", "text_analysis: goes only with a field of type TEXT"),
        ("text_analysis { tokeniser: 7 }", "text_analysis.tokeniser: 7 is not"),
        ("text_analysis { stemming: 7 }", "text_analysis.stemming: 7 is not"),
        (
            "fields { name: 'a' type: FIELD_TYPE_TEXT } "
            "text_analysis { tokeniser: TOKENISER_TRIGRAM stemming: STEMMING_PORTER }",
            "text_analysis.stemming: PORTER goes only with TOKENISER_WORDS",
        ),
    ],
)
def test_a_declaration_that_is_wrong_is_refused_by_name(text: str, problem: str) -> None:
    request = text_format.Parse(text, collection_pb2.CreateCollectionRequest())
    with pytest.raises(InvalidArgument) as raised:
        _ = read_fields(request.fields), read_text_analysis(request)
    assert problem in str(raised.value)
