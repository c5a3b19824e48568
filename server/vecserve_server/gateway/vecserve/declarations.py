"""What a collection's declaration looks like on the wire.

Owns the reading and writing of declared fields and of text analysis. Must not know indexes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vecserve.v1 import collection_pb2
from vecserve_server.domain.collections import (
    CollectionSpec,
    FieldSpec,
    FieldType,
    TextAnalysis,
    Tokeniser,
)
from vecserve_server.domain.validation import check_field_name
from vecserve_server.errors import InvalidArgument
from vecserve_server.services.declaring import NewCollection

MAX_FIELDS = 64
FIELD_TYPES: Mapping[int, FieldType] = {
    collection_pb2.FIELD_TYPE_KEYWORD: FieldType.KEYWORD,
    collection_pb2.FIELD_TYPE_TEXT: FieldType.TEXT,
    collection_pb2.FIELD_TYPE_INTEGER: FieldType.INTEGER,
    collection_pb2.FIELD_TYPE_NUMBER: FieldType.NUMBER,
    collection_pb2.FIELD_TYPE_BOOLEAN: FieldType.BOOLEAN,
    collection_pb2.FIELD_TYPE_DATETIME: FieldType.DATETIME,
}
FIELD_NUMBERS = {kind: number for number, kind in FIELD_TYPES.items()}
TOKENISERS: Mapping[int, Tokeniser] = {
    collection_pb2.TOKENISER_UNSPECIFIED: Tokeniser.WORDS,
    collection_pb2.TOKENISER_WORDS: Tokeniser.WORDS,
    collection_pb2.TOKENISER_TRIGRAM: Tokeniser.TRIGRAM,
}
STEMMINGS: Mapping[int, bool] = {
    collection_pb2.STEMMING_UNSPECIFIED: False,
    collection_pb2.STEMMING_NONE: False,
    collection_pb2.STEMMING_PORTER: True,
}


def read_declaration(request: collection_pb2.CreateCollectionRequest) -> NewCollection:
    """Read what a new collection is to be; raise InvalidArgument that names what is wrong."""
    return NewCollection(
        name=request.name,
        model=request.model,
        dim=request.dim,
        fields=read_fields(request.fields),
        text_analysis=read_text_analysis(request),
        keep_text=not request.discard_text,
    )


def read_fields(messages: Iterable[collection_pb2.FieldSchema]) -> tuple[FieldSpec, ...]:
    """Read declared fields; raise InvalidArgument that names the one that is wrong."""
    fields: dict[str, FieldSpec] = {}
    for index, message in enumerate(messages):
        if index == MAX_FIELDS:
            raise InvalidArgument("fields", f"are too many; {MAX_FIELDS} are allowed")
        name = check_field_name(("fields", index, "name"), message.name)
        if name in fields:
            raise InvalidArgument(("fields", index, "name"), f"{name!r} comes twice")
        if message.type not in FIELD_TYPES:
            raise InvalidArgument(
                ("fields", index, "type"), f"{message.type} is not a type of field"
            )
        fields[name] = FieldSpec(name=name, type=FIELD_TYPES[message.type])
    return tuple(fields.values())


def read_text_analysis(request: collection_pb2.CreateCollectionRequest) -> TextAnalysis:
    """Read how text fields are searched."""
    message = request.text_analysis
    if message.tokeniser not in TOKENISERS:
        raise InvalidArgument(
            ("text_analysis", "tokeniser"), f"{message.tokeniser} is not a Tokeniser"
        )
    if message.stemming not in STEMMINGS:
        raise InvalidArgument(
            ("text_analysis", "stemming"), f"{message.stemming} is not a Stemming"
        )
    if request.HasField("text_analysis") and not any(
        field.type == collection_pb2.FIELD_TYPE_TEXT for field in request.fields
    ):
        raise InvalidArgument("text_analysis", "goes only with a field of type TEXT")
    analysis = TextAnalysis(
        tokeniser=TOKENISERS[message.tokeniser], porter=STEMMINGS[message.stemming]
    )
    if analysis.porter and analysis.tokeniser is not Tokeniser.WORDS:
        raise InvalidArgument(
            ("text_analysis", "stemming"), "PORTER goes only with TOKENISER_WORDS"
        )
    return analysis


def write_declaration(spec: CollectionSpec, message: collection_pb2.Collection) -> None:
    """Write what the collection declares into its description."""
    for field in spec.fields:
        message.fields.add(name=field.name, type=FIELD_NUMBERS[field.type])
    if not spec.has_text_fields:
        return
    is_trigram = spec.text_analysis.tokeniser is Tokeniser.TRIGRAM
    message.text_analysis.tokeniser = (
        collection_pb2.TOKENISER_TRIGRAM if is_trigram else collection_pb2.TOKENISER_WORDS
    )
    message.text_analysis.stemming = (
        collection_pb2.STEMMING_PORTER
        if spec.text_analysis.porter
        else collection_pb2.STEMMING_NONE
    )
