"""Declared payload fields, to and from the messages of `vecserve.v1`.

Owns their names on the wire. Must not know calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from vecserve.v1 import collection_pb2
from vecserve_client.errors import InvalidArgument
from vecserve_client.types import Fields, FieldType, Stemming, Tokeniser

FIELD_TYPES: Final[Mapping[FieldType, collection_pb2.FieldType.ValueType]] = MappingProxyType(
    {
        "keyword": collection_pb2.FIELD_TYPE_KEYWORD,
        "text": collection_pb2.FIELD_TYPE_TEXT,
        "integer": collection_pb2.FIELD_TYPE_INTEGER,
        "number": collection_pb2.FIELD_TYPE_NUMBER,
        "boolean": collection_pb2.FIELD_TYPE_BOOLEAN,
        "datetime": collection_pb2.FIELD_TYPE_DATETIME,
    }
)
TOKENISERS: Final[Mapping[Tokeniser, collection_pb2.Tokeniser.ValueType]] = MappingProxyType(
    {
        "words": collection_pb2.TOKENISER_WORDS,
        "trigram": collection_pb2.TOKENISER_TRIGRAM,
    }
)
STEMMINGS: Final[Mapping[Stemming, collection_pb2.Stemming.ValueType]] = MappingProxyType(
    {"none": collection_pb2.STEMMING_NONE, "porter": collection_pb2.STEMMING_PORTER}
)


def declare(request: collection_pb2.CreateCollectionRequest, fields: Fields) -> None:
    """Write declared fields into a request; raise InvalidArgument for an unknown type."""
    for name, kind in fields.types.items():
        if kind not in FIELD_TYPES:
            known = ", ".join(FIELD_TYPES)
            raise InvalidArgument(f"fields: {name!r} has the type {kind!r}, must be one of {known}")
        request.fields.add(name=name, type=FIELD_TYPES[kind])
    if fields.tokeniser not in TOKENISERS:
        raise InvalidArgument(f"tokeniser: {fields.tokeniser!r} is unknown")
    if fields.stemming not in STEMMINGS:
        raise InvalidArgument(f"stemming: {fields.stemming!r} is unknown")
    if "text" in fields.types.values() or (fields.tokeniser, fields.stemming) != ("words", "none"):
        request.text_analysis.tokeniser = TOKENISERS[fields.tokeniser]
        request.text_analysis.stemming = STEMMINGS[fields.stemming]


def from_proto(message: collection_pb2.Collection) -> Fields:
    """Read what a collection declares; fields of a type that this client does not know are not."""
    types = {number: name for name, number in FIELD_TYPES.items()}
    analysis = message.text_analysis
    is_trigram = analysis.tokeniser == collection_pb2.TOKENISER_TRIGRAM
    is_porter = analysis.stemming == collection_pb2.STEMMING_PORTER
    return Fields(
        types={field.name: types[field.type] for field in message.fields if field.type in types},
        tokeniser="trigram" if is_trigram else "words",
        stemming="porter" if is_porter else "none",
    )
