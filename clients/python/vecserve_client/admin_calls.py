"""What each administrative method of the client asks for, and how it reads the answer.

Owns the requests about aliases and the life of collections, shared by both clients. Must not know
channels, time or retries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from vecserve.v1 import collection_pb2
from vecserve_client.calls import Call
from vecserve_client.retry import IDEMPOTENT
from vecserve_client.types import Alias

T = TypeVar("T")


def set_alias(name: str, collection: str) -> Call[str | None]:
    """Make or move an alias; the collection that it pointed at before."""
    return _call(
        "CollectionService/SetAlias",
        collection_pb2.SetAliasRequest(
            alias=collection_pb2.Alias(name=name, collection=collection)
        ),
        collection_pb2.SetAliasResponse,
        lambda reply: reply.previous_collection or None,
    )


def list_aliases_page(*, page_token: str) -> Call[tuple[list[Alias], str]]:
    """List one page of aliases, and the token of the next page ("" on the last)."""
    return _call(
        "CollectionService/ListAliases",
        collection_pb2.ListAliasesRequest(page_size=1000, page_token=page_token),
        collection_pb2.ListAliasesResponse,
        lambda reply: (
            [Alias(name=alias.name, collection=alias.collection) for alias in reply.aliases],
            reply.next_page_token,
        ),
    )


def delete_alias(name: str) -> Call[None]:
    """Remove an alias."""
    return _call(
        "CollectionService/DeleteAlias",
        collection_pb2.DeleteAliasRequest(name=name),
        collection_pb2.DeleteAliasResponse,
        lambda _: None,
    )


def _call(
    path: str, request: Message, reply_type: type[Message], read: Callable[[Any], T]
) -> Call[T]:
    return Call(
        path=f"/vecserve.v1.{path}",
        request=request,
        reply_type=reply_type,
        read=read,
        idempotent=path.rpartition("/")[2] in IDEMPOTENT,
    )
