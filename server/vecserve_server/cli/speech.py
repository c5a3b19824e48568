"""What a failure of a call is called on the command line.

Owns the flags in the place of the fields of requests, and the cures that the command line has.
Must not know commands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

FLAGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "options.mode": "--mode",
        "options.prompt_name": "--prompt",
        "embed_options.prompt_name": "--prompt",
        "options.k": "-k",
        "options.min_score": "--min-score",
        "options.group_by": "--group-by",
        "options.filter": "--where",
        "options.fusion": "--lexical-weight",
        "options.with_text": "--no-text",
        "with_text": "--no-text",
        "query.text": "TEXT",
        "query.lexical_text": "TEXT",
        "query": "TEXT",
        "filter": "--where",
        "label_field": "--label-field",
        "min_confidence": "--min-confidence",
        "k": "-k",
        "dim": "--dim",
        "model": "--model",
        "fields": "--field",
        "text_analysis.tokeniser": "--tokeniser",
        "text_analysis.stemming": "--stemming",
        "text_analysis": "--tokeniser, --stemming",
        "ids": "ID",
        "page_size": "--limit",
        "CreateCollection.name": "COLLECTION",
        "GetCollection.name": "COLLECTION",
        "DropCollection.name": "COLLECTION",
        "CreateSnapshot.name": "NAME",
        "RestoreSnapshot.name": "NAME",
        "DeleteSnapshot.name": "NAME",
        "DeleteAlias.name": "ALIAS",
        "alias.name": "ALIAS",
        "alias.collection": "COLLECTION",
    }
)
"""By the names that requests have for them, or those of one call; what stands inside one of them
goes by its name."""

CURES: Final = (
    (
        r"declares no field of type TEXT",
        "search it with --mode dense, or write its rows into a collection that has words: "
        "`vecserve index OTHER FILE --create --field NAME:text`",
    ),
    (r"collection: .* does not exist$", "`vecserve collections list` names those that there are"),
    (
        r"failed to connect to all addresses|errors resolving",
        "`vecserve serve` starts a server, --server HOST:PORT names another",
    ),
    (
        r"vector: has \d+ components; the collection has",
        "`vecserve index --create --dim` makes a collection for vectors of that length",
    ),
    (r"was embedded by model", "`vecserve reindex start COLLECTION` embeds it again"),
)
_FIELD = re.compile(r"((?P<method>\w+): )?(?P<field>[a-z_]+(\.[a-z_]+)*)(\[[^\]]*\][^: ]*)?: ")


def spoken(message: str) -> str:
    """Put flags for fields, and add the cure where there is one on the command line."""
    match = _FIELD.match(message)
    if match is not None and (flag := _flag(match["method"], match["field"])) is not None:
        message = f"{flag}: {message[match.end() :]}"
    cure = next((cure for pattern, cure in CURES if re.search(pattern, message)), None)
    return f"{message}; {cure}" if cure is not None and cure not in message else message


def _flag(method: str | None, field: str) -> str | None:
    """Look up the longest part of a dotted name that has a flag."""
    if flag := FLAGS.get(f"{method}.{field}"):
        return flag
    parts = field.split(".")
    for length in range(len(parts), 0, -1):
        if flag := FLAGS.get(".".join(parts[:length])):
            return flag
    return None
