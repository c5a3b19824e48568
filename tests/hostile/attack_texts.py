"""Texts that take long to cut into tokens, and runs that cannot be planned."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import grpc

from tests.e2e.stubs import texts
from tests.hostile.target import Target, outcomes
from vecserve.v1 import embedding_pb2

MB = 1_000_000
Code = grpc.StatusCode


def huge(target: Target) -> None:
    """Calls full of texts of a megabyte, words and single letters, that expire or are cancelled."""
    words = ("hello world " * (MB // 12), "x y " * (MB // 4), "東京" * (MB // 6), "a" * MB)
    request = embedding_pb2.EmbedRequest(inputs=texts(*(words * 7)))
    with target.stubs() as stubs:
        calls = [stubs.embedding.Embed.future(request, timeout=8.0) for _ in range(4)]
        time.sleep(2)
        calls[0].cancel()
        assert set(outcomes(calls)) <= {
            Code.DEADLINE_EXCEEDED,
            Code.CANCELLED,
            Code.RESOURCE_EXHAUSTED,
        }


def middling(target: Target) -> None:
    """Texts that are too long to be short and too short to be long, a thousand at a time."""
    request = embedding_pb2.EmbedRequest(inputs=texts(*(["words and words " * 1500] * 1000)))
    with target.stubs() as stubs:
        calls = [stubs.embedding.Embed.future(request, timeout=8.0) for _ in range(4)]
        outcomes(calls)


def short_limit(target: Target) -> None:
    """A model that takes 32 tokens: one call of 60 short texts, then single ones of 400 callers."""
    with target.stubs() as stubs:
        embed = stubs.embedding.Embed
        many = embedding_pb2.EmbedRequest(
            model="short", inputs=texts(*(f"text {number}" for number in range(60)))
        )
        assert len(embed(many, timeout=30.0).items) == 60
        single = [
            embedding_pb2.EmbedRequest(model="short", inputs=texts(f"one {number}"))
            for number in range(400)
        ]
        with ThreadPoolExecutor(40) as pool:
            calls = list(pool.map(lambda request: embed.future(request, timeout=30.0), single))
            codes = outcomes(calls)
        assert set(codes) <= {Code.OK, Code.RESOURCE_EXHAUSTED}
        assert embed(single[0], timeout=30.0).items
